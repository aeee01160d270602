# Every target makes and updates the virtual environment that it needs. `make test PYTHON=python3.12` picks the Python.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test test-interop stress lint bench plan-report clean distclean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYV := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null)
LOCK := constraints/py$(PYV).txt
READY := $(VENV)/.ready-$(PYV)
INTEROP := $(VENV)/.interop-$(PYV)
PLAN := $(VENV)/.plan-$(PYV)
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --no-input
WORKERS ?= 2
BENCHMARKS ?= $(filter-out __init__ measure judge plan_report,$(basename $(notdir $(wildcard benchmarks/*.py))))
ARGS ?=

help:
	@echo 'make demo          trains all five stages on the embedded pictures and writes a sheet'
	@echo 'make test          runs the tests; ARGS="-k tokenizer" chooses some'
	@echo 'make test-interop  compares with PyTorch, diffusers and transformers (installs them: gigabytes)'
	@echo 'make stress        runs all tests, also the slow ones, with 20 times as many random examples'
	@echo 'make lint          runs ruff'
	@echo 'make bench         measures a training step against PyTorch (installs it)'
	@echo 'make plan-report   plans the paper-size configs for TPUs (installs their compiler): hours, then what changed'
	@echo 'make clean         removes build products; distclean removes the virtual environment too'

demo: $(READY)
	$(BIN)/t2i demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest tests --ignore=tests/interop -n $(WORKERS) $(ARGS)

test-interop: $(INTEROP)
	$(BIN)/python -m pytest tests/interop $(ARGS)

stress: $(READY)
	$(BIN)/python -m pytest tests --ignore=tests/interop --hypothesis-profile=stress -m "stress or not stress" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .

bench: $(INTEROP)
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS); done

plan-report: $(PLAN)
	$(BIN)/python -m benchmarks.plan_report $(ARGS)

$(READY): setup.py $(wildcard $(LOCK))
	@case "$(PYV)" in \
	  311|312|313) ;; \
	  "") echo 'error: "$(PYTHON)" does not run. Install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=python3.12' >&2; exit 1 ;; \
	  *) echo "error: $$($(PYTHON) --version) is outside 3.11-3.13. Name another: make PYTHON=python3.12" >&2; exit 1 ;; \
	esac
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'error: $(PYTHON) has no venv module. On Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@ls $(VENV)/.ready-$(PYV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo 'Installing into $(VENV): a few minutes the first time'
	$(PIP) install --quiet --constraint $(LOCK) --editable '.[dev]'
	@touch $@

$(INTEROP): $(READY) $(wildcard constraints/py$(PYV)-interop.txt)
	$(PIP) install --quiet --constraint $(LOCK) --constraint constraints/py$(PYV)-interop.txt --editable '.[dev,interop]'
	@touch $@

$(PLAN): $(READY)
	$(PIP) install --quiet --constraint $(LOCK) --editable '.[dev,plan]'
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
