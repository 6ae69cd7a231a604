# `make run` shows Squire at work, `make test` runs everything CI runs. Both set up what is missing.
#
#   make run ARGS="..."   the demo on real data; make run ARGS=--help lists its arguments
#   make test             SQUIRE_SKIP_LINT=1 leaves out clippy and rustdoc
#   make chaos            SEED=... MINUTES=...; processes killed, paused and lied to, every answer checked
#   make bench            ratios against bare Lance, release build
#   make race             ARGS="--rates 1,10 --indexes none,btree --seconds 60"; a writer beside Squire, LanceDB and compact_files, release build
#   make small            a thousand commits of one row with the daemon on, beside a table written at once, release build
#   make agents           ARGS="--agents 1,8 --tables 5"; agents on one spool beside a bare append loop, release build
#   make fleet            ARGS="backlog|idle|mixed --help"; figures of daemons over many tables, release build
#   make matrix           the crash matrix alone, and its table
#   make zoo              SEED=... ARGS="STATE..."; table states of many releases through every command, and their table
#   make writers          SEED=... CASES=...; random writes of Lance clients under a rewrite, against the same writes without it
#   make ray              SEED=... ARGS="--only CASE --rounds 20"; tasks on a Ray cluster of raylets here, and deaths of all that takes part
#   make bench-ray        FRAGMENTS=2000; one table compacted inline, by local workers and by those of Ray, release build
#   make fuzz             SEED=... CASES=...; mutated input files, in processes of bounded memory
#   make model            the deep search of the protocol's model; ARGS="--trace" prints counterexamples
#   make slow             CONNECTIONS=10000; so many slow clients at a daemon, which goes on answering the others
#   make package          a .deb of a binary with thin LTO, in $(CARGO_TARGET_DIR)/package; prints their sizes
#   make docs             writes the generated tables of ARCHITECTURE.md
#   make setup | fmt | lint | seams

SHELL := /bin/bash
ARGS ?=

# Outside the checkout, so that a fresh clone does not pay for a cold build of Lance again.
CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/target
export CARGO_TARGET_DIR

.DEFAULT_GOAL := help
.PHONY: help run test chaos matrix zoo writers ray bench-ray fuzz simulate race small agents fleet model bench slow package docs setup fmt lint seams

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 21

# Always the whole workspace: with -p cargo resolves other features and compiles Lance again.
# One dev build serves both commands: its dependencies are optimised, see [profile.dev] in Cargo.toml.
run: setup
	cargo build --workspace
	$(CARGO_TARGET_DIR)/debug/squire-demo --squire $(CARGO_TARGET_DIR)/debug/squire $(ARGS)

test:
	ops/setup.sh --test
	ops/test.sh

# SEED repeats what is tried and what strikes whom; a fresh one is printed. MINUTES is 10 by default.
chaos: setup
	cargo build --workspace --features squire-tests/failpoints --bins
	$(CARGO_TARGET_DIR)/debug/squire-chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10) $(ARGS)

bench: setup
	cargo build --release --workspace --bins
	$(CARGO_TARGET_DIR)/release/squire-bench $(ARGS)

# Both sides meet the same table and the same writes, in one run; python3 tests/race/NAME.py --help.
# small: what a thousand commits of one row come to with the daemon on. agents: files and rows a second.
race small agents:
	ops/setup.sh --test
	cargo build --release --workspace --bins
	$(or $(SQUIRE_PYTHON),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/venv/bin/python) tests/race/$@.py --squire $(CARGO_TARGET_DIR)/release/squire $(if $(SEED),--seed $(SEED)) $(ARGS)

# ARGS="mixed --minutes 60" is an hour of writers and two daemons, one killed every few minutes; without ARGS each of the three once.
fleet: setup
	cargo build --release --workspace --bins
	status=0; for what in $(if $(ARGS),"$(ARGS)","backlog" "idle" "idle --tables 10000" "mixed --minutes 10"); do \
	$(CARGO_TARGET_DIR)/release/squire-fleet $$what || status=1; done; exit $$status

