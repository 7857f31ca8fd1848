# The commands of the README. GNU make 3.81 is enough.
#   make lab       JupyterLab on the notebooks, with everything behind them
#   make test      every test that needs no browser
#   make check     the quick part of it: linters, types, unit and contract tests
#   make demo      the main job once, without a browser
#   make browser   the tests in Chromium
#   make real-like the lessons against a stand-in that behaves in time as a real Sequin server does
#   make bench     rates and latencies beside a yardstick of the same run: 15 minutes (bench-quick: 2; bench-full: the long ones)
#   make torture   the engine under crashes, outages, dead receivers and a soak: about 25 minutes
#   make clean     remove everything that the commands above made
#   make notebooks / clean-notebooks / lock   for those who change the project

SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/installed
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: install lab lint test check demo browser real-like bench bench-quick bench-full torture clean notebooks clean-notebooks lock

install: $(STAMP)

# Made anew when what is to be installed has changed; offline otherwise. Compiled code halves the time in which a program starts, also
# where Python may not write it.
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
	$(BIN)/pytest -q --numprocesses 3 --dist loadfile --no-loadscope-reorder --ignore tests/browser
	$(BIN)/python -m tests.notebooks.strictly

demo: $(STAMP)
	$(BIN)/userhooks demo

browser: $(STAMP)
	$(BIN)/pytest -q tests/browser

real-like: $(STAMP)
	$(BIN)/pytest -q tests/real_like tests/notebooks/test_real_like.py

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
