# Needs python3 >= 3.11 with venv, nothing else: each target makes its own .venv.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
ARGS ?=
# `make test-all` has one for each Python; .ci/bootstrap.py makes it.
VENV_DIR := .venv
export VENV_DIR
VENV := $(VENV_DIR)/bin/python

.DEFAULT_GOAL := help
.PHONY: help run demo demo-llm test-llm test test-slow test-pages test-whole test-all coverage schema chaos-quick chaos soak nightly mutants lint bench bench-check bench-scenarios bench-http bench-pages bench-reads rivals doctor screenshots sbom wheels clean venv venv-run venv-lint venv-llm python

# Collecting all tests to run a few takes a while; ARGS may name files of its own.
in = $(if $(filter tests/%,$(ARGS)),,$(1))

# How long `make chaos` attacks, suite by suite.
CHAOS_LONG := MESH_CHAOS_RUNS=300 MESH_CHAOS_WALKS=300 MESH_CHAOS_CUTS=500 \
  MESH_STORM_TASKS=20000 MESH_STORM_S=240 MESH_STORM_EVERY_S=3 MESH_POISON=100 \
  MESH_BOUNDS_TASKS=1000 MESH_BOUNDS_ROUNDS=3 MESH_LETTERS=1000 MESH_WOUNDS=60 \
  MESH_STRANGER_TASKS=9000 MESH_CROWD=200 MESH_CROWD_S=20 MESH_CROWD_IDLE=1000

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' Makefile
	@echo '  Options go through ARGS, as in: make run PORT=9000 ARGS="--agents 4"'

run: venv-run ## run the mesh here: Valkey, web server, agents; Ctrl-C stops all
	@$(VENV) manage.py up $(ARGS)

demo: venv-run ## send the standard library through two agents, show what comes back
	@$(VENV) -m examples.stdlib_metrics $(ARGS)

demo-llm: venv-llm ## the mesh with a real engine and a tiny model behind its gateway
	@$(VENV) -m examples.llm_demo

test-llm: venv venv-llm ## Ollama's own clients through the gateway to that engine
	@$(VENV) -m pytest -n 0 tests/integration/test_llm_demo.py

test: venv ## the suite, in less than five minutes
	@$(VENV) -m pytest -n auto --dist worksteal $(ARGS)

test-slow: venv ## tests that start whole meshes, or wait for seconds
	@$(VENV) -m pytest -n auto --dist worksteal -m slow $(ARGS)

# A worker has the mesh of a file for itself.
test-pages: venv ## the pages in a browser, where Chromium is
	@$(VENV) -m pytest -n auto --dist loadfile -m pages $(call in,tests/browser) $(ARGS)

WHOLE := -m 'not chaos and not soak'
test-whole: venv ## all of these together
	@$(VENV) -m pytest -n auto --dist worksteal $(WHOLE) $(ARGS)

