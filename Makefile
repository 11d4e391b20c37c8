# `make demo` and `make test` need nothing but Python 3.11 or 3.12: they set `.venv` up themselves.
SHELL := /bin/bash
PY := .venv/bin/python
PYTHON ?= python3
LAYOUT ?= tp2
SEED ?= 0
RECIPE ?=
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-fast lint venv gpu-check clean

# LAYOUT: how the two trainer ranks share the work of RL: tp2, pp2 or dp2. RECIPE: a name in configs/recipe.
demo: .venv/.ready
	$(PY) examples/digits/demo.py --layout $(LAYOUT) --seed $(SEED) $(if $(RECIPE),--recipe $(RECIPE))

# Files of tests side by side: two processes, for many a test starts two ranks of its own.
test: lint
	$(PY) -m pytest tests -n $(WORKERS) --dist loadfile --durations=15

# Leaves out what starts engines or whole runs.
test-fast: .venv/.ready
	$(PY) -m pytest tests -m "not slow"

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

venv: .venv/.ready

.venv/.ready: setup.py tools/setup/venv.sh
	MAKECMDGOALS="$(MAKECMDGOALS)" bash tools/setup/venv.sh

# Uses .venv where there is one, else the machine's own Python: see docs/measurements/README.md. Options: ARGS=...
gpu-check:
	$(or $(wildcard $(PY)),$(PYTHON)) tools/bench/gpu_check.py $(ARGS)

clean:
	rm -rf .venv build *.egg-info
