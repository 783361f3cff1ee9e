# make build | run | test | lint | bench, from nothing: the virtual environment, the compiled half, the test tools.
# Each step leaves a stamp in .venv/stamp, so that what is done is not done again.
PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamp
SWITCHES := debug=$(EDGE_DEBUG) sanitize=$(EDGE_SANITIZE)
FAST := $(wildcard edge/_fast/*.pyx edge/_fast/*.pxd edge/_fast/*.h)
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet install

.PHONY: always build run test lint format bench bench-floor bench-broker bench-ingest autobahn fuzz chaos test-sanitize clean distclean
.DELETE_ON_ERROR:
.NOTPARALLEL:

build: $(STAMP)/fast

run: build
	exec $(BIN)/edge serve --dev

test: build $(STAMP)/tools
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(STAMP)/test
	$(BIN)/python -m pytest -q tests/test_lint.py tests/test_layers.py

format: $(STAMP)/test
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: bench-floor

bench-floor: build $(STAMP)/bench
	$(BIN)/python -m bench.floor

bench-broker: build $(STAMP)/bench $(STAMP)/test
	$(BIN)/python -m bench.broker

bench-ingest: build $(STAMP)/bench
	$(BIN)/python -m bench.ingest

autobahn: build $(STAMP)/test
	tests/autobahn.sh

fuzz: build $(STAMP)/test
	tests/fuzz/run.sh

# Random histories of faults, for SECONDS; each says its seed, and SEED repeats them all.
chaos: build $(STAMP)/test
	$(BIN)/python -m tests.faults.chaos --seed $(or $(SEED),0) --seconds $(or $(SECONDS),300)

test-sanitize: build $(STAMP)/test
	tests/sanitize.sh

clean:
	rm -rf build dist out *.egg-info edge/_fast/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis $(STAMP)/fast
	for source in edge/_fast/*.pyx; do rm -f "$${source%.pyx}.c"; done

distclean: clean
	rm -rf $(VENV)

$(STAMP)/venv: .ci/bootstrap
	.ci/bootstrap $(VENV) $(PYTHON)
	mkdir -p $(STAMP)
	touch $@

# What pyproject.toml and setup.py ask for. The package itself is installed by reference, so its sources are the ones here.
$(STAMP)/install: $(STAMP)/venv pyproject.toml setup.py
	$(PIP) 'setuptools>=77' 'cython>=3.3,<4'
	$(PIP) --no-build-isolation -e .
	touch $@

# The switches of setup.py: the file changes when they do.
$(STAMP)/switches: $(STAMP)/venv always
	@echo '$(SWITCHES)' | cmp -s - $@ || echo '$(SWITCHES)' > $@

$(STAMP)/fast: $(STAMP)/install $(STAMP)/switches $(FAST)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

$(STAMP)/test: $(STAMP)/install
	$(PIP) --no-build-isolation -e '.[test]'
	touch $@

$(STAMP)/bench: $(STAMP)/install
	$(PIP) --no-build-isolation -e '.[bench]'
	touch $@

$(STAMP)/tools: $(STAMP)/test tests/tools.sh $(wildcard tests/*/package.json tests/*/*/package.json)
	tests/tools.sh
	touch $@
