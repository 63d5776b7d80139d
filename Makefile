PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test chaos bench gpu-check check format docs site clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

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

quickstart: $(VENV)/runtime ## Compress the tiny models that come with the package; tables and figures
	$(BIN)/ssmbench run grids/quickstart.yaml
	$(BIN)/ssmbench report runs/quickstart --table compression
	$(BIN)/ssmbench report runs/quickstart --format html

test: $(VENV)/dev ## Run all tests
	$(BIN)/python -m pytest

MINUTES ?= 30
chaos: $(VENV)/dev ## Disturb runs for MINUTES=30 in every way; the table goes to docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
		--write docs/reliability.md

bench: $(VENV)/dev ## Measure docs/performance.md's table; DATA=DIR for the tasks, QUICK=1 for a trial
	$(BIN)/python benchmarks/bench.py $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

gpu-check: ## On a GPU: hold every backend to its twin, time everything, in under ten minutes
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py --out benchmarks/results/gpu

check: $(VENV)/dev ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## Format and mend what a machine can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev ## Write the generated pages of docs/ anew; RUN=FOLDER takes the zoo's numbers from it
	$(BIN)/python docs/generate.py $(if $(RUN),--zoo $(RUN))

site: $(VENV)/dev ## Build the documentation site into build/site; it needs no network
	$(BIN)/python docs/generate.py --site build

clean: ## Remove .venv and what the tools left; runs/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
