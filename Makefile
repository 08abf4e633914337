# What a person or a machine does with this checkout. Every target sets up what it needs first.
# PYTHON=python3.13 chooses the interpreter of .venv.

PY := .venv/bin/python
PACKAGES := schedulercommon schedulerprocess schedulerweb schedulerlocal schedulerglobal schedulerclient clustersim
# Only folders that have Python in them: mypy takes an empty one for a mistake.
TYPED := $(foreach folder,$(PACKAGES) benchmarks scripts,$(if $(wildcard $(folder)/*.py),$(folder)))
# The decisions; their tests must reach nearly every branch.
PURE := schedulercommon schedulerlocal.core schedulerglobal.core

TRACE := results/monitoring.csv
TOPOLOGY := debug/topology_EPYC-7662-exp.json

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup runtime dev demo up demo-replay test test-real check bench chaos fuzz

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##/\1#/p' $(MAKEFILE_LIST) | while IFS='#' read -r name text; do \
		printf '  make %-12s%s\n' "$$name" "$$text"; done

setup: runtime  ## prepare .venv with what VMStack runs on
	@echo ".venv is ready: .venv/bin/python -m schedulerlocal --help"

runtime:
	@PYTHON='$(PYTHON)' scripts/setup.sh runtime

dev:
	@PYTHON='$(PYTHON)' scripts/setup.sh dev

demo: runtime  ## a cluster of three hosts: place VMs, kill a host, go on; ends by itself
	@$(PY) scripts/cluster.py demo

up: runtime  ## the same cluster, kept up until Ctrl-C, with curl lines to try
	@$(PY) scripts/cluster.py up

demo-replay: runtime  ## replay a recorded host and draw it, into results/demo/
	@mkdir -p results/demo
	@$(PY) -m schedulerlocal --load=$(TRACE) --topology=$(TOPOLOGY) --debug=1 --output=results/demo
	@$(PY) -m schedulerlocal.report results/demo/monitoring.csv --output=results/demo
	@echo
	@echo "The replayed trace and its figures are in results/demo/. To try next:"
	@echo "  . .venv/bin/activate"
	@echo "  python -m schedulerlocal --topology=debug/topology_EPYC-7662.json"
	@echo "      a local scheduler to drive with curl; README.md has the lines"
	@echo "  python -m schedulerlocal --load=$(TRACE) --topology=debug/topology_i7-1185G7.json"
	@echo "      the same VMs on a laptop: see what no longer fits"
	@echo "  python -m schedulerlocal.report --help"
	@echo "      draw other traces"
	@echo "  python -m schedulerlocal.describe --help"
	@echo "      describe a machine of your own and replay on it"

test: dev  ## run the tests, as root; the decisions' branches must be covered
ifeq ($(strip $(PYTEST)),)
	@$(PY) scripts/testing.py $(PURE:%=--cov=%) --cov-branch --cov-fail-under=95
else
	@$(PY) -m pytest -q $(PYTEST)
endif

test-real: dev  ## run only those that boot guests, on a libvirtd of their own
	@$(PY) -m pytest -q -m real $(PYTEST)

check: dev  ## lint, types and import rules
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy $(TYPED)
	@$(PY) -c 'from importlinter.cli import lint_imports_command as run; run()' --no-logo

fuzz: dev  ## hold both APIs to their documents with 500 examples an operation; minutes
	@FUZZ_EXAMPLES=500 $(PY) -m pytest -q --timeout=1200 \
		tests/test_api_contract.py tests/test_global_contract.py

chaos: dev  ## kill, stop and cut off several global schedulers; SEED=7 ROUNDS=30 repeats a run
	@$(PY) -m benchmarks$(if $(SEED)$(ROUNDS),.chaos $(or $(SEED),7) $(ROUNDS), chaos)

bench: dev  ## measure planning, status and replay; results are kept in results/
	@$(PY) -m benchmarks $(BENCH)
