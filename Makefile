# Every target does its own set-up first, once: a virtual environment with pinned installs.

# A Python that this project runs on; name another by `make PYTHON=...`.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.10
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach python,$(CANDIDATES),$(shell $(python) -c '$(SUPPORTED)' 2>/dev/null && echo $(python))))

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Two files of tests at once: most of the time, a test waits for a process of its own. Files come in
# the order of tests/conftest.py, and not those with the most tests first, which are the quickest.
TOGETHER := --numprocesses 2 --dist loadfile --no-loadscope-reorder

export FINETUNE_HOME ?= $(CURDIR)/.finetune

.DEFAULT_GOAL := help

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the virtual environment and install everything, pinned.

demo: $(READY) ## Fine-tune the tiny base, compare it with itself and register the result.
	$(BIN)/python -m flows.finetune --config examples/demo.yaml

up: $(READY) ## Start the stack: PostgreSQL, Prefect, MLflow, the API and workers.
	$(BIN)/finetune-cli up

down: $(READY) ## Stop the stack.
	$(BIN)/finetune-cli down

test: $(READY) ## Run the linters and the tests: 20 to 25 minutes on 2 cores.
	$(MAKE) lint
	$(BIN)/python -m pytest $(TOGETHER) -m "not slow"

test-all: $(READY) ## Run the linters and every test, the slow ones too.
	$(MAKE) lint
	$(BIN)/python -m pytest $(TOGETHER)

chaos: $(READY) ## Strike 60 running jobs with one fault each: an hour and more.
	$(BIN)/python -m tests.chaos --runs 60

lint: $(READY) ## Check style, types and who imports whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tiny-base: $(READY) ## Build examples/tiny_base and examples/data anew, from nothing.
	$(BIN)/python examples/make_corpus.py --output $(FINETUNE_HOME)/corpus
	$(BIN)/python examples/make_data.py
	$(BIN)/python examples/train_base.py --corpus $(FINETUNE_HOME)/corpus

clean: ## Remove the virtual environment and everything that demo and tests left.
	rm -rf $(VENV) .finetune .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.10 to 3.13 is needed; name one by make PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: help setup demo up down test test-all chaos lint tiny-base clean
