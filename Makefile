# Works on a fresh clone with Python 3.11 or later, make and a package index. Installs nothing outside this folder.
# pip's and uv's own configuration is honoured.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo check test bench pins clean static fast full matrix

BIN := .venv/bin

# The first Python that is new enough; `make PYTHON=…` takes another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

# uv reads no configuration of pip's. Where pip is told of an index or a certificate and uv of neither, uv is told the same.
# (Extra indexes are not passed on: pip takes the best version from all of them, uv all versions from the first.)
pip-says = $(shell { .tools/bin/python -m pip config list || $(PYTHON) -m pip config list; } 2>/dev/null \
	| sed -n "s/^[^=]*\.$(1)='\(.*\)'$$/\1/p" | head -n 1)
as-pip = $(if $($(1)),,$(foreach value,$(call pip-says,$(2)),$(1)='$(value)'))
uv-index := $(UV_DEFAULT_INDEX)$(UV_INDEX_URL)$(UV_INDEX)$(UV_CONFIG_FILE)$(wildcard /etc/uv/uv.toml \
	$(or $(XDG_CONFIG_HOME),$(HOME)/.config)/uv/uv.toml)
uv-env = $(if $(uv-index),,$(call as-pip,UV_DEFAULT_INDEX,index-url)) \
	$(call as-pip,UV_INSECURE_HOST,trusted-host) $(call as-pip,SSL_CERT_FILE,cert)
uv = $(uv-env) .tools/bin/uv

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1 # it would ask the network for a newer version of itself

help:
	@echo 'make demo     a guarded agent, stopped, and its trace'
	@echo 'make check    style, types, imports and the fast tests'
	@echo 'make test     make check with all tests, coverage, and every supported framework version'
	@echo 'make bench    the benchmarks; ARGS=--quick for short ones'
	@echo 'make install  the environment in .venv, which the others make themselves'
	@echo 'make pins     writes constraints/ anew; ARGS=--upgrade takes newer versions'
	@echo 'make clean    removes everything made'

demo: install
	@$(BIN)/shearpin demo

check: static fast

test: static full matrix

bench: install
	@set -e; for script in $(wildcard benchmarks/[!_]*.py); do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

static: install
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

parallel := --numprocesses=auto --dist=worksteal

fast: install
	$(BIN)/pytest $(parallel) -m 'not slow'

full: install
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(parallel)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

matrix: install
	@$(uv) tool run --quiet --isolated --from tox --with-requirements constraints/matrix.txt tox run

# ----------------------------------------------------------------------------------------------------- environment

install: .venv/stamp

.venv/stamp: pyproject.toml constraints/dev.txt .tools/stamp
	@echo 'Installing into .venv …'
	@$(uv) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@$(uv) pip sync --quiet --python $(BIN)/python constraints/dev.txt
	@$(uv) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# The project's own uv: by pip in an environment; where Debian's python3 cannot make one, by pip into a folder; where
# there is no pip either, the machine's uv.
.tools/stamp: constraints/tools.txt
	@[ -n '$(PYTHON)' ] || { echo 'Python 3.11 or later is needed, as python3 or with make PYTHON=…' >&2; exit 1; }
	@rm -rf .tools
	@if $(PYTHON) -m venv .tools >/dev/null 2>&1; then \
		.tools/bin/python -m pip install --quiet --requirement $<; \
	elif rm -rf .tools; $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		PIP_REQUIRE_VIRTUALENV=0 PIP_USER=0 $(PYTHON) -m pip install --quiet --target .tools --requirement $<; \
	elif command -v uv >/dev/null; then \
		mkdir -p .tools/bin && ln -s "$$(command -v uv)" .tools/bin/uv; \
	else \
		echo "$(PYTHON) has neither venv nor pip, and there is no uv: install one of them (Debian: python3-venv)" >&2; exit 1; \
	fi
	@touch $@

pin = $(uv) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --custom-compile-command 'make pins' \
	$(ARGS) --output-file constraints

pins: .tools/stamp
	@$(pin)/tools.txt --group tools
	@$(pin)/matrix.txt --group matrix
	@$(pin)/dev.txt pyproject.toml --extra langgraph --extra openai-agents --group dev
	@$(pin)/core.txt pyproject.toml --group test
	@$(pin)/langgraph-newest.txt pyproject.toml --extra langgraph --group langgraph-newest --group test
	@$(pin)/langgraph-floor.txt pyproject.toml --extra langgraph --group langgraph-floor --group test --resolution lowest-direct
	@$(pin)/crewai-newest.txt pyproject.toml --group crewai-newest --group test
	@$(pin)/crewai-floor.txt pyproject.toml --group crewai-floor --group test
	@$(pin)/openai-agents-newest.txt pyproject.toml --extra openai-agents --group openai-agents-newest --group test
	@$(pin)/openai-agents-floor.txt pyproject.toml --extra openai-agents --group openai-agents-floor --group test

clean:
	rm -rf .venv .tools .tox .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist shearpin-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
