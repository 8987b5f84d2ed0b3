# SPDX-License-Identifier: GPL-2.0-or-later
# make setup   everything that a machine needs to run guests
# make demo    boots a Debian guest cold, then warm, and compares
# make test    all tests, types, lint, layers
# make bench   the measured comparison, several pairs
# Each target does only what is not done yet.

SHELL := /bin/bash
STEP := python3 scripts/step.py
BIN := .venv/bin
SYSQCACHE := $(BIN)/sysqcache
# ENGINE_FLAGS=--keep-tree makes later builds incremental, for work on the patches
ENGINE_FLAGS ?=
# one worker a processor; tests/workers.py says which files come first
PYTEST_FLAGS ?= -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup packages test-packages engine plain-engine images test-images demo test check bench clean

help:
	@sed -n '2,6s/^# //p' Makefile

packages:
	@scripts/install-packages

test-packages: | packages
	@scripts/install-packages test

# order-only: packages are probed each time, the environment is made anew when its list changes
.stamps/venv: pyproject.toml | packages
	@mkdir -p .stamps
	@test -x $(BIN)/python || $(STEP) --quiet .stamps/venv.log "make the virtual environment" \
	    python3 -m venv .venv
	@$(STEP) --quiet .stamps/pip.log "install the Python packages" \
	    $(BIN)/pip install --disable-pip-version-check -e '.[dev,engine-build,libvirt]'
	@touch $@

engine: .stamps/venv
	@$(SYSQCACHE) engine build $(ENGINE_FLAGS) > /dev/null

plain-engine: .stamps/venv
	@$(SYSQCACHE) engine build --plain

images: engine
	@$(SYSQCACHE) image build tiny-x86_64 debian12-x86_64 debian12-x86_64-other \
	    debian12-x86_64-upgraded > /dev/null

# machines of other architectures: the Debian one takes some minutes of emulated set-up
test-images: images test-packages
	@$(SYSQCACHE) image build tiny-arm64 tiny-riscv64 debian12-arm64 helper-x86_64 > /dev/null

setup: images

demo: setup
	@$(BIN)/python scripts/demo.py

test: setup test-images check
	@$(STEP) "pytest" $(BIN)/pytest $(PYTEST_FLAGS)

check: .stamps/venv
	@$(STEP) "ruff" $(BIN)/ruff check --quiet .
	@$(STEP) "ruff format" $(BIN)/ruff format --quiet --check .
	@$(STEP) "mypy" $(BIN)/mypy
	@$(STEP) --quiet .stamps/layers.log "layers" $(BIN)/lint-imports
	@$(STEP) "dead code" $(BIN)/python scripts/dead.py

bench: setup plain-engine
	@$(BIN)/python -m bench.run

clean:
	rm -rf .venv .stamps build *.egg-info
