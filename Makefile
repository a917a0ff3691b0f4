# make demo    a whole network boot, deploy and first boot from disk, in virtual machines
#              (make demo KEEP=1, or make demo --keep, leaves it running)
# make test    the tests: under half an hour on two cores, builds aside
# make test-long   the end-to-end tests that these leave out: other firmware, other protocols
# make build   the server and the agent: target/release/bugler, target/release/bugler-agent
# make build-arm64   the agent for 64-bit Arm: target/release/bugler-agent.aarch64
# make soak    the property tests with many cases, other ones each time
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

.PHONY: demo test test-long soak build build-arm64 setup setup-arm64 lint bench

demo: setup build
	$(CARGO) run --locked --quiet --package bugler-lab -- demo $(if $(KEEP),--keep)

# Property tests draw the same cases each time: what fails, fails for everybody.
test: setup-arm64 build build-arm64
	PROPTEST_RNG_SEED=1 $(CARGO) test --locked --workspace --no-fail-fast

test-long: setup-arm64 build build-arm64
	$(CARGO) test --locked --package bugler-lab --test e2e --no-fail-fast -- --ignored

soak:
	PROPTEST_CASES=20000 $(CARGO) test --locked --workspace --exclude bugler-lab --no-fail-fast

# The agent runs where there is nothing else, so it is static. --target keeps the flag away from
# build scripts.
build:
	$(CARGO) build --locked --release --package bugler
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --profile agent \
	    --target $(AGENT_TARGET) --package bugler-agent
	install -m 755 $(TARGET_DIR)/$(AGENT_TARGET)/agent/bugler-agent $(TARGET_DIR)/release/bugler-agent

# With a compiler and a target folder of its own where the ordinary toolchain lacks the target.
build-arm64:
	CARGO=$(CARGO) CARGO_TARGET_DIR=$(TARGET_DIR) scripts/agent-arm64

setup:
	scripts/setup

setup-arm64:
	scripts/setup --arm64

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
