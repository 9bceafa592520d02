# From a bare clone with Python 3.11 or newer: `make demo`. GNU make 3.81 or newer; nothing is installed outside .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.PHONY: help demo test test-slow e2e real-input lint study benchmarks install install-dev clean
.DEFAULT_GOAL := help

help:  ## print the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /	/' | expand -t 14

demo: install  ## install, run the whole pipeline on the embedded default, print the win-rate table (minutes)
	$(BIN)/srpo run --preset demo

test: install-dev  ## install, then lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: install-dev  ## the proofs that take minutes
	$(BIN)/python -m pytest -m slow

e2e: install-dev  ## the Prefect UI in a headless Chromium, with a real server and worker (minutes; needs Debian's chromium)
	$(BIN)/python -m pytest -m e2e tests/e2e

real-input: install-dev  ## the main job on real data, in the folder that SRPO_TEST_DATA names
	$(BIN)/python -m tests.real_input

lint: install-dev  ## lint and types alone
	$(BIN)/ruff check .
	$(BIN)/mypy

study: install  ## the demo's claim over methods, betas and seeds (an hour and a half on two cores; resumable)
	$(BIN)/python -m benchmarks.study

benchmarks: install-dev  ## speed against plain sequences, TRL and the bound, as ratios (an hour, an idle machine)
	$(PIP) --editable '.[benchmarks]'
	for name in training reference generation; do \
	  $(BIN)/python -m benchmarks.$$name --quick --out build/benchmarks/$$name.json || exit 1; done
	$(BIN)/python -m benchmarks.memory --sides sum chunked --out build/benchmarks/memory.json
	for name in judging coverage promotion ingestion results overhead; do $(BIN)/python -m benchmarks.$$name --json > build/benchmarks/$$name.json || exit 1; done

install: $(VENV)/.installed  ## make .venv with the pinned versions
install-dev: $(VENV)/.installed-dev  ## ... and the tools of the tests

# A stamp is written last, so that an interrupted installation is done again, and a complete one costs nothing.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or newer as $(PYTHON), found `$(PYTHON) --version 2>&1`; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing into $(VENV) (once; minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) -r requirements-dev.lock
	@touch $@

clean:  ## remove .venv and caches; artifacts and results stay
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
