# Sandbar's commands. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where the platform keeps everything, and what else `sandbar up` is told: make up ARGS="--listen 127.0.0.1:9000"
DATA_DIR ?= /var/lib/sandbar
ARGS ?=

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Rust that install-deps.sh has just installed is not in this shell's PATH yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

SANDBAR := target/release/sandbar

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 24

.PHONY: up
up: build ## install what is missing, build, start everything in the background, print where to go
	$(SUDO) $(SANDBAR) up --detach --data-dir $(DATA_DIR) $(ARGS)

.PHONY: down
down: ## stop the platform; sandboxes that run go on
	$(SUDO) $(SANDBAR) down --data-dir $(DATA_DIR)

.PHONY: code-interpreter
code-interpreter: ## build the template of E2B's code interpreter SDKs, code-interpreter-v1, for every team of the platform that runs (minutes under emulation)
	templates/code-interpreter/fetch.sh
	$(SUDO) templates/code-interpreter/build.sh $(CURDIR)/$(SANDBAR) --data-dir $(DATA_DIR)

.PHONY: build
build: deps-up guest dashboard ## build the release binary
	cargo build --release --locked -p sandbar

.PHONY: guest
guest: ## build the static binaries for the inside of the microVM
	cargo xtask guest

.PHONY: dashboard
dashboard: ## build the dashboard's pages
	cargo xtask dashboard

.PHONY: test
test: ## install what is missing, run every check and every test
	@scripts/test.sh

.PHONY: test-code-interpreter
test-code-interpreter: guest dashboard ## build the template code-interpreter-v1 in a real guest, and have E2B's SDKs judge its sandboxes (minutes under emulation)
	tests/code-interpreter/install.sh
	templates/code-interpreter/fetch.sh
	cargo test --workspace --all-targets --locked --no-run
	$(SUDO) env PATH="$$PATH" SANDBAR_CODE_INTERPRETER=1 target/debug/with-postgres \
	  cargo test --workspace --locked --test e2e -- code_interpreter

.PHONY: soak
soak: build ## a thousand pauses of one sandbox, proved step by step (an hour under emulation; CYCLES=200 for fewer); 2 GiB through the edge each way
	for test in life::many_pauses edge::bodies_of_any_size; do \
	  $(SUDO) env PATH="$$PATH" SANDBAR_BIN=$(CURDIR)/$(SANDBAR) SANDBAR_SOAK=$(or $(CYCLES),1000) \
	    cargo test --workspace --locked --test e2e -- $$test; \
	done

.PHONY: simulate
simulate: deps-up ## a thousand random storms over a simulated fleet, each from its seed (SEEDS=1000..2000 for others); a seed that fails is replayed by SEEDS=n..n+1
	cargo build --locked -p sandbar-testkit --bin with-postgres
	SANDBAR_SEEDS=$(or $(SEEDS),1000) target/debug/with-postgres \
	  cargo test --release --workspace --locked --test control -- --nocapture fleet_simulation

.PHONY: bench
bench: build ## measure the platform beside the bare VMM: a table, and target/bench.json
	cargo build --release --locked -p sandbar -p sandbar-bench
	$(SUDO) env SANDBAR_BIN=$(SANDBAR) target/release/sandbar-bench $(ARGS)

.PHONY: lint
lint: guest ## formatting, lints, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo xtask licences

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: deps-up
deps-up:
	@scripts/install-deps.sh run build
