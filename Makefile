SHELL := /bin/bash
PY := .venv/bin/python
ARGS ?=
ROUNDS ?= 20
.DEFAULT_GOAL := help

help:
	@echo "make up     set up what is missing and start everything on this machine (ARGS=\"--help\" for options)"
	@echo "make test   set up what the tests need, check the code and run the tests"
	@echo "make bench  print the table of figures"
	@echo "make soak   all tests, $(ROUNDS) rounds with other seeds (ROUNDS=n)"
	@echo "make proto  generate the Python code of the contract"
	@echo "make freeze promise the contract as it stands, at a release"
	@echo "make lock   pin the dependencies anew"

up:
	@tools/setup.sh requirements.lock && exec .venv/bin/switchboard up $(ARGS)

test: ready-to-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	cd proto && ../.venv/bin/buf lint && ../.venv/bin/buf breaking --against v1.binpb
	.venv/bin/lint-imports --no-logo
	$(PY) -m mypy
	$(PY) -m pytest -q -n 3 --dist loadfile $(ARGS)

# Every journey and every property again and again, each round with another seed.
soak: ready-to-test
	@for round in $$(seq $(ROUNDS)); do \
	    seed=$$RANDOM; echo "round $$round of $(ROUNDS), seed $$seed"; \
	    $(PY) -m pytest -q -n 3 --dist loadfile --hypothesis-seed=$$seed $(ARGS) || exit 1; \
	done

bench: ready-to-test
	@$(PY) -m bench $(ARGS)

ready-to-test:
	@tools/setup.sh requirements-test.lock
	@tools/chromium.sh

proto: ready-to-test
	cd proto && ../$(PY) -m grpc_tools.protoc -I . --python_out=. --grpc_python_out=. --mypy_out=quiet:. \
	    --plugin=protoc-gen-mypy=../.venv/bin/protoc-gen-mypy switchboard_rpc/v1/*.proto

# At a release: from here on the contract as it stands is promised.
freeze: ready-to-test
	cd proto && ../.venv/bin/buf breaking --against v1.binpb && ../.venv/bin/buf build --exclude-source-info -o v1.binpb

# Reads pyproject.toml and writes names, versions and hashes, no addresses. The three agree on every version.
LOCK = uv pip compile pyproject.toml -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
    --python-version 3.11
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv on PATH: pip install uv" >&2; exit 1; }
	$(LOCK) --all-extras --group build --group test -o requirements-test.lock
	$(LOCK) --all-extras --group build -c requirements-test.lock -o requirements.lock
	$(LOCK) --extra server -c requirements-test.lock -o requirements-server.lock

.PHONY: help up test soak bench ready-to-test proto freeze lock
