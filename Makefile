# Each command makes the virtual environment that it needs, once: all it asks for is Python and make.
#   make PYTHON=python3.12 ...   another Python
#   make JOBS=8 test             more processes for the tests

PYTHON ?= python3
JOBS ?= 2
SHELL := /bin/bash

.PHONY: help quickstart test lint docs wheel clean
.SECONDARY:

help:
	@echo 'make quickstart   train a small network on real digits, HierarchicalLOpt beside Adam'
	@echo 'make test         check the code, run all tests on JAX, TensorFlow and PyTorch'
	@echo 'make lint         check the code only'
	@echo 'make docs         build the pages of docs/, with the reference from docstrings, into build/docs'
	@echo 'make wheel        build the package into dist/'
	@echo 'make clean        remove the environments and what was built'

quickstart: .venv-research/ready
	@KERAS_BACKEND=jax .venv-research/bin/python -m eval quickstart

# By `worksteal` a worker keeps to neighbouring tests, which share what they compile.
test: lint
	@set -e; for backend in jax tensorflow torch; do \
	    echo "tests on $$backend"; \
	    KERAS_BACKEND=$$backend .venv-dev/bin/python -m pytest -n $(JOBS) --dist worksteal; \
	done

lint: .venv-dev/ready
	@.venv-dev/bin/ruff check --quiet .
	@.venv-dev/bin/mypy --no-error-summary

docs: .venv-docs/ready
	@.venv-docs/bin/mkdocs build --strict --quiet
	@echo build/docs/index.html

wheel: .venv-dev/ready
	@.venv-dev/bin/python -m build --wheel --no-isolation >/dev/null
	@ls dist/*.whl

clean:
	rm -rf .venv-* build dist *.egg-info

# .venv-X holds the extra X of pyproject.toml, and is made anew when that file changes.
.venv-%/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@echo "making the environment .venv-$*, once; this takes some minutes"
	@rm -rf .venv-$*
	@$(PYTHON) -m venv .venv-$*
	@# Of some 18,000 modules some 2,600 are ever imported: those Python compiles by itself.
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
	    --editable '.[$*]'
	@touch $@