# A workspace of its own, with its own target directory: see tests/model/Cargo.toml.
model:
	cd tests/model && CARGO_TARGET_DIR=$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/model cargo run --release -- deep $(ARGS)

setup:
	ops/setup.sh

fmt:
	cargo fmt --all
	cd tests/model && cargo fmt

lint:
	ops/test.sh --lint

# Several cells at a time: each waits for processes of its own most of the time.
MATRIX := --workspace --features squire-tests/failpoints --test crash_matrix
matrix: setup
	cargo build --workspace --features squire-tests/failpoints --bins --tests
	rm -f $(CARGO_TARGET_DIR)/tmp/crash_matrix.tsv
	status=0; time cargo test -q $(MATRIX) -- --test-threads=3 || status=1; \
	cargo test -q $(MATRIX) -- --ignored --nocapture || status=1; exit $$status

# The table also stands in $(CARGO_TARGET_DIR)/zoo/zoo.tsv; ARGS=--list names the states.
zoo:
	ops/setup.sh --zoo
	cargo build --workspace --features squire-tests/failpoints --bins
	$(or $(SQUIRE_PYTHON),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/venv/bin/python) tests/zoo/zoo.py $(if $(SEED),--seed $(SEED)) $(ARGS)

# A case that fails is repeated by SEED and ARGS="--first NUMBER".
writers:
	ops/setup.sh --test
	cargo build --workspace --features squire-tests/failpoints --bins
	$(or $(SQUIRE_PYTHON),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/venv/bin/python) tests/zoo/writers.py $(if $(SEED),--seed $(SEED)) --cases $(or $(CASES),200) $(ARGS)

# The binary has its seams: at them workers stand until they are killed or go on. SEED repeats who is killed; a fresh one is printed.
ray:
	ops/setup.sh --ray
	cargo build --workspace --features squire-tests/failpoints --bins
	$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/ray/bin/python ops/ray/cluster_test.py --squire $(CARGO_TARGET_DIR)/debug/squire \
	  --python $(or $(SQUIRE_PYTHON),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/venv/bin/python) $(if $(SEED),--seed $(SEED)) $(ARGS)

# FRAGMENTS of a table of about a kilobyte a row: each executor on a copy of it, in one run.
bench-ray:
	ops/setup.sh --ray
	cargo build --release --workspace --bins
	$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/ray/bin/python ops/ray/cluster_test.py --squire $(CARGO_TARGET_DIR)/release/squire \
	  --python $(or $(SQUIRE_PYTHON),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/squire/venv/bin/python) --figures $(or $(FRAGMENTS),2000) $(ARGS)

# SEED is the first case's, CASES how many follow. A case that fails stays in $(CARGO_TARGET_DIR)/fuzz.
simulate: setup
	SQUIRE_SIMULATION_SEED=$(or $(SEED),$$RANDOM) cargo test --workspace --bin squire --features squire-tests/failpoints -- --ignored --nocapture a_day_of_two_thousand_tables

fuzz:
	ops/setup.sh --test
	ops/fuzz.sh $(or $(SEED),$$RANDOM$$RANDOM) $(or $(CASES),20000)

# This process and the daemon each hold that many files, and more.
slow: setup
	cargo build --workspace --features squire-tests/failpoints --bins
	ulimit -n $$(ulimit -Hn); SQUIRE_CONNECTIONS=$(or $(CONNECTIONS),10000) \
	cargo test -q --workspace --features squire-tests/failpoints --test external -- --nocapture slow_connections

package: setup
	cargo build --workspace --profile dist --bin squire
	ops/package/build.sh $(CARGO_TARGET_DIR)/dist/squire $(CARGO_TARGET_DIR)/package

docs: setup
	cargo build -q --workspace --features squire-tests/failpoints --tests
	UPDATE_DOCS=1 cargo test -q --workspace --features squire-tests/failpoints --test surface -- architecture_shows the_tools_print

seams: setup
	cargo build -q --workspace
	$(CARGO_TARGET_DIR)/debug/squire seams