test-all: ## all of these on each Python of PYTHONS that is here
	@ran=; failed=; for python in $(PYTHONS); do \
	  if ! $$python -c '' 2>/dev/null; then echo "no $$python here: passed over"; continue; fi; \
	  echo "== $$($$python --version)"; ran="$$ran $$python"; \
	  $(MAKE) --no-print-directory test-whole PYTHON=$$python VENV_DIR=.venvs/$${python##*/} \
	    || failed="$$failed $$python"; \
	done; \
	test -n "$$ran" || { echo "none of $(PYTHONS) is here: PYTHONS=/path/to/python"; exit 69; }; \
	echo "ran on:$$ran; failed on:$${failed:- none}"; test -z "$$failed"

# Of a process that was killed while it wrote half a file is left, which counts for nothing.
# It fails where less ran than `tests/support/floors.py` says, unless ARGS chose the tests.
coverage: venv ## all tests, and what they run of bus/ and dashboard/, into htmlcov/
	@rm -f .coverage .coverage.*
	@$(VENV) -m pytest -n auto --dist worksteal $(WHOLE) \
	  --cov --cov-report=html --cov-report=term $(ARGS)
	@$(if $(ARGS),,$(VENV) -m tests.support.floors)

schema: venv-lint ## every call tried by schemathesis, 200 examples each and more
	@MESH_SCHEMA_EXAMPLES=200 $(VENV) -m pytest -n 0 -s --timeout 7300 \
	  tests/contract/test_described_calls.py

chaos-quick: venv ## attack the mesh for a few minutes (docs/chaos.md)
	@$(VENV) -m pytest -n auto --dist worksteal -m chaos $(call in,tests/chaos) $(ARGS)

chaos: venv ## the same at full length, about a quarter of an hour
	@env $(CHAOS_LONG) \
	  $(VENV) -m pytest -n auto --dist worksteal -m chaos --timeout 900 $(call in,tests/chaos) $(ARGS)

soak: venv ## half an hour of steady load; MESH_SOAK_MINUTES says how long
	@$(VENV) -m pytest -n 0 -m soak $(call in,tests/chaos) $(ARGS)

nightly: ## chaos, soak, bench, coverage: an hour and a half
	@$(MAKE) chaos
	@MESH_POISON=500 $(VENV) -m pytest -n 0 -m chaos --timeout 1800 tests/chaos/test_poison.py
	@$(MAKE) soak
	@$(MAKE) bench
	@$(MAKE) coverage

# By name one room or function, as in ARGS='"bus.pace*"'; mutmut knows what it did.
mutants: venv-lint ## mistakes in Python that the unit tests have to notice (docs/mutants.md)
	@$(VENV_DIR)/bin/mutmut run $(ARGS)
	@$(VENV_DIR)/bin/mutmut results

lint: venv-lint ## ruff, its formatter, mypy
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m mypy

bench: venv-run ## how fast this machine is
	@$(VENV) -m bench $(ARGS)

bench-check: venv-run ## whether a figure has fallen far below bench/baseline.json
	@$(VENV) -m bench --against bench/baseline.json $(ARGS)

bench-scenarios: venv-run ## how fast beside a backlog, idle agents, real work: half an hour
	@$(VENV) -m bench.scenarios $(ARGS)

bench-http: venv-run ## POST enqueue beside FastAPI, by wrk: a few minutes
	@$(VENV) -m bench.http $(ARGS)

bench-pages: venv-run ## every page of the dashboard at full size, beside 200 ms
	@$(VENV) -m bench.pages $(ARGS)

bench-reads: venv-run ## every GET on a full mesh, beside a small one
	@$(VENV) -m bench.http.reads $(ARGS)

rivals: venv ## how fast other queues are beside it: installs them, takes an hour
	@$(VENV) -m bench.rivals $(ARGS)

doctor: venv-run ## what is wrong, with what to type
	@$(VENV) manage.py doctor $(ARGS)

screenshots: venv-lint ## pictures of every page, into var/screenshots; needs Chromium
	@$(VENV) -m tests.support.screenshots $(ARGS)

sbom: venv-lint ## what a running mesh is made of, as CycloneDX, into var/sbom.json
	@mkdir -p var
	@$(PYTHON) -m venv --clear --without-pip var/sbom
	@$(VENV) -m pip --disable-pip-version-check --python var/sbom/bin/python install -q -r bus/requirements.txt
	@$(VENV_DIR)/bin/cyclonedx-py environment --output-reproducible --of JSON -o var/sbom.json var/sbom/bin/python
	@rm -rf var/sbom
	@echo "var/sbom.json: $$(grep -c '"purl"' var/sbom.json) packages"

wheels: venv ## fill wheelhouse/, from which other machines install offline
	@$(PYTHON) .ci/bootstrap.py --wheels $(ARGS)

clean: ## delete .venv, caches; var/ holds your data, so it stays
	rm -rf .venv .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov mutants
	rm -f .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What a running mesh needs, without the tools of the tests.
venv-run: python
	@$(PYTHON) .ci/bootstrap.py bus/requirements.txt

venv: python
	@$(PYTHON) .ci/bootstrap.py requirements.txt

venv-lint: venv
	@$(PYTHON) .ci/bootstrap.py tests/requirements.txt

# The engine of the demo, 34 MB, which nothing else needs.
venv-llm: python
	@$(PYTHON) .ci/bootstrap.py examples/llm_demo/requirements.txt

python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "no $(PYTHON) here; on Debian or Ubuntu: apt install python3 python3-venv"; \
	  exit 69; }
