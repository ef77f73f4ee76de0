# Every target makes the environment that it needs: a fresh clone can begin with any of them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENV := $(VENV)/.installed
# make test PYTEST="-k upsert --engine embedded -x"
PYTEST ?=
# Test processes beside each other: one for each core, eight at most. WORKERS=0 runs all in one, for a debugger.
WORKERS ?= auto
# make run SERVE="--port 6010 --state-dir ./state"
SERVE ?=
FLAP_SECONDS ?= 60
SOAK_SECONDS ?= 3600

.DEFAULT_GOAL := help
.PHONY: help run test lint ruff mypy luacheck fmt check flap soak lock wheel image clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(ENV) ## a scheduler with its own embedded server, data in the user's state directory
	$(BIN)/pyscheduler serve $(SERVE)

test: $(ENV) ## every test, on every engine that is to be had here
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal $(PYTEST)

lint: ruff mypy luacheck ## ruff, mypy --strict and, where it is installed, luacheck

ruff: $(ENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: $(ENV)
	$(BIN)/mypy

luacheck:
	@if command -v luacheck >/dev/null; then luacheck --quiet lua; \
	else echo "luacheck is not installed (Debian: lua-check): lua/ was not linted"; fi

fmt: $(ENV) ## put the Python into its one form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

check: lint test ## lint and test

flap: $(ENV) ## the flap test at its full length (FLAP_SECONDS)
	PYSCHEDULER_TEST_FLAP_SECONDS=$(FLAP_SECONDS) $(BIN)/python -m pytest -m flap $(PYTEST)

soak: $(ENV) ## a long run with faults (SOAK_SECONDS)
	PYSCHEDULER_TEST_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -m soak $(PYTEST)

wheel: $(ENV) ## build the wheel into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

image: ## build the container image pyscheduler:local
	docker build --tag pyscheduler:local .

# Universal: for every platform and Python that the package supports. Without the addresses that packages came from.
lock: $(ENV) ## bring requirements*.lock up to date with pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv lock --quiet --upgrade
	$(BIN)/uv export --quiet --frozen --no-header --no-annotate --no-emit-project --output-file requirements.lock
	$(BIN)/uv export --quiet --frozen --no-header --no-annotate --no-emit-project --extra dev --output-file requirements-dev.lock
	rm -f uv.lock

clean: ## remove what was made here, the environment too
	rm -rf $(VENV) build dist wheelhouse .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENV): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, and $(PYTHON) is {v.major}.{v.minor}: make PYTHON=/path/to/python")'
	@if command -v uv >/dev/null; then \
		set -ex; \
		test -x $(BIN)/python || uv venv --quiet --seed --python "$$(command -v $(PYTHON))" $(VENV); \
		uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements-dev.lock; \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
		set -ex; \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install -qq --require-hashes --requirement requirements-dev.lock; \
		$(BIN)/python -m pip install -qq --no-deps --editable .; \
	fi
	@touch $@
