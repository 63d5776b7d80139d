PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test chaos check format docs clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: name a newer one with PYTHON=python3.12"; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev: $(VENV)/runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/dev ## Install everything into .venv, with the versions of constraints.txt

quickstart: $(VENV)/runtime ## Compress the tiny models that come with the package; print the tables
	$(BIN)/ssmbench run grids/quickstart.yaml
	$(BIN)/ssmbench report runs/quickstart

test: $(VENV)/dev ## Run all tests
	$(BIN)/python -m pytest

MINUTES ?= 30
chaos: $(VENV)/dev ## Disturb runs for MINUTES=30 in every way; the table goes to docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
		--write docs/reliability.md

check: $(VENV)/dev ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## Format and mend what a machine can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev ## Write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py

clean: ## Remove .venv and what the tools left; runs/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
