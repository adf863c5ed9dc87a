# `make help` lists the targets. All that is needed is Python 3.10 or later.
PYTHON ?= python3
TORCH ?= 2.15.0
# Another torch gets an environment of its own: make test TORCH=2.14.1, or TORCH=2.14.0, which is vLLM 0.33's
VENV ?= $(if $(filter 2.15.0,$(TORCH)),.venv,.venv-$(TORCH))
READY := $(VENV)/ready-$(TORCH)
# Models come from libraries of which none may get into the package's environment. torch stays what it is.
ZOO_VENV ?= $(if $(filter 2.15.0,$(TORCH)),.venv-zoo,.venv-zoo-$(TORCH))
ZOO_READY := $(ZOO_VENV)/ready-$(TORCH)
JOBS ?= 2

.PHONY: help demo test gpu-test soak zoo zoo-test lint format venv clean
.DEFAULT_GOAL := demo

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(READY) ## make the environment: torch, this package, the tools

$(READY): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet "torch==$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --editable ".[test,lint,bench]"
	rm -f $(VENV)/ready-*
	touch $(READY)

$(ZOO_READY): pyproject.toml
	test -x $(ZOO_VENV)/bin/python || $(PYTHON) -m venv $(ZOO_VENV)
	$(ZOO_VENV)/bin/python -m pip install --quiet "torch==$(TORCH)"
	$(ZOO_VENV)/bin/python -m pip install --quiet "torch==$(TORCH)" --editable ".[test,zoo]"
	rm -f $(ZOO_VENV)/ready-*
	touch $(ZOO_READY)

demo: venv ## from nothing to a plan, its proof and, with a GPU, its times (the default)
	$(VENV)/bin/graphstreams demo

lint: venv ## check style, types, and which way imports go
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy -p benchmarks.zoo -p benchmarks.engines
	$(VENV)/bin/python scripts/imports.py --check

format: venv ## format, and mend what ruff can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Processes of the tests import the package again and again: what it compiles to is kept, whatever the environment says.
test: lint ## the whole suite, without a GPU; another torch: make test TORCH=2.14.1
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

gpu-test: venv ## the tests that need a GPU
	$(VENV)/bin/python -m pytest -m gpu tests/gpu

# 20,000 mutants of generated wrappers' texts; 20,000 random graphs and plans, 5 interleavings each; some minutes on 2 cores
soak: venv ## the long runs of the proof's tests
	PYTHONPATH=examples $(VENV)/bin/python -m tests.support.text_mutants.run --mutants 20000 --jobs $(JOBS)
	$(VENV)/bin/python -m tests.verification.soak --cases 20000 --interleavings 5 --jobs $(JOBS)

zoo: $(ZOO_READY) ## plan models of other libraries, each in a process of its own, without a GPU
	$(ZOO_VENV)/bin/python -m benchmarks.zoo --jobs $(JOBS) --out build/zoo

zoo-test: $(ZOO_READY) ## twelve of these models: no crash, no launch lost, the same bits; the pages on their libraries
	$(ZOO_VENV)/bin/python -m benchmarks.zoo --quick --jobs $(JOBS) --out build/zoo-test --fresh
	$(ZOO_VENV)/bin/python -m pytest -n $(JOBS) tests/engines/test_pages.py tests/engines/test_transformers.py

clean: ## remove the environments and what was built
	rm -rf .venv .venv-* graphstreams_dump build *.egg-info
