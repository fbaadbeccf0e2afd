# `make` lists the targets. Everything lives in .venv, and the clients of the tests in .clients.
PYTHON ?= python3.11
VENV := .venv
CLIENTS := .clients
BIN := $(VENV)/bin
DISTILL := $(BIN)/lightmbert distill
RECIPES := distill/recipes
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow conformance bench check fix setup-distill student student-settings student-variants clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

student: student-settings runs/mini-6-ship/.complete  ## Make lightmbert-mini anew, in hours (see distill/README.md)

student-settings:
	@test -n "$(DATA)" -a -n "$(MINILM)" -a -n "$(PHRASES)" || \
		{ echo "say DATA=... MINILM=... PHRASES=..., see distill/README.md"; exit 2; }

student-variants: student-settings runs/mini-7-variants/.complete  ## All its variants, from what student left

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

# The road to lightmbert-mini, step by step; where it was left it goes on.
runs/mini-1-tokenizer/tokenizer.json: | $(VENV)/.dev
	$(DISTILL) tokenizer $(RECIPES)/mini-1-tokenizer.toml

runs/mini-2-align/encoder/model.safetensors: runs/mini-1-tokenizer/tokenizer.json
	$(DISTILL) align $(RECIPES)/mini-2-align.toml

runs/mini-3-teacher/encoder/model.safetensors: runs/mini-2-align/encoder/model.safetensors
	$(DISTILL) train $(RECIPES)/mini-3-teacher.toml

runs/mini-4-student/encoder/model.safetensors: runs/mini-3-teacher/encoder/model.safetensors
	$(DISTILL) train $(RECIPES)/mini-4-student.toml

runs/mini-5-settle/encoder/model.safetensors: runs/mini-4-student/encoder/model.safetensors
	$(DISTILL) train $(RECIPES)/mini-5-settle.toml

# Verbs that write several files, some of them early, leave a mark when all are there.
runs/mini-5-settle/.heads: runs/mini-5-settle/encoder/model.safetensors
	$(DISTILL) finetune $(RECIPES)/mini-5-settle.toml
	@touch $@

runs/mini-6-ship/.complete: runs/mini-5-settle/.heads
	$(DISTILL) export $(RECIPES)/mini-6-ship.toml
	$(DISTILL) quantize $(RECIPES)/mini-6-ship.toml
	$(DISTILL) evaluate $(RECIPES)/mini-6-ship.toml
	@touch $@

runs/mini-7-variants/.complete: runs/mini-5-settle/.heads
	$(DISTILL) export $(RECIPES)/mini-7-variants.toml
	$(DISTILL) quantize $(RECIPES)/mini-7-variants.toml
	$(DISTILL) evaluate $(RECIPES)/mini-7-variants.toml
	@touch $@
