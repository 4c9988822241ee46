# What one does with this repository. `make` alone lists it.
# Recipes are one line each on purpose: what needs more is a script that can be read, checked and run without make.

SERVICES := deploy/local/services

.DEFAULT_GOAL := help
.PHONY: help up down status env logs reset run demo build test lint load bench bench-curves bench-smoke liveness mutants fuzz simulation chaos chaos-guards contract toolchain

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: toolchain ## see it work: events, agents, an approval, failures and what they leave behind (under 10 minutes at first)
	@deploy/demo/run

up: ## start the private RabbitMQ and PostgreSQL of this checkout
	@$(SERVICES) up

down: ## stop them; the data stays
	@$(SERVICES) down

status: ## what runs, where, and whether one can log in
	@$(SERVICES) status

env: ## print the export lines of the running services: eval "$(make -s env)"
	@$(SERVICES) env

logs: ## the last lines of the broker's and the database's log
	@$(SERVICES) logs

reset: ## stop the services and delete their data
	@$(SERVICES) reset

run: toolchain ## a dispatcher and two agents to play with, until Ctrl-C; the services stay up
	@deploy/local/run

build: toolchain ## compile everything
	@cargo build --locked --workspace --all-targets

test: toolchain ## every test, against a real broker and database; takes them down again if they were down
	@$(SERVICES) need ansible-playbook ansible-core
	@cargo build --locked --workspace --all-targets
	@$(SERVICES) with cargo test --locked --workspace --no-fail-fast

lint: toolchain ## format, lints, dependencies, shell scripts
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@.ci/deny
	@.ci/shell

load: toolchain ## 20,000 no-op tasks over 500 workspaces, beside the raw three-hop chain of the same run (release build)
	@cargo build --locked --release --bin dispatcher --bin worker-agent --bin load
	@$(SERVICES) with target/release/load

liveness: toolchain ## how long work is still when agents, dispatchers, broker or database fail; median and worst of 10 (half an hour)
	@cargo build --locked --release --bin dispatcher --bin worker-agent --bin liveness
	@$(SERVICES) with target/release/liveness

bench: toolchain ## everything side by side: Switchyard, the raw chain, the peers; writes docs/bench (half an hour; release build)
	@tests/peers/install
	@cargo build --locked --release --bin dispatcher --bin worker-agent --bin bench
	@$(SERVICES) with target/release/bench --out docs/bench

bench-curves: toolchain ## how throughput and cost change when tables, agents, workspaces or payloads grow (an hour or more; release build)
	@cargo build --locked --release --bin dispatcher --bin worker-agent --bin bench
	@$(SERVICES) with target/release/bench --curves --out docs/bench

bench-smoke: toolchain ## the chain and Switchyard for some seconds: fails only on an order of magnitude
	@cargo build --locked --workspace --all-targets
	@$(SERVICES) with target/debug/bench --smoke

mutants: toolchain ## remove each listed guard in turn, in a copy: a seed or its test must fail (some: tests/mutants/run WORD)
	@tests/mutants/run

chaos: toolchain ## break everything around real processes, from a seed, and check what is promised (ARGS="--list", "--smoke", "--mix NAME --seed N")
	@tests/chaos/run $(ARGS)

chaos-guards: toolchain ## the same without one guard of the protocol at a time, in a copy: the checker must find each (some: ARGS=WORD)
	@cargo run --locked --quiet -p switchyard-tests --bin chaos-guards -- $(ARGS)

fuzz: toolchain ## fuzz every target for SECONDS each (600); fewer targets: fuzz/run --seconds 60 events logs
	@fuzz/run --seconds $(or $(SECONDS),600)

simulation: toolchain ## 50,000 seeds of the simulation, or SEEDS of them, optimised but with every assertion
	@SWITCHYARD_SIM_SEEDS=$(or $(SEEDS),50000) cargo test --locked --profile simulation -p switchyard-tests --test simulation every_seed -- --nocapture

contract: toolchain ## write docs/contract (JSON Schemas, AsyncAPI) from the Rust types
	@cargo run --locked --quiet -p switchyard-common --example contract-docs

toolchain:
	@deploy/local/toolchain
