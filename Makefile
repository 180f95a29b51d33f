# `make demo` and `make test` install everything into .venv first; nothing else needs doing.
PYTHON ?= python3
BIN := .venv/bin
INPUT ?=
OUT ?= demo_out

.PHONY: demo test test-fast lint bench clean

# torch is pinned: an open range can pull gigabytes of CUDA libraries onto a machine without a GPU.
.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools<80" wheel
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[cpu,ros,train,demo,ray,test]"
	touch $@

demo: .venv/installed
	$(BIN)/vss demo --out "$(OUT)" $(if $(INPUT),--input "$(INPUT)")

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not ros"
	$(BIN)/python -m pytest -m "ros and not slow"
	$(BIN)/python -m pytest -m slow

test-fast: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not ros"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/vss bench

clean:
	rm -rf .venv build install log demo_out runs
