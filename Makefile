# The commands in the README. Requires GNU make 3.81 or newer.
#   make lab        open JupyterLab on your copies of the lessons, with everything they need running
#   make test       run every test that does not need a browser
#   make check      run the fast checks: linters, types, unit tests, contract tests
#   make demo       run the whole flow once, without a browser
#   make browser    run the tests in Chromium
#   make real-like  run the lessons, in a row and each alone, against a stand-in with the timing of a real Sequin server
#   make bench      measure rates and latencies next to a baseline: 15 minutes (bench-quick: 2 minutes; bench-full: also the long parts)
#   make torture    test the engine with crashes, outages, dead receivers, and a soak: about 25 minutes
#   make clean      remove everything that the commands above created, except lessons that you changed
#
# For developers of this project:
#   make install           create .venv
#   make lint              run only the linters and type checks
#   make notebooks         run all notebooks and store their outputs
#   make clean-notebooks   normalize notebooks after editing them by hand
#   make lock              update requirements.lock

SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/installed
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: install lab lint test check demo browser real-like bench bench-quick bench-full torture clean notebooks clean-notebooks lock

install: $(STAMP)

# Reinstall only when the dependencies have changed; otherwise, no network is needed. Compiling ahead halves the start time of programs,
# even where Python cannot write .pyc files itself.
$(STAMP): requirements.lock pyproject.toml
	@sh .ci/make-venv "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q userhooks
	@touch $(STAMP)

lab: $(STAMP)
	$(BIN)/userhooks lab

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.notebooks.normalise --check $(NOTEBOOKS)

check: lint
	$(BIN)/pytest -q --numprocesses 3 --dist loadfile tests/unit tests/contract

test: lint
	$(BIN)/pytest -q --numprocesses 4 --dist loadfile --no-loadscope-reorder --ignore tests/browser

demo: $(STAMP)
	$(BIN)/userhooks demo

browser: $(STAMP)
	$(BIN)/pytest -q --numprocesses 2 --dist loadfile tests/browser

real-like: $(STAMP)
	$(BIN)/pytest -q tests/real_like tests/notebooks/test_real_like.py
	$(BIN)/python -m tests.notebooks.real_like

bench: $(STAMP)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.inspector
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m benchmarks.ledger

bench-quick: $(STAMP)
	$(BIN)/python -m benchmarks quick

bench-full: $(STAMP)
	$(BIN)/python -m benchmarks full

torture: $(STAMP)
	$(BIN)/python -m tests.torture

notebooks: $(STAMP)
	$(BIN)/python -m tests.notebooks.refresh $(NOTEBOOKS)

clean-notebooks: $(STAMP)
	$(BIN)/python -m tests.notebooks.normalise $(NOTEBOOKS)

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --no-annotate \
		--python-version 3.11 --all-extras pyproject.toml -o requirements.lock

clean:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m tests.remove_home; fi
	rm -rf .venv .userhooks build userhooks.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
