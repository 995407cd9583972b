# `make demo` and `make test` do everything, from an empty machine with Python >= 3.10 and make.
# VENV=/path/to/env reuses an environment; PYTHON=python3.12 chooses the interpreter that makes a new one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
WORKERS ?= 2

# What the environment was last installed for: this checkout and this setup.cfg. Anything else means: install.
WANTED := $(CURDIR) $(shell cat setup.cfg pyproject.toml | cksum)
STAMP := $(VENV)/.thinyolo

.PHONY: demo test install lint clean help

help:
	@echo "make demo   train, sparsify, prune and distil a small YOLO on drawn pictures; prints a table, writes a report"
	@echo "make test   ruff, mypy and the tests"
	@echo "make clean  remove runs/ and caches (the environment stays)"

install:
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(WANTED)" ]; then \
	  $(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"ThinYOLO needs Python >= 3.10, and $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 ...") if v < (3, 10) else None' || exit 2; \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 2; }; \
	  echo "Installing into $(VENV) (PyTorch is large: some minutes the first time) ..."; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' || exit 2; \
	  echo "$(WANTED)" > $(STAMP); \
	fi

demo: install
	$(BIN)/python train_prune.py --hyp cfg/hyp/demo.yaml $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { echo "Not formatted: $(BIN)/ruff format ."; exit 1; }
	$(BIN)/mypy

# One torch thread a worker: the networks are tiny, and two workers fill two cores. A file is one worker's, with its fixtures.
test: lint
	OMP_NUM_THREADS=1 WANDB_MODE=offline $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

clean:
	rm -rf runs wandb build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
