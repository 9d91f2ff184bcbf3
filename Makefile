# Every command of a working day. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
FLEET := .venv/.fleet

# Until `teei init` writes a .env, everything runs in the sandbox's home; a variable that is set wins.
ifeq ($(wildcard .env),)
export TEEI_HOME ?= $(CURDIR)/.teei/sandbox
export DAGSTER_HOME ?= $(TEEI_HOME)/dagster
endif
# Nothing here calls home.
export DAGSTER_DISABLE_TELEMETRY := yes

.PHONY: help setup demo dev test test-all test-machine lint format bench simulation privacy canary chaos kill mutation lock docs sbom licenses audit clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv from the lock file

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# What the tests marked `fleet` start weighs more than all the rest, so whoever does not run them does not wait for it.
$(FLEET): $(STAMP) requirements-fleet.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --requirements requirements-fleet.lock
	@touch $@

demo: setup ## sandbox, three companies, seven days, all 24 assets, then a table
	@$(BIN)/teei demo

dev: setup ## the sandbox and the Dagster UI together; Ctrl-C ends both
	@$(BIN)/teei dev

# xdist would leave the files with the fewest tests for last, and those are the slow ones.
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder

test: setup ## the tests that every change runs
	@$(PYTEST) -n 3 -m 'not long and not fleet and not machine'

test-all: test $(FLEET) ## and the long ones: daemons, databases, engines; what CI runs
	@$(PYTEST) -n 2 -m '(long or fleet) and not machine'

test-machine: setup $(FLEET) ## what wants the machine for itself: full disks, kills, a browser, a misbehaving sandbox
	@$(BIN)/pytest -m machine

lint: setup ## style, types, and the rule that keeps dagster inside defs/
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## speed beside dlt and a bare floor, in one run; writes docs/benchmarks.json
	@$(BIN)/python -m teei_ingest_tests.bench

simulation: setup ## 200 companies and three years of tables and runs; writes docs/simulation.json
	@$(BIN)/python -m teei_ingest_tests.simulation --companies 20 --days 109 --write
	@$(BIN)/python -m teei_ingest_tests.simulation --write

privacy: setup ## attack every privacy promise; writes docs/privacy-proof.json
	@$(BIN)/python -m teei_ingest_tests.proof

canary: setup ## plant thousands of personal values and look for them in every byte that is left
	@$(BIN)/python -m teei_ingest_tests.proof canary

CASES ?= 10000
KILLS ?= 120
SAMPLE ?= 300

chaos: setup ## CASES=10000 small syncs against a sandbox that misbehaves; SEED=… repeats them
	@$(BIN)/python -m teei_ingest_tests.chaos --cases $(CASES) $(if $(SEED),--seed $(SEED))

kill: setup ## KILLS=120 times kill -9 at random moments and at named points, then sync again and compare
	@$(BIN)/python -m teei_ingest_tests.kill --kills $(KILLS) $(if $(SEED),--seed $(SEED))

mutation: setup ## break the product in SAMPLE=300 places, one at a time, and see whether the tests notice
	@$(BIN)/python -m teei_ingest_tests.mutation --sample $(SAMPLE) $(if $(SEED),--seed $(SEED)) $(FOLDERS)

docs: setup ## write the generated pages and schemas anew
	@$(BIN)/python -m teei_ingest.docs

lock: setup ## resolve the newest versions that pyproject.toml allows
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --extra dev -o requirements.lock pyproject.toml
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --extra fleet -c requirements.lock -o requirements-fleet.lock pyproject.toml

sbom: setup ## list what the lock file brings along, in CycloneDX; writes docs/sbom.cdx.json
	@$(BIN)/python -m teei_ingest_tests.supply sbom

licenses: setup ## its licences, and whether all are allowed; writes docs/licenses.md
	@$(BIN)/python -m teei_ingest_tests.supply licenses

audit: setup ## known vulnerabilities of the locked packages, as the package index knows them
	@$(BIN)/python -m teei_ingest_tests.supply audit

clean: ## remove the sandbox's data and caches, not .venv
	@rm -rf .teei/sandbox .pytest_cache .ruff_cache .mypy_cache
