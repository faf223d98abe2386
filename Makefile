# Two commands do everything on a machine with Python 3.10 or newer and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The tests start hundreds of processes: what they import is compiled once, and nothing is left beside the sources.
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check unit conformance format interop bench growth soak floods fuzz faults generate screenshots clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(STAMP): pyproject.toml
	@echo "setting up $(VENV) …" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,interop]'
	@touch $@

demo: $(STAMP)  ## the main job, for real: a cluster, tasks, a cancel, a status
	@PATH="$(abspath $(BIN)):$$PATH" sh .ci/demo

test: check unit conformance  ## everything that must hold

check: $(STAMP)  ## style and types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

unit: $(STAMP)  ## the tests, two files at a time
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

format: $(STAMP)  ## bring the code into shape
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

generate: $(STAMP)  ## files that are made from others
	@$(BIN)/python -m protocol.layout
	@$(BIN)/python -m protocol.lifecycle
	@$(BIN)/python -m protocol.spec_text --write

interop: $(STAMP)  ## every role with every role of opengris-scaler 2.9.0, as a table
	@$(BIN)/python -m tests.interop

conformance: $(STAMP)  ## the reference judged by the conformance suite
	@$(BIN)/scalercli conformance run --target reference --jobs 4 --output none

$(VENV)/.bench: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

# README=1 writes the table into README.md and the chart beside it; ARGS="--only map --rounds 9" is for the command.
BENCH_README := $(if $(README),--readme --svg docs/benchmarks.svg --jsonl docs/benchmarks.jsonl)

bench: $(VENV)/.bench  ## measurements beside opengris-scaler 2.9.0 and others, in the same run
	@$(BIN)/python -m benchmarks $(BENCH_README) $(ARGS)

faults: $(STAMP)  ## thousands of tasks while processes are killed and connections cut; nothing may be lost
	@$(BIN)/python -m tests.faults $(ARGS)

growth: $(STAMP)  ## whether a task costs the same among 1,000 and among 1,000,000
	@$(BIN)/python -m benchmarks.growth $(ARGS)

soak: $(STAMP)  ## two hours of mixed work at half of the capacity: does anything grow?
	@$(BIN)/python -m benchmarks.soak $(ARGS)

$(VENV)/.fuzz: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@touch $@

fuzz: $(VENV)/.fuzz  ## every decoder and core, guided by coverage; ARGS="--minutes 30 --target scheduler-core"
	@$(BIN)/python -m tests.fuzz $(ARGS)

floods: $(STAMP)  ## memory, and others' round trip, while peers send without end or read nothing
	@$(BIN)/python -m benchmarks.floods $(ARGS)

screenshots: $(STAMP)  ## the pictures of the documentation, from what the commands really print
	@$(BIN)/python docs/screenshots/make.py

clean:  ## remove what was set up
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
