# The doors into the repository. Each target is a short script under scripts/ or a cargo command.
#
#   make run        build and start a server on 127.0.0.1:9000 (ARGS="--data /srv/granary" for flags)
#   make test       unit, property and conformance suites, then real clients against a real server, then clusters under faults
#   make test-all   the same and everything that takes long: upstream SDK suites, 5 GiB bodies, more crashes
#   make soak       the nemesis on clusters of real processes, seed after seed (GRANARY_SOAK_SECONDS, 7200)
#   make lint       formatting, clippy, house rules, dependency policy
#   make bench      Granary beside a bare HTTP server, a raw writer and garage (when installed: GRANARY_BENCH_GARAGE=1 builds it)
#                   GRANARY_BENCH=growth: what things cost with millions of objects; GRANARY_BENCH=crowd: memory for crowds of clients
#
# CARGO_TARGET_DIR, GRANARY_VENV and GRANARY_CLIENTS move the build output, the Python environment and the clients of other
# languages elsewhere.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export GRANARY_VENV ?= $(CURDIR)/.venv
export GRANARY_CLIENTS ?= $(GRANARY_VENV)-clients
GRANARY := $(CARGO_TARGET_DIR)/release/granary
ARGS ?=

.PHONY: help run build test test-all soak lint bench setup-build setup-test setup-bench

help:
	@sed -n 's/^#   //p' Makefile

setup-build:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

setup-bench:
	@scripts/setup.sh bench

build: setup-build
	cargo build --release -p granary-node --bin granary

run: build
	exec env -u GRANARY_VENV -u GRANARY_CLIENTS $(GRANARY) server $(ARGS)

test: setup-test
	@scripts/test.sh

test-all: setup-test
	@GRANARY_TEST_ALL=1 scripts/test.sh

soak: setup-test build
	@cargo build --release --quiet --manifest-path tests/faultfs/Cargo.toml
	@GRANARY_BIN="$${GRANARY_BIN:-$(GRANARY)}" GRANARY_TEST_LOGS="$${GRANARY_TEST_LOGS:-$(CARGO_TARGET_DIR)/soak-logs}" \
	  "$(GRANARY_VENV)/bin/python" scripts/soak.py

lint: setup-build
	@scripts/lint.sh

bench: setup-bench
	@scripts/bench.sh
