# Each target works as the first command on a fresh clone: it sets up what it needs.
.PHONY: demo test lint format bench readme lock
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

# The simulated fleet and the daemon that polls it; Ctrl-C ends both.
demo: .venv/run
	@exec $(BIN)/vmss-upgrade-exporter demo --web.listen-address=127.0.0.1:9847

# Lint, types and every test.
test: .venv/test .venv/packages lint
	$(BIN)/pytest $(PYTEST_ARGS)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The figures that the README and the commit messages quote. Timings are measured, never asserted.
bench: .venv/test .venv/packages
	$(BIN)/python -m tests.bench

# The README's tables of metrics, from the code.
readme: .venv/test
	$(BIN)/python -m tests.readme

# New versions within pyproject.toml's bounds, with their hashes.
LOCK := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --build-deps-for=editable pyproject.toml
lock: .venv/test
	$(PIP) install pip-tools
	$(LOCK) --output-file=requirements.txt
	$(LOCK) --extra=test --constraint=requirements.txt --output-file=tests/requirements.txt

# Debian's python3 comes without ensurepip; python3-venv brings it.
.venv/bin/pip:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/debian-packages python3-venv
	$(PYTHON) -m venv .venv

.venv/run: requirements.txt pyproject.toml | .venv/bin/pip
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/test: tests/requirements.txt .venv/run
	$(PIP) install --require-hashes -r tests/requirements.txt
	@touch $@

# The real Prometheus, nginx: what the tests and the benchmark drive.
.venv/packages: tests/debian-packages | .venv/bin/pip
	tests/debian-packages prometheus nginx-light
	@touch $@
