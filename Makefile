# The usual commands, in an environment of their own. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help build test lint format bench results clean
PYTHON ?= python3
BIN := .venv/bin

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

.venv/made: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -e ".[test,dev]"
	@touch $@

build: .venv/made ## compile csrc/ into the package again
	$(BIN)/pip install --no-deps -e .

test: .venv/made ## run the tests
	$(BIN)/python -m pytest

lint: .venv/made ## what must be clean before a change goes in
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.[ch]

format: .venv/made ## bring Python and C into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.[ch]

bench: .venv/made ## run the benchmarks; nothing else should run meanwhile
	$(BIN)/python -m pytest benchmarks --benchmark-only

results: .venv/made ## measure what the README shows; an hour with nothing else running
	$(BIN)/fastrnn bench layers --targets benchmarks/targets.json --out benchmarks/results/layers
	for part in steps latency memory options types instruction_sets threads scaling; do \
		$(BIN)/fastrnn bench $$part --out benchmarks/results/$$part || exit 1; done
	$(BIN)/fastrnn bench startup --backend c --backend numba --out benchmarks/results/startup
	$(BIN)/python benchmarks/readme.py

clean: ## remove what was built, the environment included
	rm -rf .venv build dist *.egg-info fastrnn/_kernels.* .*_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
