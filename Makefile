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
FUZZ_SECONDS ?= 60
MUTANTS ?= --sample 15
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint ruff mypy luacheck fmt check faults formal fuzz coverage mutants bench flap soak lock wheel image clean

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

faults: $(ENV) ## the fault matrix: real outages, every crash point, the network, the storm (three quarters of an hour)
	$(BIN)/python -m pytest -m faults $(PYTEST)

formal: $(ENV) ## the formal model, both sizes and each of its faults (needs spin and gcc)
	$(BIN)/python -m pytest -m "faults or not faults" tests/formal $(PYTEST)

fuzz: $(ENV) ## hostile frames, bytes and documents (FUZZ_SECONDS each)
	PYSCHEDULER_TEST_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz $(PYTEST)

coverage: $(ENV) ## what the tests reach of lua/ (lines and branches) and of the core
	$(BIN)/python -m pytest -p tools.lua_coverage tests/lua tests/integration --engine embedded \
		--ignore tests/integration/test_rolling_upgrade.py $(PYTEST)
	$(BIN)/python -m pytest tests/unit -p tools.durations --cov --cov-context=test --cov-report= $(PYTEST)
	$(BIN)/coverage report --include='pyscheduler/core/*,pyscheduler/keys.py,pyscheduler/scripts/*' --skip-covered --show-missing --fail-under=99

# After make coverage, which says which tests reach what: make mutants MUTANTS="--sample 40 --seed 2 reconcile"
mutants: $(ENV) ## faults put into lua/ and the core, one by one: which does no test notice?
	$(BIN)/python -m tools.mutate_lua $(MUTANTS)
	$(BIN)/python -m tools.mutate_python $(MUTANTS)

bench: $(ENV) ## what it costs, beside a floor and its peers (BENCH="--quick")
	$(BIN)/python -m benchmarks $(BENCH)

flap: $(ENV) ## the flap test at its full length (FLAP_SECONDS)
	PYSCHEDULER_TEST_FLAP_SECONDS=$(FLAP_SECONDS) $(BIN)/python -m pytest -m flap $(PYTEST)

soak: $(ENV) ## random histories, concurrent clients and hostile input for as long as told (SOAK_SECONDS each)
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
	rm -rf $(VENV) build dist wheelhouse .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-deps: the lock is whole, and where pip does resolve, it looks past the lock for what is named with an extra.
$(ENV): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, and $(PYTHON) is {v.major}.{v.minor}: make PYTHON=/path/to/python")'
	@if command -v uv >/dev/null; then \
		set -ex; \
		test -x $(BIN)/python || uv venv --quiet --seed --python "$$(command -v $(PYTHON))" $(VENV); \
		uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement requirements-dev.lock; \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
		set -ex; \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install -qq --no-deps --require-hashes --requirement requirements-dev.lock; \
		$(BIN)/python -m pip install -qq --no-deps --editable .; \
	fi
	@touch $@
