# Both commands do all the set-up on a fresh machine: a virtual environment, pinned dependencies, the job.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help reproduce test test-torch lint setup clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

reproduce: setup  ## train, analyse, draw and report the embedded study and its escape experiment (minutes on 2 cores)
	$(BIN)/saddlescope reproduce digits-lt digits-lt-escape

# Files are shared out to processes of one thread each: small matrices gain nothing from more.
PYTEST := -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: setup  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

# Everything but torch as in constraints.txt; the environment is kept under build/, and is not that of the other targets.
test-torch:  ## the test suite on another torch: make test-torch TORCH=2.14.1 WITH="torchvision timm" TESTS=tests/training
	@test -n "$(TORCH)" || { echo "say which: make test-torch TORCH=2.14.1" >&2; exit 2; }
	$(PYTHON) -m venv build/torch-$(TORCH)
	grep -v '^torch==' constraints.txt > build/torch-$(TORCH)/constraints.txt
	build/torch-$(TORCH)/bin/pip install --quiet --disable-pip-version-check -c build/torch-$(TORCH)/constraints.txt \
	  torch==$(TORCH) $(WITH) -e ".[test]"
	OMP_NUM_THREADS=1 build/torch-$(TORCH)/bin/python $(PYTEST) $(TESTS)

lint: $(VENV)/.lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_types.py

setup: $(VENV)/.test  ## the virtual environment

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lint]"
	@touch $@

clean:  ## everything that make made, results excepted
	rm -rf $(VENV) build *.egg-info
