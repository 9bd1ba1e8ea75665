# Each target sets up what it needs, given Python and make. `make` alone lists them.

PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
                   $$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done),python3)
SUITABLE = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# What `make demo` trains: LunarLander wherever its physics, Box2D, has a wheel, which is not on Linux on ARM.
DEMO ?= ppo $$(.venv/bin/python -c 'import Box2D' 2>/dev/null && echo LunarLander-v3 || echo CartPole-v1) \
            --steps 1000000 --video
ARGS ?=

# Compiling keeps one core busy, so two files of tests go side by side, in the order of the tree.
SIDE = --numprocesses=2 --dist=loadfile --no-loadscope-reorder
COVERED = -m slipcover --json --out .coverage.json -m pytest --reference $(SIDE)
# Tests are compiled to bytecode once, even where Python is told to keep none: that is half of what collecting them takes.
TESTS = exec env JAX_PLATFORMS=cpu PYTHONDONTWRITEBYTECODE= .venv/bin/python
# One process from first to last: what Python counts as its CPU time holds that of lint and types.
LINT = .venv/bin/ruff check && .venv/bin/ruff format --check --quiet src tests benchmarks tools examples && .venv/bin/mypy
PYTEST = $(LINT) && $(TESTS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo check test test-system lint index benchmark benchmark-planning benchmark-learning lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' Makefile

demo: .venv/.package  ## Train PPO to land on the moon, with curves and a video
	@.venv/bin/etude train $(DEMO)

check: .venv/.dev .venv/.package  ## Lint, types and the quick tests: what to run all day
	@$(PYTEST) -m pytest -m "not slow and not system" $(or $(ARGS),$(SIDE))

test: .venv/.dev .venv/.package  ## Lint, types, tests and coverage; ARGS="-k replay" for some tests alone
	@$(PYTEST) $(if $(ARGS),-m pytest,$(COVERED)) -m "not system" $(ARGS)

test-system: .venv/.dev .venv/.package  ## The tests that need a screen, many processes, or kills and full disks by the dozen
	@$(TESTS) -m pytest -m system $(ARGS)

lint: .venv/.dev .venv/.package  ## Lint, format and types alone
	@$(LINT)

index: .venv/.package  ## Generate the list of algorithms and the page of hyperparameters anew
	@JAX_PLATFORMS=cpu .venv/bin/python tools/generate_index.py

benchmark: .venv/.dev .venv/.package .venv-peers/.torch  ## Steps per second, against other libraries
	@.venv/bin/python benchmarks/run.py $(ARGS)

benchmark-planning: .venv/.dev .venv/.package .venv-peers/.torch  ## Quality and speed of planners
	@.venv/bin/python benchmarks/planning.py $(ARGS)

benchmark-learning: .venv/.dev .venv/.package  ## Returns over several seeds: goes on from results/, seed by seed
	@.venv/bin/python benchmarks/learning.py $(ARGS)

lock: .venv-lock/.uv  ## Compile the requirements anew; UPGRADE=1 takes the newest versions
	@$(LOCK) pyproject.toml --group build --extra box2d --extra envpool --extra mujoco --extra dm-control --extra data --extra parquet --group dev -o requirements-dev.txt
	@$(LOCK) pyproject.toml --group build --extra box2d -c requirements-dev.txt -o requirements.txt
	@$(LOCK) benchmarks/requirements.in --override benchmarks/overrides.txt -c requirements.txt \
	    -o benchmarks/requirements.txt

clean:  ## Remove everything but the sources and runs/
	@rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage.json
	@find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true


# One set of versions for every Python and platform, with the hashes of all their files.
LOCK = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
           --generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# The locks are complete, so pip has nothing to resolve.
PIP = $(@D)/bin/python -m pip --disable-pip-version-check install -qq
LOCKED = $(PIP) --no-deps --require-hashes --requirement

# Stamp files: a second call is instant, and a lock that changed is installed over what is there.
.venv/.python .venv-peers/.python .venv-lock/.python:
	@$(PYTHON) -c '$(SUITABLE)' 2>/dev/null || { echo "etude needs Python 3.11, 3.12 or 3.13; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo missing). Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Creating $(@D) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@

.venv/.base: requirements.txt .venv/.python
	@echo "Installing requirements.txt into .venv (a minute or so the first time)"
	@$(LOCKED) requirements.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.python
	@echo "Installing requirements-dev.txt into .venv (a few minutes the first time)"
	@$(LOCKED) requirements-dev.txt
	@touch $@ .venv/.base       # the longer lock holds the shorter one

.venv/.package: pyproject.toml .venv/.python | .venv/.base
	@echo "Installing etude itself"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-peers/.locked: benchmarks/requirements.txt .venv-peers/.python
	@echo "Installing the libraries to compare with into .venv-peers (a few minutes the first time)"
	@$(LOCKED) benchmarks/requirements.txt
	@touch $@

.venv-peers/.torch: benchmarks/torch.txt .venv-peers/.locked
	@$(PIP) --requirement benchmarks/torch.txt
	@touch $@

.venv-lock/.uv: .venv-lock/.python
	@$(PIP) uv==0.13.9
	@touch $@
