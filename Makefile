# The commands of this repository. An existing environment is used with `make test VENV=path/to/environment`.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
EXPERIMENTS ?= $(patsubst results/%/claims.json,%,$(wildcard results/*/claims.json))
RESULTS ?= results
ROUNDS ?= 3
PINS ?= lowest

.PHONY: help demo test torture lint outputs extended core frameworks bench house figures docs notebooks readme \
	prepare lock

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; n = sys.argv[1]; sys.version_info < tuple(map(int, n.split("."))) and sys.exit( \
		"Python %s or newer is needed, and this is %s: name one, as in make PYTHON=python%s" \
		% (n, sys.version.split()[0], n))' "$$(sed -n 's/^min_python = //p' settings.ini)"
	$(PYTHON) -m venv $(VENV)

# requirements.lock names every package with its version and hash, so that everyone has the environment in which
# the stored results were made. It covers use, development and the optional data sets: beside torch (5 GB) the rest
# is small. torch is the CUDA build, which runs without a GPU too; its CPU build does not fit the index's torchvision.
# The lock is its own constraint, so that one in the user's configuration of pip cannot contradict it.
# What is installed is remembered in the environment, so that a second `make` starts at once.
$(VENV)/.binenc: requirements.lock settings.ini setup.py | $(BIN)/python
	PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# In a folder of its own: a clone already has the demo's results, which a run on another machine must not replace.
demo: RESULTS = results/mine
demo: $(VENV)/.binenc ## train the demo on this machine, draw every figure, write a report to open in a browser
	$(BIN)/binenc sweep demo --results $(RESULTS)
	$(BIN)/binenc figures demo --results $(RESULTS)
	$(BIN)/binenc report demo --results $(RESULTS)

# Three processes with one thread each for two cores: tests often wait for kernels and disks. With more threads they
# would get in each other's way.
# SLURM's tests mostly wait: two clusters are up at a time. A disturbance can come too late on a busy machine: what
# failed there is tried once more.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.binenc ## nbdev_test and pytest
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder --ignore tests/test_slurm.py
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/test_slurm.py || \
		$(BIN)/python -m pytest --last-failed tests/test_slurm.py

torture: $(VENV)/.binenc ## kills, damages, inputs, owners, surroundings, planted bugs: an hour or two
	$(BIN)/python .ci/torture.py
	$(BIN)/python .ci/torture.py --planted

lint: $(VENV)/.binenc ## the rules of style, in notebooks too
	failed=0; $(BIN)/ruff check || failed=1; $(BIN)/python .ci/lint.py || failed=1; exit $$failed

outputs: $(VENV)/.binenc ## execute changed chapters, compare what they print with what is committed; ALL=--all for all
	$(BIN)/python .ci/check_outputs.py $(ALL)

extended: $(VENV)/.binenc ## the tests that can differ, with all four extensions of nbs/extend.ipynb applied at once
	BINENC_EXTENDED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_extend.py -k all_of_them

# Environments of their own, made anew: the layer with the lowest and the newest versions of what it needs, and beside
# other people's frameworks.
core: ## the layer's tests with tests/core/lowest.txt; PINS=newest takes the newest versions
	$(PYTHON) -m venv $(VENV)-$(PINS)
	$(VENV)-$(PINS)/bin/python -m pip install --quiet --requirement tests/core/$(PINS).txt
	PYTHONPATH=. $(VENV)-$(PINS)/bin/python -m pytest --noconftest tests/core \
		$(patsubst %,tests/test_%.py,layer attach inputs geometry estimator reference_values robustness)

frameworks: ## the layer in timm, Hugging Face, Lightning, peft, ONNX and others
	$(PYTHON) -m venv $(VENV)-frameworks
	$(VENV)-frameworks/bin/python -m pip install --quiet --requirement tests/frameworks/requirements.lock
	PYTHONPATH=. $(VENV)-frameworks/bin/python -m pytest --confcutdir tests/frameworks tests/frameworks \
		tests/test_streaming.py

house: $(VENV)/.binenc ## sizes of the parts, the stack at a gradient, reads for all figures
	$(BIN)/python .ci/house.py

bench: $(VENV)/.binenc ## ours against plain baselines, row by row
	$(BIN)/python .ci/bench.py $(RESULTS) $(ROUNDS)

figures: $(VENV)/.binenc ## draw the committed figures again from the committed tables
	for experiment in $(EXPERIMENTS); do $(BIN)/binenc figures $$experiment --results $(RESULTS) || exit 1; done

docs: $(VENV)/.binenc ## the book: chapters, reference and reports as a site in _docs/, without the internet
	rm -rf _docs
	$(BIN)/python .ci/docs.py _docs $(EXPERIMENTS)
	BINENC_BOOK=_docs $(BIN)/python -m pytest -q tests/test_docs.py

notebooks: $(VENV)/.binenc ## execute the notebooks in nbs/ in place, but for the benchmark and the page on gamma
	PATH="$(abspath $(BIN)):$$PATH" .ci/execute_notebooks

readme: $(VENV)/.binenc ## nbs/index.ipynb -> README.md
	$(BIN)/python .ci/readme.py

prepare: $(VENV)/.binenc ## export, clean and README, before a commit
	$(BIN)/nbdev_export
	$(BIN)/python .ci/parameters.py
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/readme.py

# Packages keep their pinned versions where they still fit; `make lock UPGRADE=--upgrade` takes the newest.
# For every Python from the oldest supported and every platform; no index address is written.
lock: ## renew requirements.lock from settings.ini
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile setup.py $(addprefix --extra=,dev lab mnist-small) --universal --generate-hashes \
		--python-version "$$(sed -n 's/^min_python = //p' settings.ini)" --custom-compile-command 'make lock' \
		--no-annotate --quiet $(UPGRADE) --output-file requirements.lock
