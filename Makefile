# `make` lists the targets. Everything lives in .venv, and the clients of the tests in .clients.
PYTHON ?= python3.11
VENV := .venv
CLIENTS := .clients
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow conformance bench check fix setup-distill clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve  ## Set up and run the service on the embedded student
	$(BIN)/lightmbert serve

test: $(VENV)/.dev $(CLIENTS)/.complete  ## Set up and pass the tests (K=word runs a subset)
	$(BIN)/python -m pytest -q $(if $(K),-k "$(K)")
	$(if $(K),,$(CLIENTS)/bin/python -m pytest -q tests/conformance)

test-slow: $(VENV)/.dev $(CLIENTS)/.complete  ## The tests that take minutes
	$(BIN)/python -m pytest -q -m slow
	$(CLIENTS)/bin/python -m pytest -q tests/conformance -m slow

conformance: $(VENV)/.dev $(CLIENTS)/.complete  ## Only what other projects' clients make of us
	$(CLIENTS)/bin/python -m pytest -q tests/conformance

bench: $(VENV)/.dev  ## Measure the service beside its peers, 15 minutes (ARGS=--quick for two)
	$(BIN)/python -m tests.bench.run $(ARGS)

check: $(VENV)/.dev  ## Format, lint, types, import boundaries
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.dev  ## Format and autofix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup-distill: $(VENV)/.dev  ## Set up training (torch) without running anything

clean:  ## Remove the virtual environments and caches
	rm -rf $(VENV) $(CLIENTS) .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	@# pip builds in isolation; the environment's own setuptools only takes room
	$(BIN)/pip uninstall --quiet --yes setuptools

$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[cpu]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[cpu,parquet,distill,dev]"
	@touch $@ $(VENV)/.serve

# The clients want other versions than training does, so they live apart.
$(CLIENTS)/.complete: tests/conformance/clients.txt
	rm -rf $(CLIENTS)
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@
