# make demo: the main job, on a machine that has nothing but Python 3.11 and make. make test: the tests. make docs: the site. make fuzz: damaged files. make bench: the costs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint fuzz docs bench bench-peers clean

demo: .venv/ready
	$(BIN)/opdiff demo --out demo

# Torch's threads sleep while they wait, and numpy has one: spinning ones cost the other worker its core.
test: .venv/llama_cpp lint
	OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# llama.cpp with its eval callback has no wheel: it compiles for some minutes, once. Without a compiler its tests are skipped.
.venv/llama_cpp: .venv/ready
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" $(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
		llama-cpp-python==0.3.36 || echo "llama-cpp-python cannot be built here: its tests are skipped"
	touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.venv/types $(BIN)/mypy -p opdiff.exporters -p opdiff.graphs -p opdiff.compare -m opdiff.__main__ -m opdiff.api

# Everything is pinned in requirements.lock, so nothing is resolved; torch brings what its build needs. opdiff is installed to be edited.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	mkdir -p .venv/types && ln -sfn ../.. .venv/types/opdiff
	touch $@

# Damaged files of each format; FUZZ has the options, as in FUZZ="--format gguf --cases 1000 --seconds 60".
FUZZ ?=
fuzz: .venv/ready
	cd tests && ../$(BIN)/python -m fuzz --out ../fuzzed $(FUZZ)

# The site, from docs/: build/docs/index.html.
docs: .venv/ready
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

# Needs 10 GB of disk and a quiet machine. It prints its tables as Markdown.
bench: .venv/ready
	cd tests && ../$(BIN)/python -m benchmarks.bench

# Other tools on the same pairs, from an environment of their own. Needs 20 GB of disk.
PEERS := .venv/peers
bench-peers: .venv/ready $(PEERS)/ready
	cd tests && ../$(BIN)/python -m benchmarks.peers --peers $(abspath $(PEERS))

$(PEERS)/ready: tests/benchmarks/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	touch $@

clean:
	rm -rf .venv demo build fuzzed *.egg-info
