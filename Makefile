# Two commands set everything up on a fresh machine: `make ask` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLE := out/example.mp4

.PHONY: ask test test-all lint clean

ask: $(INSTALLED)  ## Write a short video and ask the embedded model about it.
	$(BIN)/python -m longva.nano.world $(EXAMPLE)
	$(BIN)/longva ask $(EXAMPLE) "What is shown at the beginning?" --max-new-tokens 24

test: $(INSTALLED)  ## The fast suite: under 5 minutes on 2 cores.
	$(BIN)/python -m pytest -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

# torch goes first and alone: the registry's newest build would bring gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out
