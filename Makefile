# Entry points, one line each; what they do lives in scripts/ and e2e/.
SHELL := bash
.DEFAULT_GOAL := help
LOCALCLUSTER := e2e/localcluster

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Real clusters (root; settings in e2e/localcluster/README.md)

.PHONY: deps
deps: ## Install the Debian packages that building, testing and clusters need
	@scripts/install-deps.sh

.PHONY: clusters
clusters: ## Start Kubernetes clusters hub and east on this machine, or repair them
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
image: ## Build the trainer image and load it into the member clusters that are up
	@scripts/image.sh

##@ The whole, on this machine (root)

.PHONY: demo
demo: ## Train a GPT on a real cluster from one YAML, sample it, compare with one local process
	@scripts/demo.sh

.PHONY: demo-down
demo-down: ## Remove what the demo started: stack, clusters, data
	@scripts/demo.sh down

.PHONY: test
test: ## All that needs no cluster, then a short job on real clusters
	@scripts/test.sh short

.PHONY: test-full
test-full: ## As test, with every scenario and the comparisons with other people's tools
	@scripts/test.sh full
