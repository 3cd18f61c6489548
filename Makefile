# What people and CI run. `make verify` only reads; `make fix` writes.

CARGO ?= cargo
PYTHON ?= python3
SEED ?=
TEST_ARGS ?=

.PHONY: build test verify fix tidy manifests doc foreign compare sim podsim fuzz cluster clean-cluster

build:
	$(CARGO) build --release -p kvd -p kvctl

test:
	$(CARGO) test --workspace $(TEST_ARGS)

# What `.ci/run` checks but the foreign clients.
verify: tidy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace
	$(MAKE) doc

# Rules of CONTRIBUTING.md that no other tool knows, licences, unused dependencies, spelling.
tidy:
	.ci/tidy
	@if command -v typos >/dev/null; then typos; else echo "typos is missing: pip install typos"; fi

# deploy/: wants kubectl or kustomize, and the Python packages of .ci/manifests.txt.
manifests:
	$(PYTHON) .ci/manifests --self-test
	$(PYTHON) .ci/manifests

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

fix:
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	KVD_BLESS=1 $(CARGO) test -q -p kvd --test golden
	@if command -v typos >/dev/null; then typos --write-changes; fi

# Clients that others wrote. Wants protoc, etcdctl (Debian: protobuf-compiler, etcd-client) and Go.
foreign:
	$(CARGO) build -p kvd -p kvctl
	cd tests/foreign && KVD_BIN="$(call target,kvd)" KVCTL_BIN="$(call target,kvctl)" \
		$(CARGO) test $(TEST_ARGS)

target = $(abspath $(or $(CARGO_TARGET_DIR),target))/debug/$(1)

# Against etcd: make compare ETCD=path-to-an-etcd-binary [COMPARE_ARGS="--seconds 3 …"]
compare: build
	$(CARGO) run --release -p kvd-bench-compare -- \
		--kvd $(abspath $(or $(CARGO_TARGET_DIR),target))/release/kvd \
		$(if $(ETCD),--etcd $(ETCD)) $(COMPARE_ARGS)

# Power cuts and kills, seeded: make sim SEED=42 replays one run.
sim:
	$(if $(SEED),KVD_SEED=$(SEED)) $(CARGO) test --release -p kvd-raft --test wal_power_cut
	$(if $(SEED),KVD_SEED=$(SEED)) $(CARGO) test --release -p kvd-mvcc --test power_cut --test kill

# The manifests on this machine, as root: make podsim STEPS=100 SEED=42 makes that many random steps.
podsim:
	$(CARGO) test --workspace --no-run
	$(if $(STEPS),KVD_PODSIM_STEPS=$(STEPS)) $(if $(SEED),KVD_SEED=$(SEED)) KVD_PODSIM_REQUIRED=1 \
		$(CARGO) test --workspace --test podsim -- --nocapture $(if $(STEPS),random)

# Decoders with inputs that look for new ways through them; wants cargo-fuzz and a nightly compiler.
fuzz:
	for target in gateway_json v2_request protobuf_body peer_message wal_record; do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(or $(FUZZ_SECONDS),180) || exit 1; \
	done

# Three members on loopback until Ctrl-C; their data stays in .cluster/.
cluster: build
	@KVD_BIN="$(abspath $(or $(CARGO_TARGET_DIR),target))/release/kvd" deploy/local/cluster.sh

clean-cluster:
	rm -rf .cluster
