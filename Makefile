# Every target sets up what it needs from a bare machine with Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROCESSES ?= 2

.PHONY: demo test check bench bench-cuda kernels docs clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[train,bench,dev]"
	touch $(READY)

demo: $(READY)          ## the main job on generated data: two minutes, then open the report it names
	$(BIN)/python -m delineate.data.demo demo
	$(BIN)/delineate inspect demo/lesions
	$(BIN)/delineate compare demo/streets --losses "CE" "Dice + CE" "Focal" --epochs 12 --seeds 1

test: $(READY)          ## unit tests and doctests, warnings are errors; PROCESSES=1 runs them one by one
	$(BIN)/python -m pytest -m "not slow" -n $(PROCESSES) --dist loadfile

check: $(READY)         ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)         ## times and memory beside other libraries, into benchmarks/results/
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/boundary.py
	$(BIN)/python benchmarks/instance.py

bench-cuda: $(READY)    ## the same on a GPU, which it needs, beside the floor that its memory sets
	$(BIN)/python benchmarks/on_cuda.py

kernels: $(READY)       ## the kernels compiled for GPUs that need not be there: registers, spills, tests of machine code
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/kernels.py --check
	$(BIN)/python -m pytest tests/ops/cuda --emulate 80 -n $(PROCESSES) --dist loadfile
	$(BIN)/python -m pytest tests/ops/cuda --emulate 90 -n $(PROCESSES) --dist loadfile

docs: $(READY)          ## the pictures and pages made from the code, then the site, into site/
	$(BIN)/python docs/gradients.py
	$(BIN)/python docs/build.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:
	rm -rf $(VENV) demo site
