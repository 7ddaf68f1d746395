# Two commands set everything up on a fresh machine: `make ask` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLE := out/hour.mp4

.PHONY: ask test test-slow test-eval lint clean

ask: $(INSTALLED)  ## Write an hour of film that shows an anchor for one second, and ask about it.
	$(BIN)/python -m longva.nano.film $(EXAMPLE) --hide anchor
	$(BIN)/longva ask $(EXAMPLE) "What number is with the anchor?" "What color is behind the anchor?" \
	    --fps 1 --max-frames 3600 --evidence 1

test: $(INSTALLED)  ## The fast suite: under 5 minutes on 2 cores.
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## What takes long and seldom fails: whole runs twice, four ranks, a process a section.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow tests

test-eval: $(VENV)/.installed-eval  ## Every benchmark through lmms-eval, on fixtures.
	$(BIN)/python -m pytest tests/evaluate

$(VENV)/.installed-eval: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[eval]"
	$(BIN)/python -m pip install --quiet --no-deps lmms-eval==0.7.3
	touch $@

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
