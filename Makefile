# The project's verbs. Everything is installed into .venv; nothing outside this folder is changed.
#   make demo                       install once, then read a whole book through pages and write report.html
#   make demo PYTHON=python3.12     the same with another interpreter (3.11 or newer)
#   make demo ARGS="--text my.txt"  further options of `vist demo`
# `make help` lists the rest.

PYTHON ?= python3
ARGS ?=
# Test files that run side by side, each with its share of at most two threads of torch.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := src tests benchmarks examples docs
NEEDS := pyproject.toml constraints.txt

.PHONY: help demo test lint docs bench clean

help:  ## what each verb does
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F '\t' '{printf "make %-6s %s\n", $$1, $$2}'

demo: $(VENV)/.stamp-demo  ## install once, run the demo on the packaged book, write report.html and report.json
	$(BIN)/vist demo $(ARGS)

test: lint  ## lint, types and the whole test suite (installs the development extras once)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(VENV)/.stamp-dev  ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

docs: $(VENV)/.stamp-dev  ## write docs/cli.md from the help texts and draw docs/images again
	$(BIN)/python -m vist.cli.reference > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md
	$(BIN)/python docs/images/flow.py
	test ! -f docs/images/training.json || $(BIN)/python docs/images/training.py

bench: $(VENV)/.stamp-dev  ## speed of rendering beside others, and what the packaged encoder reads of the packaged book
	$(BIN)/python benchmarks/render.py
	$(BIN)/python benchmarks/reading.py --text src/vist/assets/texts/alice_in_wonderland.txt

clean:  ## remove .venv, caches and build output (never runs/ or reports)
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written only after its step has succeeded, so an interrupted install is taken up again.

# Some systems ship Python without ensurepip; there the system's own pip puts pip into the new environment.
$(VENV)/.stamp-venv:
	@command -v $(PYTHON) >/dev/null || { echo "make: '$(PYTHON)' was not found; install Python 3.11 or newer or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: vist needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) -V); name another one: make PYTHON=python3.12"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	  { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	@touch $@

# The build backend comes from the same pins (a build environment of pip's own would take the newest instead).
$(VENV)/.stamp-build: $(VENV)/.stamp-venv $(NEEDS)
	$(PIP) install -c constraints.txt setuptools
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-build $(NEEDS)
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-build $(NEEDS)
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.stamp-demo
