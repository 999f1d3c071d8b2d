# Needs Python >= 3.10, make and a POSIX shell (on Windows that of WSL); the rest goes into .venv.
# Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo notebooks test bench lint types layers docs wheel format clean

demo: .venv/demo          ## One session shared by an agent and a chain; MODEL=openai:gpt-5-mini for a real model
	.venv/bin/python examples/demo.py $(MODEL)

notebooks: .venv/notebooks ## Run examples/*.ipynb anew and keep what they print; ARGS="quickstart" for some
	.venv/bin/python -m tests.notebooks $(ARGS)

test: .venv/test .venv/servers ## The whole suite; ARGS="-k expiry" for a part of it
	.venv/bin/python -m pytest -n auto --maxprocesses 4 $(ARGS)

bench: .venv/bench        ## The tables of tests/benchmarks; ARGS="get_tuple live" for some of them
	.venv/bin/python -m tests.benchmarks $(ARGS)

lint: .venv/lint          ## Style, and formatting
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/lint         ## The package, its public names and the examples, strictly
	.venv/bin/mypy

layers: .venv/lint        ## Which module may import which
	.venv/bin/lint-imports --no-cache

docs: .venv/docs          ## The site, into site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

wheel: .venv/wheel        ## The wheel alone, in an environment of its own, runs the README
	rm -rf dist .wheel
	PIP_CONSTRAINT=constraints.txt .venv/bin/python -m build
	$(PYTHON) -m venv .wheel
	.wheel/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl langchain
	cp tests/blocks.py README.md .wheel && cd .wheel && bin/python -I blocks.py README.md
	.wheel/bin/python -I -c 'from langchain_ttl_history import SessionBuffer; assert "style" in SessionBuffer()._repr_html_()'

format: .venv/lint
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv .wheel dist site

# One environment; each group of pyproject.toml is added to it when a target first needs it.
.venv/demo .venv/notebooks .venv/test .venv/bench .venv/lint .venv/docs .venv/wheel: .venv/pip pyproject.toml constraints.txt
	$(PIP) --build-constraint constraints.txt --editable . --group $(@F)
	@touch $@

# A Redis 7 for the tests, where Debian's can be installed; they say which servers they did without.
.venv/servers: .venv/pip
	@command -v redis-check-rdb redis-server >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-tools; } >/dev/null 2>&1 || \
		echo "no Redis 7 could be installed for the tests"
	@touch $@

# The pip that comes with Python 3.10 does not know dependency groups.
.venv/pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	@touch $@
