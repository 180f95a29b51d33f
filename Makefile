# `make demo` and `make test` install everything into .venv first; nothing else needs doing.
PYTHON ?= python3
BIN := .venv/bin
INPUT ?=
OUT ?= demo_out
N ?= 10000
MINUTES ?= 60

.PHONY: demo test test-fast test-long fuzz soak lint bench clean

# torch is pinned: an open range can pull gigabytes of CUDA libraries onto a machine without a GPU.
.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools<80" wheel
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[cpu,ros,train,demo,ray,test]"
	touch $@

demo: .venv/installed
	$(BIN)/vss demo --out "$(OUT)" $(if $(INPUT),--input "$(INPUT)")

test: test-fast
	$(BIN)/python -m pytest -m "ros and not slow and not long"

# Two processes; those of ROS measure, or share the network, and run alone.
test-fast: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not ros and not long" -n 2 --dist loadfile

# What only .ci/run waits for: slow tests, faults of real processes, killed trainings.
test-long: .venv/installed
	$(BIN)/python -m pytest -m "(slow or long) and not ros" -n 2 --dist worksteal
	$(BIN)/python -m pytest -m "(slow or long) and ros"

# make fuzz N=1000000: so many mutated inputs for each target in tests/fuzz.
fuzz: .venv/installed
	VSS_FUZZ=$(N) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz -n 2 --dist worksteal

# make soak MINUTES=60: the nodes at 30 Hz; memory, descriptors, threads and frames each minute, also in soak.txt;
# nice -n 10 make soak: beside other work.
soak: .venv/installed
	$(BIN)/python tests/faults/soak.py --minutes $(MINUTES)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/vss bench

clean:
	rm -rf .venv build install log demo_out runs
