# flota. `make demo` shows it, `make test` checks it; each does its own set-up first.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PROTOS := $(wildcard proto/flota/v1/*.proto)

.PHONY: help proto
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

proto: ## regenerate the messages in proto/
	.venv/bin/python -m grpc_tools.protoc -I proto --python_out=proto --grpc_python_out=proto \
	  --plugin=protoc-gen-mypy=.venv/bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc \
	  --mypy_out=proto --mypy_grpc_out=proto $(PROTOS)
