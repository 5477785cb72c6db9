# Everything a user starts. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo up down check test test-gpu browser screenshots lock clean

BIN := .venv/bin
ARGS ?=
# The first Python that runs and is 3.11 or 3.12; `make setup PYTHON=...` names another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; \
	done || true)
export TORCH_INDEX PYTHONUNBUFFERED=1

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Options of a program go into ARGS, for example: make demo ARGS="--once --out report"'

setup:  ## make both virtual environments (once, a few minutes; TORCH_INDEX=URL for another build of torch)
	@$(or $(PYTHON),python3) scripts/setup_environment.py

demo: setup  ## run the whole journey with a simulated team
	@$(BIN)/python -m scripts.demo $(ARGS)

up: setup  ## start the same system empty, for a human team
	@$(BIN)/python -m scripts.up $(ARGS)

down:  ## stop what `make demo` or `make up` left running
	@$(BIN)/python -m scripts.down $(ARGS)

check: setup  ## format, lint, types, import contracts, compose and docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_compose.py tests/test_docs.py

test: check  ## check, and all tests: a real Label Studio and a real browser included
	$(BIN)/python -m pytest --ignore=tests/test_compose.py --ignore=tests/test_docs.py $(ARGS)

test-gpu: setup  ## the tests that need an NVIDIA GPU (TORCH_INDEX as for setup)
	TEST_ON_GPU=1 $(BIN)/python -m pytest tests/gpu $(ARGS)

browser:  ## install the system packages that browser tests need: Chromium and a CJK font
	@scripts/install_browser.sh

screenshots: setup  ## take the pictures of docs/images again
	@$(BIN)/python -m scripts.screenshots $(ARGS)

lock: setup  ## write requirements/*.txt again from what is installed
	@$(BIN)/python -m scripts.lock_requirements

clean:  ## remove caches, logs and the demo; a human team's data stays
	@$(BIN)/python -m scripts.down --directory var/demo 2>/dev/null || true
	rm -rf var/demo var/log build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
