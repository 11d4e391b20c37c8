# `make demo` and `make test` need nothing but Python 3.11 or 3.12: they set `.venv` up themselves.
SHELL := /bin/bash
PY := .venv/bin/python
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-fast lint venv gpu-check clean

venv: .venv/.ready

.venv/.ready: setup.py tools/setup/venv.sh
	bash tools/setup/venv.sh

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

test: lint
	$(PY) -m pytest tests --durations=15

test-fast: .venv/.ready
	$(PY) -m pytest tests -m "not slow"

# Uses .venv where there is one, else the machine's own Python: see docs/measurements/README.md. Options: ARGS=...
gpu-check:
	$(or $(wildcard $(PY)),$(PYTHON),python3) tools/bench/gpu_check.py $(ARGS)

clean:
	rm -rf .venv build *.egg-info
