# Two commands on a fresh machine: `make demo` and `make test`. Both install into .venv first.
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= faml_demo
SIZE ?= standard
PAPER ?= paper_experiments
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist loadfile
FAML_SHARED_DATA ?= ../shared/data
# One thread in BLAS: the work is parallel over particles.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: help install test test-all test-faults test-fuzz demo gui screenshots lint audit docs bench paper clean

help:
	@echo 'make test       the fast tests (installs into .venv first)'
	@echo 'make test-all   also the slow ones'
	@echo 'make test-faults  killed runs, full disks, the same bits on any workers'
	@echo 'make test-fuzz  more than 10,000 damaged files, tables and commands'
	@echo 'make demo       simulate, pick, extract, classify and evaluate in one Scipion project'
	@echo 'make gui        open that project in the Scipion window'
	@echo 'make screenshots  pictures of forms, wizards and viewers for docs/images (Xvfb, openbox)'
	@echo 'make lint       ruff, mypy and bandit'
	@echo 'make audit      known vulnerabilities of what is installed (needs the internet)'
	@echo 'make docs       the documentation as a site, in docs/_build/html'
	@echo 'make bench      time of the kernels and of one iteration'
	@echo 'make paper      the experiments of the FAML paper (hours; finished ones are kept)'
	@echo 'make clean      remove .venv and what was built'

$(VENV)/.installed: setup.py pyproject.toml tools/bootstrap.sh $(wildcard cython_ext/*.pyx)
	@tools/bootstrap.sh

install: $(VENV)/.installed

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q $(PARALLEL)

test-faults: $(VENV)/.installed
	FAML_FAULTS=full $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m 'faults or slow' tests/faults tests/test_dask_faults.py

test-fuzz: $(VENV)/.installed
	FAML_FUZZ=full $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m fuzz tests/fuzz

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m 'slow or not slow' $(PARALLEL)

demo: $(VENV)/.installed
	$(BIN)/scipion-faml demo --size $(SIZE) --output $(DEMO)

gui: $(VENV)/.installed
	$(BIN)/python -m scipion_faml.scipion_env gui $(DEMO)

screenshots: $(VENV)/.installed
	$(BIN)/python tools/screenshots.py $(if $(wildcard $(DEMO)/projects),--project $(DEMO))

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit -q -r -c pyproject.toml scipion_faml protocols viewers tools examples benchmarks setup.py

# Needs the internet, so it is no part of the tests.
audit: $(VENV)/.installed
	$(BIN)/python -m venv build/audit && build/audit/bin/pip install -q pip-audit
	build/audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Warnings are errors: a link that leads nowhere, a docstring that cannot be shown.
docs: $(VENV)/.installed
	@$(BIN)/python -c 'import sphinx, myst_parser, furo' 2>/dev/null || EXTRAS=docs tools/bootstrap.sh
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/iteration.py
	$(BIN)/python benchmarks/enhanced_iteration.py

paper: $(VENV)/.installed
	$(BIN)/python benchmarks/paper/run.py --jobs 2 --output $(PAPER) $(if $(wildcard $(FAML_SHARED_DATA)),--data $(FAML_SHARED_DATA))

clean:
	rm -rf $(VENV) docs/_build docs/protocols docs/verbs build dist *.egg-info cython_ext/*.c cython_ext/*.so .pytest_cache .mypy_cache .ruff_cache
