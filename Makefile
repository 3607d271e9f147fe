# The two commands of the README are `make demo` and `make test`; both set up what is missing.
BIN := .venv/bin
.PHONY: help setup demo test usb browser check bench lint types imports clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: ## system packages, virtual environment, Python packages
	@scripts/setup.sh

demo: setup ## three virtual phones, a real model, a real evaluation, a pulled cable
	@$(BIN)/mobifarm demo

test: setup ## the whole test suite
	$(BIN)/python -m pytest

usb: setup ## the tests on real USB, in an emulated machine; installs what they need (about 100 MB) first
	@scripts/setup_usb.sh
	$(BIN)/python -m pytest tests/usb

browser: setup ## the tests of the live page in a real browser; installs chromium first
	@scripts/setup_browser.sh
	$(BIN)/python -m pytest tests/browser

check: setup lint types imports ## the fast path before a commit: lint, types, walls, unit tests
	$(BIN)/python -m pytest tests/unit -q

bench: setup ## the editing methods against the baselines, some minutes; ARGUMENTS="--records 200" for a full run
	@$(BIN)/python -m mobifarm.workloads.models.cli build smollm2-135m-instruct
	@$(BIN)/python tests/bench/editors.py --output bench.json $(ARGUMENTS)

lint: setup ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

imports: setup ## the walls between the rooms
	$(BIN)/lint-imports

clean: ## remove what the set-up made in this folder
	rm -rf .venv .setup-stamp .pytest_cache .mypy_cache .ruff_cache build dist test-artefacts bench.json
