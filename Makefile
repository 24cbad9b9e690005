# make demo    the whole story on the embedded model, from nothing: python3 >= 3.11 and PyPI are enough
#              (make demo DEMO="--model embedded-llava" hands options on)
# make test    ruff, mypy and every test, from nothing
# make lint    ruff and mypy alone
# make clean   remove the environment and the caches; runs/ (your results) stays

PYTHON ?= python3
TORCH := 2.13.0
DEMO ?=
TESTS ?= tests

# An active environment that already holds torch >= 2.11 (a CUDA build, say) is used as it is, and its torch is
# left alone. Otherwise everything goes into .venv, where torch comes first and at one exact version: that is the
# small CPU build where the index has one, while an open range may pull gigabytes of CUDA packages.
ACTIVE := $(filter-out $(CURDIR)/.venv,$(or $(VIRTUAL_ENV),$(CONDA_PREFIX)))
ifneq ($(ACTIVE),)
TORCH_CHECK := from importlib.metadata import version; \
  major, minor = version("torch").split(".")[:2]; print("yes" if (int(major), int(minor)) >= (2, 11) else "no")
HAS_TORCH := $(shell '$(ACTIVE)/bin/python' -c '$(TORCH_CHECK)' 2>/dev/null)
endif

ifeq ($(HAS_TORCH),yes)
BIN := $(ACTIVE)/bin
READY := build/ready$(subst /,-,$(ACTIVE))
else
BIN := .venv/bin
READY := .venv/ready
endif

# One thread to a process: the tests run in two processes, and the models are too small for more to help.
QUIET := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
ALONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: demo test lint install clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(QUIET) $(BIN)/ressa demo $(DEMO)

test: lint
	$(QUIET) $(ALONE) $(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(READY)

.venv/ready: pyproject.toml constraints.txt
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ressa needs Python 3.11 or newer, but '$(PYTHON)' is $$('$(PYTHON)' --version 2>&1 || true):" \
	       "name another one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x .venv/bin/python || '$(PYTHON)' -m venv .venv
	@echo "Setting up .venv: PyTorch $(TORCH) first, then the rest (once, a few hundred megabytes)"
	.venv/bin/python -m pip install --quiet torch==$(TORCH)
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[test]"
	@touch $@

build/ready-%: pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@mkdir -p build && touch $@

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
