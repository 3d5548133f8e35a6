# make run    a fresh machine: environment, then the quick grid, then its figures
# make test   a fresh machine: environment, then every test
# make site   the book, in build/site: pages, executed notebooks, an explorer of the runs
# make lint, make format: the sources' style; make lab: JupyterLab
# PYTHON=python3.12 make run: another Python (3.10 or later) for the environment in .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
NOTEBOOKS = $(filter-out %rendered.ipynb,$(wildcard trials/*.ipynb trials/*/*.ipynb figures/*.ipynb))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test site lint format lab
.DEFAULT_GOAL := run

run: $(VENV)/run.stamp
	@$(BIN)/python -m trials run quick --jobs $(JOBS)
	@echo "Drawing the figures"
	@$(BIN)/python -m trials figures quick

# Each test process computes on one thread: more would only get in each other's way.
test: $(VENV)/test.stamp
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

site: $(VENV)/site.stamp
	@$(BIN)/python -m sphinx -q -E -c docs -d build/doctrees . build/site
	@echo "Open build/site/index.html"

lint: $(VENV)/test.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/nbstripout --keep-id --verify $(NOTEBOOKS)

format: $(VENV)/test.stamp
	@$(BIN)/python -m trials forms
	@$(BIN)/nbstripout --keep-id $(NOTEBOOKS)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lab: $(VENV)/run.stamp
	@$(BIN)/jupyter lab

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is not a Python from 3.10 on; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: requirements.txt | $(VENV)/made.stamp
	@echo "Installing requirements.txt into $(VENV) (once; torch is large)"
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/site.stamp: requirements.txt requirements-docs.txt | $(VENV)/made.stamp
	@echo "Installing requirements-docs.txt into $(VENV) (once; torch is large)"
	@$(PIP) -r requirements-docs.txt
	@touch $@

$(VENV)/test.stamp: requirements.txt requirements-dev.txt requirements-docs.txt | $(VENV)/made.stamp
	@echo "Installing requirements-dev.txt into $(VENV) (once; torch is large)"
	@$(PIP) -r requirements-dev.txt
	@touch $@ $(VENV)/run.stamp $(VENV)/site.stamp
