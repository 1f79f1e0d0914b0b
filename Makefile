# make repro: environment, pipeline, main table.   make test: environment, linters, types, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint requirements.lock
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test format clean-env

repro: $(VENV)/.default
	dvc repro
	s2kd table

test: $(VENV)/.test
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -n 2

format: $(VENV)/.test
	ruff check --fix .
	ruff format .

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.default: $(VENV)/.python pyproject.toml requirements.lock
	$(INSTALL) --editable '.[twin]'
	touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml requirements.lock
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/.default

clean-env:
	rm -rf $(VENV)
