# `make run` starts a server to try, `make test` checks everything; both install what they need. `make help` lists all.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PYTEST := $(PY) -m pytest -q
ARGS ?=

DIST := tertulia/node/pages/dist/index.html
WEB_SOURCES := $(wildcard web/src/*) web/build.mjs web/index.html web/check.html web/icon.svg
PLANE_SOURCES := $(wildcard tertulia/sfu/plane/*.py tertulia/sfu/plane/*.p[yx][xi] tertulia/sfu/plane/compiled/*.pxd)

.PHONY: help setup run web plane test check check-native fuzz unit sim interop test-long bench bench-cluster format clean

help:
	@echo 'make setup      .venv with everything, the compiled data plane, the demo page'
	@echo 'make run        setup, then a development server (ARGS="--bind 0.0.0.0" for its options)'
	@echo 'make test       check, unit, sim and interop: what a change must pass'
	@echo 'make check      format, lint, types, imports'
	@echo 'make unit       unit, property and house tests'
	@echo 'make sim        calls in virtual time'
	@echo 'make interop    real clients against a real server'
	@echo 'make test-long  tests that need minutes of media'
	@echo 'make check-native the compiled plane under sanitizers'
	@echo 'make fuzz       mutated packets for SECONDS=30, from SEED=1'
	@echo 'make bench      every budget of the design, measured'
	@echo 'make bench-cluster  what two nodes and a Redis cost'
	@echo 'make web        the demo page (needs npm)'
	@echo 'make format     format and mend what can be mended'
	@echo 'make clean      remove what was built'

setup: $(VENV)/.installed plane web
	@$(BIN)/tertulia --dev doctor --only 'data plane'

run: setup
	@$(BIN)/tertulia --dev $(ARGS)

# An environment whose interpreter is gone (moved, upgraded) is made anew.
$(VENV)/.made:
	@.ci/need run
	@$(PY) -c '' 2>/dev/null || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@$(PY) -m pip install -q --disable-pip-version-check --upgrade pip 'setuptools>=80' 'Cython>=3.1'
	@touch $@

$(VENV)/.installed: pyproject.toml setup.py $(VENV)/.made
	@echo 'installing Tertulia and its dependencies into $(VENV)'
	@PYTHONWARNINGS=ignore $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.plane

plane: $(VENV)/.plane

$(VENV)/.plane: $(PLANE_SOURCES) setup.py | $(VENV)/.installed
	@if command -v gcc >/dev/null; then echo 'compiling the data plane'; $(PY) setup.py -q build_ext --inplace; fi
	@touch $@

web:
	@.ci/need web
	@if command -v npm >/dev/null; then $(MAKE) -s --no-print-directory $(DIST); \
	else echo 'npm is not installed: the server starts without its demo page'; fi

$(DIST): $(WEB_SOURCES) web/node_modules/.package-lock.json
	@cd web && npm run --silent build >/dev/null
	@touch $@

web/node_modules/.package-lock.json: web/package-lock.json
	@cd web && npm ci --silent --no-audit --no-fund
	@touch $@

test: setup need-test check unit sim interop

.PHONY: need-test
need-test:
	@.ci/need test

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.installed plane
	$(PYTEST) tests/unit tests/property tests/house -m 'not long'

sim: $(VENV)/.installed plane
	$(PYTEST) tests/sim -m 'not long'

# Browsers, encoders and servers share two cores here: a test that failed may show that it was the machine.
interop: $(VENV)/.installed plane
	$(PYTEST) tests/interop -m 'not long' --reruns 2 --reruns-delay 3

test-long: setup need-test
	$(PYTEST) tests -m long --reruns 1 --reruns-delay 3

# The compiled plane under the address and undefined-behaviour sanitizers, in a copy of the tree.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined

check-native: $(VENV)/.installed
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	@cp -r tertulia tests pyproject.toml setup.py README.md LICENSE $(SANITIZED)/
	@find $(SANITIZED) -name '*.so' -delete
	@cd $(SANITIZED) && TERTULIA_REQUIRE_NATIVE=1 LDFLAGS='$(SANITIZERS)' \
	TERTULIA_NATIVE_FLAGS='-O1 -g $(SANITIZERS) -fno-sanitize-recover=undefined' \
	$(abspath $(PY)) setup.py -q build_ext --inplace
	cd $(SANITIZED) && export ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" && \
	$(abspath $(PY)) -m pytest -q -p no:cacheprovider tests/unit/plane tests/property/test_plane_lives.py \
	tests/property/test_plane_garbage.py tests/property/test_plane_numbers.py && \
	$(abspath $(PY)) -m tests.fuzz.receive_path $(SECONDS) $(SEED)

SECONDS ?= 30
SEED ?= 1

fuzz: $(VENV)/.installed plane
	$(PY) -m tests.fuzz.receive_path $(SECONDS) $(SEED)

bench: setup
	$(PY) -m benchmarks.all $(ARGS)

bench-cluster: setup
	$(PY) -m benchmarks.cluster $(ARGS)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info tertulia/node/pages/dist web/node_modules .mypy_cache .ruff_cache .pytest_cache
	find tertulia -name '*.so' -delete
	rm -f $(VENV)/.plane
