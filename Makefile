# Sluice: `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOCKS := requirements/dev.txt
export PYTHONPATH := operator:inference:.
export TESTBED_NAME ?= sluice
SERVICES ?= 200
ABORTS ?= 100
MODEL ?= fake

.PHONY: help setup demo test unit coverage mutation property integration e2e nightly verify lint types imports generated generate fmt lock \
	cluster cluster-down doctor run images pizza clean
##@ Start here
help: ## What there is to make
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## The whole way once: a cluster, two versions of a model, traffic that never fails
	@$(PYTHON) -m examples.demo

test: setup ## Everything CI runs: verify, unit, integration (control plane), e2e (node tier)
	@$(PYTHON) -m tests.run

##@ Tests by tier
unit: setup ## Pure tests, under a minute
	@$(PYTHON) -m pytest tests/unit

CORE_TESTS := $(foreach name,machine asked course cursor,tests/unit/operator/test_$(name).py)

coverage: setup ## Every branch of the rollout core, by its own tables
	@$(PYTHON) -m coverage run --branch --source=operator/sluice/rollout -m pytest -q $(CORE_TESTS)
	$(PYTHON) -m coverage report --show-missing --fail-under=100

mutation: setup ## Mutants of the rollout core: killed, survived, excluded
	@$(PYTHON) -m tests.mutation

property: setup ## Invariants: state machines played at random, and explored state by state
	@$(PYTHON) -m pytest tests/property -m "not nightly"

integration: setup ## Against a real control plane with simulated nodes
	@$(PYTHON) -m testbed up --name $(TESTBED_NAME)
	$(PYTHON) -m pytest tests/integration -m "not nightly"

e2e: setup ## Against a real node: kubelet, containerd, images, packets (root)
	@$(PYTHON) -m testbed up --tier node --name $(TESTBED_NAME)
	$(PYTHON) -m pytest tests/e2e -m "not nightly"

nightly: setup ## What is too long for CI: all crash moments, the GPU image
	@$(PYTHON) -m testbed up --tier node --name $(TESTBED_NAME)
	$(PYTHON) -m pytest tests/property tests/integration tests/e2e -m nightly

##@ Benchmarks: progress on stderr, one JSON object as the last line of stdout
bench-zero-downtime: setup ## No failed request while a version and the operator change
	@$(PYTHON) -m benchmarks.zero_downtime

bench-crash: setup ## Killed before and after every write of every rollout, it ends as without
	@$(PYTHON) -m benchmarks.crash

bench-quiet: setup ## A converged cluster costs no writes
	@$(PYTHON) -m benchmarks.quiet

bench-converge: setup ## SERVICES=200 services on simulated nodes
	@$(PYTHON) -m benchmarks.converge --services $(SERVICES)

bench-verdicts: setup ## How often a check is wrong, beside a bare threshold
	@$(PYTHON) -m benchmarks.verdicts

bench-rollout-traffic: setup ## 100,000 requests through every kind of rollout, none of them failed by it; MODEL=pizza: the trained one
	@$(PYTHON) -m benchmarks.rollout_traffic --model $(MODEL)

bench-abort: setup ## ABORTS=100: how fast a candidate loses its clients
	@$(PYTHON) -m benchmarks.abort --aborts $(ABORTS)

bench-accuracy: setup ## The served accuracy equals the trained one
	@$(PYTHON) -m benchmarks.accuracy

bench-serve: setup ## The server beside infinity-emb and FastAPI + transformers: SERVE="--model … --device …"
	@$(PYTHON) -m benchmarks.serve $(SERVE)

bench-abuse: setup ## 200 clients, some of them broken or malicious, and SIGTERM under load
	@$(PYTHON) -m benchmarks.abuse

bench-fallback: setup ## The INT8 fallback on CPUs, 50 clients: latency, throughput, memory
	@$(PYTHON) -m benchmarks.fallback

bench-cold-start: setup ## From the server's start to ready; the images' sizes
	@$(PYTHON) -m benchmarks.cold_start

##@ The house
verify: lint types imports generated ## Lint, types, import rules, generated files

lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: setup
	@$(VENV)/bin/mypy

imports: setup
	@$(VENV)/bin/lint-imports

generated: setup
	@$(PYTHON) -m sluice.api.generate --check && $(PYTHON) -m sluice.rbac --check

generate: setup ## Write CRDs, RBAC and the tables of docs/spec
	@$(PYTHON) -m sluice.api.generate && $(PYTHON) -m sluice.rbac

fmt: setup ## Format and mend what can be mended
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

lock: setup ## Pin today's versions into requirements/
	@requirements/lock

##@ A cluster to play with
cluster: setup ## Bring up the testbed: TIER=control-plane or node
	@$(PYTHON) -m testbed up --tier $${TIER:-control-plane} --name $(TESTBED_NAME)

cluster-down: setup ## Take it down, and leave nothing
	@$(PYTHON) -m testbed down --name $(TESTBED_NAME)

doctor: setup ## What of the testbed is built and running
	@$(PYTHON) -m testbed doctor --name $(TESTBED_NAME)

run: setup ## Run the operator here, against the cluster of KUBECONFIG
	@$(PYTHON) -m sluice run

images: setup ## Build the images into the running node tier
	@$(PYTHON) -m testbed images --name $(TESTBED_NAME)

pizza: setup ## Train the example model, three versions, and the CNN that stands in for them
	@$(PYTHON) -m examples.pizza build
	$(PYTHON) -m examples.pizza fallback

setup: $(STAMP) ## Install what the project needs into .venv

$(STAMP): pyproject.toml $(LOCKS)
	@began=$$SECONDS
	echo "setup: Python environment in $(VENV)" >&2
	if ! $(PYTHON) -m pip --version > /dev/null 2>&1; then
	  rm -rf $(VENV)
	  if ! python3 -c 'import ensurepip' 2> /dev/null && [ "$$(id -u)" = 0 ]; then
	    apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv
	  fi
	  python3 -m venv $(VENV) || { rm -rf $(VENV); echo "setup: python3 -m venv failed: install python3-venv" >&2; exit 1; }
	fi
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(PYTHON) $(LOCKS)
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --no-deps --editable .
	touch $@
	echo "setup: done in $$((SECONDS - began)) s" >&2

clean: ## Remove what was made in this tree
	@rm -rf $(VENV) build examples/pizza/out reports .mypy_cache .ruff_cache .pytest_cache .hypothesis
