# `make` lists the targets. Everything lives in .venv; nothing else is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow bench check fix setup-distill clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve  ## Set up and run the service on the embedded student
	$(BIN)/lightmbert serve

test: $(VENV)/.dev  ## Set up and pass the tests (K=word runs a subset)
	$(BIN)/python -m pytest -q $(if $(K),-k "$(K)")

test-slow: $(VENV)/.dev  ## The tests that take minutes
	$(BIN)/python -m pytest -q -m slow

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
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

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
