# README's two commands are `make run` and `make test`; `make check` is what CI runs.
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# How much `make soak` simulates: SIM="--seeds N", "--incidents N" or "--minutes M".
SIM ?= --minutes 60
# Empty is off. An image that sets it has each of the tests' daemons compile all of healctl anew: half its start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check compiled lint sim soak bench man screenshots clean

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# With a configuration: the daemon in the foreground. Without one: the demo.
run: $(STAMP)
	@if $(VENV)/bin/healctl check --configured; then exec $(VENV)/bin/healctl start; else exec $(VENV)/bin/healctl demo; fi

test: $(STAMP)
	./tests/parts.sh
	$(MAKE) check

check: $(STAMP)
	$(MAKE) -j 2 lint compiled
	$(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not soak and not bench"
	$(MAKE) sim

# 2,000 short lives of the whole house, on virtual time; more: make soak, or python -m tests.sim --help.
sim: $(STAMP)
	$(PY) -m tests.sim --seeds 2000

# Once, beside the linters: else all of pytest's workers compile every test at the same time. What fails is told by them.
compiled: $(STAMP)
	@$(PY) -m pytest --collect-only -qq | tail -n 3

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

soak: $(STAMP)
	$(PY) -m pytest -q -m soak --timeout 3600
	$(PY) -m tests.sim --first 1000001 $(SIM) --no-coverage


bench: $(STAMP)
	@$(PY) -m tests.bench

# The manual pages, out of the words of --help; to read one: man -l build/man/healctl.1
man: $(STAMP)
	@$(PY) -m supervisor.cli.manual build/man

# The pictures in docs/screens, after a change of tui/; the PNGs need Debian's chromium. Look at them.
screenshots: $(STAMP)
	@$(PY) -m tests.tui.screenshots

clean:
	rm -rf $(VENV) .cache build *.egg-info
