# make demo: everything from nothing to the main job. make test: the whole suite. Both need only Python 3.10 or later.
PYTHON ?= python3
TORCH ?= 2.15.0
# Another torch gets an environment of its own: make test TORCH=2.14.1
VENV ?= $(if $(filter 2.15.0,$(TORCH)),.venv,.venv-$(TORCH))
READY := $(VENV)/ready-$(TORCH)
JOBS ?= 2

.PHONY: demo test soak lint venv clean
.DEFAULT_GOAL := demo

venv: $(READY)

$(READY): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet "torch==$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --editable ".[test,lint,bench]"
	rm -f $(VENV)/ready-*
	touch $(READY)

demo: venv
	$(VENV)/bin/graphstreams demo

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest -n $(JOBS)

# 20,000 mutants of generated wrappers' texts; 20,000 random graphs and plans, 5 interleavings each; some minutes on 2 cores
soak: venv
	$(VENV)/bin/python tests/verification/text_mutants/run.py --mutants 20000 --jobs $(JOBS)
	$(VENV)/bin/python tests/verification/soak.py --cases 20000 --interleavings 5 --jobs $(JOBS)

clean:
	rm -rf .venv .venv-* graphstreams_dump build *.egg-info
