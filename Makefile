# The lab's commands; `make help` lists them. All of them use the .venv of this folder and make it if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULT ?=
TO ?=

.DEFAULT_GOAL := help
.PHONY: help setup lab look test test-beside test-fast lint notebooks report share bench-sweep bench-client clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup:  ## make .venv with everything, engine included (GPU or CPU flavour, found by itself)
	@$(PYTHON) deploy/install.py $(VENV)

lab: setup  ## install, run the scaling benchmark (smoke), print its table and the result's path
	@$(BIN)/python week5/benchmark_scaling.py --preset smoke

look:  ## without vLLM: table and figures of your newest result, else of the committed reference (RESULT=file.json)
	@$(PYTHON) deploy/install.py $(VENV) --without-engine
	@$(BIN)/python -m common.analysis look $(if $(RESULT),--result $(RESULT))

# Tests that hold times against a clock run alone; their places are named, because looking for them takes ten seconds.
TIMED := tests/load tests/machine tests/experiment/test_bench.py

# Without compiled modules every worker compiles all tests, and every script that a test starts all it imports.
test test-beside test-fast: export PYTHONDONTWRITEBYTECODE =

test: setup  ## the whole suite: unit tests, real vLLM, scripts, notebooks, lint
	@$(MAKE) --no-print-directory -j 2 lint test-beside
	@$(BIN)/python -m pytest -m "(vllm or timing) and not apart" $(TIMED) tests/engines tests/experiment tests/week5

test-beside:
	@$(BIN)/python -m pytest -m "not timing and (not vllm or apart)" -n 4 --dist worksteal

test-fast:  ## what can be tested without vLLM in a minute and a half
	@$(PYTHON) deploy/install.py $(VENV) --without-engine
	@$(BIN)/python -m pytest -m "not vllm and not timing and not slow" -n 3 --dist worksteal
	@$(BIN)/python -m pytest -m "timing and not vllm and not slow" $(TIMED)

lint:  ## ruff, mypy --strict, import-linter
	@$(PYTHON) deploy/install.py $(VENV) --without-engine
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

notebooks:  ## open the notebooks in JupyterLab
	@$(PYTHON) deploy/install.py $(VENV) --without-engine
	@PYTHONPATH="$(CURDIR)" $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

report:  ## one HTML file of a result of any experiment, and its figures (RESULT=file.json for your own run)
	@$(PYTHON) deploy/install.py $(VENV) --without-engine
	@$(BIN)/python -m common.analysis report $(if $(RESULT),--result $(RESULT))

share:  ## results for a classmate: share.zip, without names, paths and logs (RESULT="a.json b.json"; else the newest; TO=x.zip)
	@$(PYTHON) deploy/install.py $(VENV) --without-engine
	@$(BIN)/python -m common.analysis share $(RESULT) $(if $(TO),--to $(TO))

bench-sweep: setup  ## the same points by `vllm bench sweep serve` and by the lab, side by side (about 16 minutes)
	@$(BIN)/python -m tests.bench.sweep
	@$(BIN)/python -m tests.bench.serve

bench-client: setup  ## the lab's client beside `vllm bench serve`, against a server of known timing (about 5 minutes)
	@$(BIN)/python -m tests.bench.client

clean:  ## remove .venv and caches; results stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
