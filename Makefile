# make demo    a whole network boot, deploy and first boot from disk, in virtual machines
#              (make demo KEEP=1, or make demo --keep, leaves it running)
# make test    every test
# make build   the server and the agent: target/release/bugler, target/release/bugler-agent
# make lint    formatting, clippy, licences, invariants
# make bench   the benchmarks
# make setup   the Debian packages that these need

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
AGENT_TARGET := x86_64-unknown-linux-gnu
TOOLS := $(TARGET_DIR)/tools
CARGO_DENY := $(or $(shell command -v cargo-deny),$(TOOLS)/bin/cargo-deny)

# `make demo --keep` reaches make as its own option --keep-going.
ifneq (,$(findstring k,$(filter-out --%,$(firstword -$(MAKEFLAGS)))))
KEEP ?= 1
endif

.PHONY: demo test build setup lint bench

demo: setup build
	$(CARGO) run --locked --quiet --package bugler-lab -- demo $(if $(KEEP),--keep)

test: setup build
	$(CARGO) test --locked --workspace

# The agent runs where there is nothing else, so it is static. --target keeps the flag away from
# build scripts.
build:
	$(CARGO) build --locked --release --package bugler
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --profile agent \
	    --target $(AGENT_TARGET) --package bugler-agent
	install -m 755 $(TARGET_DIR)/$(AGENT_TARGET)/agent/bugler-agent $(TARGET_DIR)/release/bugler-agent

setup:
	scripts/setup

# Advisories need a database from the network; licences, bans and sources are decided by Cargo.lock.
lint: $(CARGO_DENY)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	$(CARGO_DENY) --locked check --hide-inclusion-graph bans licenses sources
	scripts/check-invariants

$(TOOLS)/bin/cargo-deny:
	$(CARGO) install --locked --quiet --root $(TOOLS) cargo-deny

bench: setup build
	$(CARGO) run --locked --release --quiet --package bugler-lab -- bench
