# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer.
# On Linux PyPI's torch brings CUDA along (gigabytes). Without a GPU:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup

# run it rather than look for it: a version manager's shim is found even where it leads nowhere
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed

# each writes benchmarks/results/NAME.json
BENCHMARKS ?= demo busy cifar10_resnet20 trial_cost latency_aa latency_order latency_coverage latency_explain latency_ssh samplers \
              search_hour knobs workers throughput scale faults night fuzz coverage real_models techniques conversions first_front structure startup
SCRIPTS = $(wildcard $(BENCHMARKS:%=benchmarks/%.py))

.PHONY: setup demo test lint bench docs

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, say: make PYTHON=/path/to/it")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[demo,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/paretopress demo

# a process a core; torch's threads of one would wait for those of the other
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout=600 -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)
	set -e; for script in $(SCRIPTS); do echo "== $$script"; $(BIN)/python $$script; done

docs: $(STAMP)
	$(BIN)/python benchmarks/readme_tables.py
