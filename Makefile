# `make demo` and `make test` need git, make and Python >= 3.11, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo notebooks test test-all test-install test-newest test-gpu lint check format docs guide lock clean

help:
	@echo "make demo      install into $(VENV) and run the whole pipeline on the embedded example"
	@echo "make test      install into $(VENV), lint, type-check and test (about ten minutes)"
	@echo "make test-all  the same with the slow tests"
	@echo "make test-install  build the wheel and the sdist, install and run them, hold README against the demo"
	@echo "make test-newest  what needs no torch, on the newest Python here with the newest versions"
	@echo "make test-gpu  on a machine with a GPU: its tests, and extraction's rates there"
	@echo "make format    format and fix the code"
	@echo "make docs      write the API pages into runs/docs"
	@echo "make guide     write the page of all configuration keys anew"
	@echo "make notebooks  execute the notebooks and write their outputs (SALIENT_IMDB: a folder with IMDb)"
	@echo "make lock      pin all versions anew in requirements.lock"

demo: $(VENV)/.demo
	$(BIN)/salient demo runs/demo

# In place, as a code host shows them; 02 on IMDb only where SALIENT_IMDB names it.
notebooks: $(VENV)/.dev
	test -d runs/demo || $(BIN)/salient demo runs/demo
	$(BIN)/python -m tests.notebooks

test check: lint
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m ''

# The wheel, made from the sdist, as users get it: the base alone, and with the demo.
test-install: $(VENV)/.dev
	$(BIN)/python -m tests.install

# On the newest Python here with the newest versions of all; what needs torch is left out.
test-newest: $(VENV)/.python
	$(BIN)/python -m tests.newest $(VENV)-newest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python tests/benchmarks/bench_extract.py --device cuda --models gpt2-xl roberta-base --json

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Salient needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml requirements.lock
	$(PIP) install -q -c requirements.lock -e '.[demo,explore]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml requirements.lock
	$(PIP) install -q -c requirements.lock -e '.[all,dev]'
	@touch $@

# Named one by one: a door exports some names, and pdoc would show nothing else.
ROOMS = $(filter-out %/__init__.py,$(wildcard store/*.py store/*/*.py pipeline/*/*.py))
# The face imports a name when it is first asked for, and pdoc shows what is there and is exported.
PDOC = $(BIN)/python -c 'import salient; from salient import *; salient.__all__ += ["open"]; from pdoc.__main__ import cli; cli()'
docs: $(VENV)/.dev
	$(PDOC) -d google -o runs/docs salient pipeline store $(subst /,.,$(basename $(ROOMS)))
	@echo "open runs/docs/index.html"

guide: $(VENV)/.dev
	$(BIN)/salient help --markdown > notebooks/guide/configuration.md

# Resolved afresh on the oldest supported Python, so that one file serves all; torch stays at its pin.
TORCH = 2.13.0
lock:
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install -q torch==$(TORCH) '.[all,dev,notebook]'
	{ echo '# All direct and indirect versions; written by `make lock`. Use: pip install -c requirements.lock ...'; \
	  $(VENV)-lock/bin/python -m pip freeze --all --exclude pip --exclude salient-neurons | sed 's/+cpu$$//'; } > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-newest runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
