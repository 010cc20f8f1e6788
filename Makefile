# Entry points, one line each; what they do lives in scripts/ and e2e/.
SHELL := bash
.DEFAULT_GOAL := help
LOCALCLUSTER := e2e/localcluster
MUSTER := $(or $(CARGO_TARGET_DIR),target)/debug/muster

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Code

.PHONY: build
build: ## Build muster, muster-trainer and muster-sidecar
	@cargo build --locked --workspace

.PHONY: generate
generate: ## Write the files that are generated from code: definitions, roles, and what the charts render to
	@cargo build --quiet --locked --workspace --bin muster
	@$(MUSTER) crd --out crds
	@$(MUSTER) crd --chart --out charts/muster/templates/crds
	@for who in hub registrar gateway auditor agent; do \
		$(MUSTER) rbac $$who --out charts/muster/templates/rbac/$$who.yaml || exit 1; done
	@$(MUSTER) rbac member --out charts/muster-agent/templates/rbac.yaml
	@$(MUSTER) rbac observe --out charts/muster-agent/files/observe.yaml
	@scripts/manifests.sh

.PHONY: manifests
manifests: ## Render the charts into manifests/, for whoever applies them without Helm (builds Helm once)
	@scripts/manifests.sh

.PHONY: kueue
kueue: ## With Kueue 0.19.2 beside hub and agent on real clusters: queues, preemption, eviction (builds it and Helm once)
	@tests/kueue/run.sh

.PHONY: charts
charts: ## The charts with real Helm: values, rendering; on real clusters install, train, upgrade, roll back, uninstall
	@tests/charts/run.sh

.PHONY: fmt
fmt: ## Format all code
	@cargo fmt --all

.PHONY: lint
lint: ## Check formatting and lints; warnings fail
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- --deny warnings
	@cargo clippy --locked --package muster --package muster-trainer --package muster-sidecar --all-targets --features muster/cheats,muster-trainer/cheats -- --deny warnings

##@ Real clusters (root; settings in e2e/localcluster/README.md)

.PHONY: deps
deps: ## Install the Debian packages that building, testing and clusters need
	@scripts/install-deps.sh

.PHONY: clusters
clusters: ## Start Kubernetes clusters hub, east and west on this machine, or repair them
	@$(LOCALCLUSTER)/up.sh
	@$(LOCALCLUSTER)/kubeconfig.sh

.PHONY: clusters-down
clusters-down: ## Stop the clusters and remove every trace of them
	@$(LOCALCLUSTER)/down.sh

.PHONY: clusters-kubeconfig
clusters-kubeconfig: ## Write .run/kubeconfig and print the export lines
	@$(LOCALCLUSTER)/kubeconfig.sh

.PHONY: clusters-check
clusters-check: ## Test the clusters themselves: start, crash, repair, stop, no leftovers
	@$(LOCALCLUSTER)/check.sh

.PHONY: image
image: ## Build the images of trainer and agent and load them into the member clusters that are up
	@scripts/image.sh

##@ The whole, on this machine (root)

.PHONY: demo
demo: ## Train a GPT on two real clusters, lose one, catch the other lying, compare the bits with one local process
	@scripts/demo.sh

.PHONY: demo-down
demo-down: ## Remove what the demo started: stack, clusters, data
	@scripts/demo.sh down

.PHONY: test
test: ## All that needs no cluster, then the short scenarios on real clusters
	@scripts/test.sh short

.PHONY: test-full
test-full: ## As test, with every scenario and the comparisons with other people's tools
	@scripts/test.sh full

.PHONY: test-s3
test-s3: ## The store against a real S3 server, versitygw, built once from Go modules
	@tests/s3/run.sh

.PHONY: reference
reference: ## Whole steps against a second implementation in NumPy, bit for bit
	@tests/reference/run.sh

.PHONY: aarch64
aarch64: ## The numerics built for 64-bit ARM and run under qemu-user: the same bits
	@tests/aarch64/run.sh

.PHONY: avx512
avx512: ## The kernels for AVX-512 on emulated CPUs, without VNNI and with it: the same bits
	@tests/avx512/run.sh

.PHONY: planted
planted: ## Some fifty bugs in the numerics, one at a time: a test must notice each
	@tests/planted/run.sh

.PHONY: simulate
simulate: ## Ten thousand schedules of the hub, with faults at its calls (MUSTER_SCHEDULES, MUSTER_SEED)
	@MUSTER_SCHEDULES=$${MUSTER_SCHEDULES:-10000} cargo test --locked --profile simulation -p muster --lib sim::explore::many -- --nocapture

.PHONY: mistakes
mistakes: ## Some twenty mistakes in the hub, one at a time: the simulation must notice each
	@cargo test --locked --profile simulation -p muster --lib sim::explore::every_mistake -- --ignored --nocapture

.PHONY: schedule
schedule: ## One schedule with all calls: make schedule NAME=lies/7/40:CrashAfter
	@MUSTER_SCHEDULE=$(NAME) cargo test --locked --workspace --lib sim::explore::one -- --nocapture

.PHONY: bench-trainer
bench-trainer: ## Steps of five models beside PyTorch, in turns; wants a quiet machine; writes bench/results/trainer.json
	@tests/torch/run.sh --bench

.PHONY: cuda
cuda: ## The CUDA kernels on this machine's GPU: every bit of the vectors
	@tests/cuda/run.sh

.PHONY: bench-federation
bench-federation: ## Bursts of jobs to three members beside MultiKueue and JobSet; root, a quiet machine; writes bench/results/federation.json
	@bench/federation/run.py

.PHONY: bench-scale
bench-scale: ## A hub with 1,000 providers and 10,000 jobs, for ten minutes; root, a quiet machine; writes bench/results/scale.json
	@bench/federation/scale.py

.PHONY: bench-gpu
bench-gpu: ## Products and steps on this machine's GPU beside PyTorch; writes bench/results/gpu.json
	@$${CUDA_PYTHON:-python3} bench/gpu.py

.PHONY: learn
learn: ## 1,000 steps on the King James Bible in both arithmetics and in PyTorch; writes bench/results/learn.json
	@tests/torch/run.sh --learn

.PHONY: large-model
large-model: ## A model of more than 1 GiB: its checkpoint, a run on from it, and transformers with both; 10 GB of memory and disk
	@tests/torch/run.sh --large

.PHONY: bench-worker
bench-worker: ## What checkpoints and a second worker cost a run; writes bench/results/worker.json
	@python3 bench/worker.py

.PHONY: bench-proof
bench-proof: ## What proving costs: log, StateRoot, bundle, replay, commit; writes bench/results/proof.json
	@python3 bench/proof.py

.PHONY: cheats
cheats: ## Everybody who may lie does, without a cluster; and once more with a verifier that does not look
	@scripts/cheats.sh

.PHONY: fuzz
fuzz: ## Search for inputs that break a reader of strangers' bytes (FUZZ_SECONDS each, default 60)
	@scripts/fuzz.sh
