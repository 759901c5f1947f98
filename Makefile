.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the tested versions

# torch goes first: on its own it resolves to the build that fits, later packages leave it alone.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lipsync needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY) ## The whole job on a generated corpus: preprocess, train, infer, evaluate (under 10 minutes on 2 cores)
	$(BIN)/python scripts/demo.py

test: $(READY) ## All tests but the slow ones
	$(BIN)/python -m pytest

test-all: $(READY) ## Every test, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(READY) ## ruff, mypy and the layer contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the commands above made
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

.PHONY: help setup demo test test-all lint format clean
