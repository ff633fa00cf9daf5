# One line a target; the logic is in the Python. TARGET=, RECIPE=, BASELINE= and PYTHON= choose.
PYTHON ?= python3
RECIPE ?= signs
TARGET ?= cpu
RUN := .venv/bin/

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml runtime/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(RUN)pip install --disable-pip-version-check -q -c constraints.txt -e './runtime[onnxruntime,openvino]' -e '.[dev,tensorrt-rtx]' && touch $@

build: .venv/ready ## build RECIPE for TARGET into dist/
	$(RUN)enginewright build $(RECIPE) --target $(TARGET) $(ARGS)

plan: .venv/ready ## show the steps, and which are reused
	$(RUN)enginewright plan $(RECIPE) --target $(TARGET) $(ARGS)

why: .venv/ready ## name what changed since the last build
	$(RUN)enginewright why $(RECIPE) --target $(TARGET) $(ARGS)

gate: .venv/ready ## compare the bundle of RECIPE for TARGET with the bundle BASELINE
	$(RUN)enginewright gate dist/$(RECIPE)-$(TARGET).ewb --against $(BASELINE) $(ARGS)

doctor: .venv/ready ## what this host can build, run and measure
	$(RUN)enginewright doctor $(ARGS)

train: .venv/ready ## train the weights of RECIPE
	$(RUN)python recipes/$(RECIPE)/train.py $(ARGS)

bench: .venv/ready ## print the measured claims of the README
	$(RUN)python -m benchmarks

test: .venv/ready ## pass the tests
	$(RUN)python -m pytest $(ARGS)

check: .venv/ready ## ruff, mypy --strict and the dependency rules
	$(RUN)ruff check . && $(RUN)ruff format --check . && $(RUN)mypy builder runtime/enginewright_runtime && ls -d recipes/*/ | xargs -I{} sh -c 'cd {} && ../../$(RUN)mypy .'

wheel: .venv/ready ## build both wheels into dist/
	$(RUN)pip wheel --no-deps --wheel-dir dist . ./runtime

.PHONY: help build plan why gate doctor train bench test check wheel
.DEFAULT_GOAL := help
