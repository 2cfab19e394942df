# `make demo` and `make test` set up .venv by themselves; PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# tests/conftest.py orders the files; pytest-xdist's own order would leave the slowest to the end.
PYTEST := $(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
# The room that `make check` looks at.
ROOM ?= losses

.PHONY: demo test test-ci test-all check lint format docs lock clean

demo: $(INSTALLED)
	$(VENV)/bin/python scripts/demo.py

test: lint
	$(PYTEST) -m "not slow"

test-ci: lint
	$(PYTEST) -m "not exhaustive"

test-all: lint
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow" tests/$(ROOM)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(VENV)/bin/lint-imports --no-cache

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(INSTALLED)
	$(VENV)/bin/sphinx-build -W --keep-going -b html docs docs/_build/html

$(INSTALLED): setup.cfg pyproject.toml requirements.lock .ci/setup
	@bash .ci/setup "$(PYTHON)" "$(VENV)"
	@touch $@

# Pins for every supported Python; needs uv (pip install uv).
lock:
	uv pip compile setup.cfg --extra dev --extra docs --extra heic --extra onnx --extra serve --universal --python-version 3.11 \
	    --no-header --no-annotate --upgrade -o requirements.lock

clean:
	rm -rf $(VENV) build docs/_build *.egg-info .pytest_cache .ruff_cache
