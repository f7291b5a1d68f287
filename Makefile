# Set-up, tests and the demo of Anabranch. Every command sets up by itself what it needs; `make help` lists them.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/anabranch/target

RECORDS ?=
DIR ?=
MINUTES ?= 10

.PHONY: help setup build test languages fuzz soak mutants bench demo lint plugins

help: ## show these lines
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16
	@echo "build folder: $(CARGO_TARGET_DIR) (CARGO_TARGET_DIR)"

setup: ## install or check what tests, lints and the demo need
	@tests/setup.sh test lint demo

plugins: ## build the bundled plugins into components
	@tests/setup.sh guest
	@plugins/build.sh

build: ## an optimised router with the bundled plugins inside
	@tests/setup.sh demo
	@plugins/build.sh
	@echo "build: the router, optimised (dependencies are compiled once)"
	@cargo build --quiet --release --package anabranch
	@echo "build: $(CARGO_TARGET_DIR)/release/anabranch"

lint: ## formatting, clippy, licences and sources of the dependencies
	@tests/setup.sh lint
	@tests/lint.sh

test: ## everything: lints, unit and property tests, plugins, the real binary against real servers
	@tests/setup.sh test lint
	@tests/run.sh

fuzz: ## random inputs against every reader of foreign bytes; MINUTES=n in all (10)
	@tests/setup.sh test
	@tests/fuzz.sh $(MINUTES)

soak: ## three routes under random faults, then exact counts and a table of figures; MINUTES=n (10)
	@tests/setup.sh test
	@plugins/build.sh
	@OUT="$(CARGO_TARGET_DIR)/test-components" plugins/build.sh tests/guests/hostile
	@cargo build --quiet --workspace --bin anabranch
	@ANABRANCH_SOAK_MINUTES=$(MINUTES) cargo test --quiet --workspace --test soak -- --nocapture random_faults

bench: ## what the router costs beside its baselines, optimised, on a real Kafka; ARGS="--only filter --runs 1"
	@tests/setup.sh test
	@plugins/build.sh
	@OUT="$(CARGO_TARGET_DIR)/bench-components" plugins/build.sh tests/bench/map-json
	@cargo build --quiet --release --workspace --bin anabranch --bin anabranch-bench
	@"$(CARGO_TARGET_DIR)/release/anabranch-bench" --router "$(CARGO_TARGET_DIR)/release/anabranch" \
		--components "$(CARGO_TARGET_DIR)/bench-components" --json "$(CARGO_TARGET_DIR)/bench.json" $(ARGS)

mutants: ## seeded mistakes, one at a time: do the tests catch each? (half an hour)
	@tests/setup.sh test
	@plugins/build.sh
	@OUT="$(CARGO_TARGET_DIR)/test-components" plugins/build.sh tests/guests/*
	@tests/mutants.sh

languages: ## plugins in JavaScript and Python, built with the tools of those languages (npm, PyPI)
	@tests/setup.sh demo
	@plugins/build.sh
	@cargo build --quiet --workspace --bin anabranch
	@tests/languages.sh

demo: ## see the router at work; RECORDS=n ends by itself, DIR=folder keeps the table there
	@tests/setup.sh demo
	@plugins/build.sh
	@echo "demo: building the router (dependencies are compiled once)"
	@cargo build --quiet --workspace --bin anabranch
	@"$(CARGO_TARGET_DIR)/debug/anabranch" demo $(if $(RECORDS),--records $(RECORDS)) $(if $(DIR),--dir $(DIR))
