# make demo: everything from nothing to the main job. make test: the whole suite. Both need only Python 3.10 or later.
PYTHON ?= python3
TORCH ?= 2.15.0
VENV ?= .venv
READY := $(VENV)/ready-$(TORCH)
JOBS ?= 2

.PHONY: demo test lint venv clean
.DEFAULT_GOAL := demo

venv: $(READY)

$(READY): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet "torch==$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --editable ".[test,lint]"
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

clean:
	rm -rf $(VENV) graphstreams_dump build *.egg-info
