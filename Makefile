# flota. `make demo` shows it, `make test` checks it; each does all of its own set-up first.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
ROOMS := proto rpc manager worker overlay stacks templates node simulation gateway cli
PROTOS := $(wildcard proto/flota/v1/*.proto)
JOBS ?= 2
SEEDS ?= 2000

.PHONY: help setup demo test lint types bench soak fmt proto vm-test machine-test man clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Debian packages, uv, virtual environment (all other targets do this first)
	@setup/install.sh

demo: setup ## a swarm of five on this machine: deploy, scale, update, lose a worker (KEEP=1 leaves it running)
	@$(PYTHON) -m demo $(if $(KEEP),--keep)

# Clusters in real time share this machine's two cores with the tests beside them: what failed is run once more with
# the machine to itself, and fails if it fails again. The first failure stays in the output: it is a defect to look at.
test: setup ## every test but the long soaks
	@$(PYTHON) -m pytest --cache-clear -n $(JOBS) --dist loadgroup -m "not soak" $(TESTS) || { [ $$? = 1 ] && $(PYTHON) -m tests.again; }

lint: setup ## ruff
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: setup ## mypy --strict
	@.venv/bin/mypy -p flota
	@.venv/bin/mypy bench demo

bench: setup ## the same workload on flota and on a real Docker Swarm, side by side
	@$(PYTHON) -m bench.swarm

soak: setup ## the long simulations: make soak SEEDS=20000
	@FLOTA_SEEDS=$(SEEDS) $(PYTHON) -m pytest -n $(JOBS) -m soak --timeout 0

vm-test: setup ## the provisioning script and systemd unit in a virtual machine made from Debian packages
	@vagrant/vm-test --transcript docs/vm-test.txt

machine-test: setup ## what needs a kernel of its own (QEMU): cgroup v2, WireGuard, SCTP, power cuts; slow without KVM
	@nice -n 5 vagrant/machine-test --transcript docs/machine-test.txt

fmt: setup ## format and fix what ruff can fix
	@.venv/bin/ruff check --fix --quiet . ; .venv/bin/ruff format --quiet .

proto: setup ## regenerate the messages in proto/
	@$(PYTHON) -m grpc_tools.protoc -I proto --python_out=proto --grpc_python_out=proto \
	  --plugin=protoc-gen-mypy=.venv/bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc \
	  --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)

man: setup ## manual pages of all commands, in build/man (read one: man -M build/man flota-stack-deploy)
	@$(PYTHON) -m flota.cli.manual build/man

clean: ## forget virtual environment and caches
	rm -rf build .venv .cache .mypy_cache .ruff_cache .pytest_cache
