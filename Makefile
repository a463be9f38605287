# `make run` and `make test` need nothing but this clone: what is missing is installed.
# Another Python than the first on the PATH: make PYTHON=/usr/bin/python3 ...

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEER := build/fuse-peer
NODE_MODULES := tests/programs/node_modules/.package-lock.json
NEWER_LESS := build/newer-less/less
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Whatever the caller's environment says: the tests start jobfs a thousand times, and it is compiled once.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-programs lint format bench soak venv system programs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: venv ## mount the job table, and print where
	@$(BIN)/jobfs mount || $(BIN)/jobfs ps >/dev/null 2>&1 # mounted already is as good

# More at once than cores: most of a test is waiting.
AT_ONCE ?= 6

test: venv ## run every test but the long ones
	@tools/system-packages test
	$(BIN)/pytest -n $(AT_ONCE)

test-programs: venv programs ## install the programs that people use on files, and run the tests with them
	JOBFS_REQUIRE_MOUNT=1 JOBFS_REQUIRE_PROGRAMS=1 $(BIN)/pytest -n $(AT_ONCE) tests/programs

lint: venv ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy jobfs mount tests examples

format: venv ## put the code into the one form that lint accepts
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: venv $(PEER) ## measure, beside the same in C
	tests/bench/run $(BIN) $(PEER)

SOAK_SECONDS ?= 3600

# How often what is done: variables, which docs/reliability.md names.
soak: venv ## run the tests that take hours, and print figures
	$(BIN)/python tests/soak/overtaken.py --seconds $(SOAK_SECONDS)
	$(BIN)/pytest --timeout 0 --override-ini 'python_files=soak_*.py' tests/soak

venv: system ## make .venv, with the command .venv/bin/jobfs

# Looked at each time, because a kept .venv may meet a new machine.
system: $(STAMP)
	@tools/system-packages run

# An existing .venv is brought up to date in place: a daemon may be running from it.
$(STAMP): pyproject.toml requirements-build.lock requirements.lock
	@tools/system-packages build $(PYTHON)
	@echo "Making .venv: a minute or two, the first time"
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --require-hashes --requirement requirements-build.lock
	@$(PIP_INSTALL) --require-hashes --no-build-isolation --requirement requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# From Debian, PyPI and npm, and nothing of it outside this clone but what the system's package manager installs.
programs: .venv/.programs $(NODE_MODULES) $(NEWER_LESS)
	@tools/system-packages programs

.venv/.programs: requirements-programs.lock $(STAMP)
	@$(PIP_INSTALL) --require-hashes --requirement requirements-programs.lock
	@touch $@

$(NODE_MODULES): tests/programs/package.json tests/programs/package-lock.json
	@tools/system-packages programs
	@npm ci --silent --prefix tests/programs
	@touch $@

# Where it can't be had the tests say so, which know what they need it for.
$(NEWER_LESS): tools/newer-less
	@tools/system-packages programs
	@tools/newer-less $(@D) || true

$(PEER): tests/bench/peer/peer.c | system
	@mkdir -p $(@D)
	$(CC) -O2 -Wall -Wextra $(CFLAGS) $$(pkg-config --cflags fuse3) -o $@ $< $$(pkg-config --libs fuse3)

# uv reads no pip configuration, and here none of its own: the locks have the public files' hashes and nothing of this
# machine. They are resolved for every Python from 3.11 on.
COMPILE := .venv-lock/bin/uv pip compile --quiet --no-config --no-header --upgrade --universal --python-version 3.11 \
	--generate-hashes

lock: ## take the newest versions of all dependencies into the locks
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check --upgrade uv
	$(COMPILE) --group build --output-file requirements-build.lock
	$(COMPILE) --group test --group check --output-file requirements.lock pyproject.toml
	$(COMPILE) --group programs --constraint requirements.lock --output-file requirements-programs.lock
	npm update --silent --package-lock-only --prefix tests/programs

clean: ## remove what was built, .venv included; mounts and jobs stay
	rm -rf .venv .venv-lock build dist tests/programs/node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
