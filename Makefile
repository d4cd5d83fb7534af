# The commands of this repository. An existing environment is used with `make test VENV=path/to/environment`.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
EXPERIMENTS ?= demo fashion cifar10-jpeg-small
RESULTS ?= results
ROUNDS ?= 3

.PHONY: help demo test bench figures notebooks readme prepare 

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# what is installed is remembered in the environment, so that a second `make` starts at once
$(VENV)/.binenc: settings.ini setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@
$(VENV)/.binenc-dev: settings.ini setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.binenc $@

demo: $(VENV)/.binenc ## train the demo on this machine, draw every figure, print the tables
	$(BIN)/binenc sweep demo --results $(RESULTS)
	$(BIN)/binenc figures demo --results $(RESULTS)

test: $(VENV)/.binenc-dev ## nbdev_test and pytest
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest

bench: $(VENV)/.binenc ## ours against plain baselines, row by row
	$(BIN)/binenc bench --rounds $(ROUNDS) --results $(RESULTS)

figures: $(VENV)/.binenc ## draw the committed figures again from the committed tables
	for experiment in $(EXPERIMENTS); do $(BIN)/binenc figures $$experiment --results $(RESULTS) || exit 1; done

notebooks: $(VENV)/.binenc-dev ## execute every notebook in nbs/ in place
	PATH="$(abspath $(BIN)):$$PATH" .ci/execute_notebooks

readme: $(VENV)/.binenc-dev ## nbs/index.ipynb -> README.md
	$(BIN)/python .ci/readme.py

prepare: $(VENV)/.binenc-dev ## export, clean and README, before a commit
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/readme.py
