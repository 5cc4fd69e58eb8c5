# Each of `make demo`, `make test`, `make check` does its own set-up; a second run reuses it.
#
#   PYTHON=python3.12       the interpreter of the virtualenv (3.11 or newer; found by itself)
#   DEMO_ARGS="--help"      passed on to `obskit demo`
#   PYTEST_ARGS="-k flask"  passed on to pytest
#   SOAK_ARGS, TORTURE_ARGS, BENCH_ARGS   passed on to the soak, the torture run and the benchmarks (try "--help")
#   ARGS="--help"           passed on to transparency, faults, outages, fuzz, secrets, longhaul

SHELL       := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

PYTHON      ?=
DEMO_ARGS   ?=
PYTEST_ARGS ?=
SOAK_ARGS   ?=
TORTURE_ARGS ?=
BENCH_ARGS  ?=
ARGS        ?=

VENV := .venv
NODE := tests/node
PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip --disable-pip-version-check --no-input -qq
SAY  := printf '\033[1m%s\033[0m\n'

RELIABILITY := transparency faults outages fuzz secrets longhaul

.PHONY: help demo test check format grafana soak torture bench clean tools $(RELIABILITY)

help: ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.stamp-demo ## set up, then run a shop under traffic and watch its telemetry
	@exec $(VENV)/bin/obskit demo $(DEMO_ARGS)

test: $(VENV)/.stamp-dev tools $(NODE)/node_modules/.stamp ## set up, then run every test with coverage (servers, Prometheus, PostgreSQL: real ones)
	@rm -f .coverage .coverage.*
	@$(PY) -m pytest -n 2 --cov --cov-report=term --durations=5 $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev ## lint, format, types and the import rules of the house; seconds
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet --output-format concise . || { echo "run 'make format'" >&2; exit 1; }
	@$(PY) -m mypy --no-error-summary
	@$(PY) -m pytest -q --no-header tests/test_house_rules.py

format: $(VENV)/.stamp-dev ## rewrite the code the way `make check` wants it
	@$(PY) -m ruff check --quiet --fix .
	@$(PY) -m ruff format --quiet .

grafana: $(VENV)/.stamp-dev ## write again what is generated in grafana/: dashboards, rules, provisioning
	@$(PY) grafana/source/generate.py

soak: $(VENV)/.stamp-dev ## 200,000 ordinary requests to the three shops: no finding but what was planted; minutes
	@exec $(PY) -m tests.soak $(SOAK_ARGS)

torture: $(VENV)/.stamp-dev tools ## servers under load whose workers are killed, recycled, reloaded: what was counted, lost, named; minutes
	@exec $(PY) -m tests.torture $(TORTURE_ARGS)

bench: $(VENV)/.stamp-dev ## what obskit adds to a request, beside what the field adds, in one run; a quarter of an hour (BENCH_ARGS="all": the other benchmarks)
	@exec $(PY) -m benchmarks $(BENCH_ARGS)

# The long forms behind docs/reliability.md: each also writes its figures there (docs/reliability/NAME.json).
transparency: ## the frameworks' own test suites with obskit on every application: no new failure; about half an hour
faults: ## every call obskit makes is made to fail, alone and in pairs: the application never sees it; minutes
outages: ## collectors that refuse, hang or lie while two servers are under load; a quarter of an hour
fuzz: ## five million hostile inputs, a million names for labels; about half an hour
secrets: ## two hundred planted secrets, looked for in everything obskit writes; minutes
longhaul: ## an hour of constant load per kind of server (ARGS="--minutes 5")
$(RELIABILITY): $(VENV)/.stamp-dev tools
	@exec $(PY) -m tests.reliability.$@ $(ARGS)

clean: ## remove what set-up, builds and tests left behind
	@rm -rf $(VENV) .venv-bench $(NODE)/node_modules build dist htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find integrations -name '*.sqlite3*' -delete 2>/dev/null || true

# ---- set-up: stamps, so that it runs again only when what is asked for has changed ----

$(VENV)/.stamp-demo: pyproject.toml constraints.txt | $(VENV)/.stamp-python
	@$(SAY) "installing obskit and the three frameworks (about a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[cli,django,flask,fastapi]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(VENV)/.stamp-python
	@$(SAY) "installing obskit and all that its tests need (about two minutes, once)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.stamp-demo

# A candidate has to prove that it runs: a pyenv shim is on PATH for versions that are not selected
# and fails when called, and Debian's python3 comes without ensurepip until python3-venv is there.
define FIND_PYTHON
find_python() {
    local candidate
    for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 /usr/bin/python3); do
        if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
        then echo "$$candidate"; return 0; fi
    done
    return 1
}
endef
export FIND_PYTHON

$(VENV)/.stamp-python:
	@if $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then touch $@; exit 0; fi
	@eval "$$FIND_PYTHON"
	@if ! python=$$(find_python); then
	@    if [ -n "$(PYTHON)" ]; then
	@        echo "PYTHON=$(PYTHON) does not run, is older than 3.11, or lacks venv and ensurepip" >&2; exit 2
	@    fi
	@    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	@        $(SAY) "installing python3-venv"
	@        export DEBIAN_FRONTEND=noninteractive
	@        apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
	@    fi
	@    python=$$(find_python) || {
	@        echo "no Python >= 3.11 with venv and ensurepip was found." >&2
	@        echo "Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv) or pass PYTHON=/path/to/python3" >&2
	@        exit 2
	@    }
	@fi
	@$(SAY) "creating $(VENV) with $$python ($$("$$python" -c 'import platform; print(platform.python_version())'))"
	@"$$python" -m venv --clear $(VENV)
	@touch $@

# Other people's grammars and types. No lock file: it would record where the packages were downloaded from.
$(NODE)/node_modules/.stamp: $(NODE)/package.json | tools
	@$(SAY) "installing Grafana's query grammars and types, and those of Kubernetes"
	@npm install --prefix $(NODE) --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

# Real programs the tests drive: no Prometheus of ours would catch what Prometheus itself refuses.
tools:
	@missing=()
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
	@command -v alertmanager >/dev/null || command -v prometheus-alertmanager >/dev/null || missing+=(prometheus-alertmanager)
	@command -v npm >/dev/null || missing+=(nodejs npm)
	@command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
	@if [ $${#missing[@]} = 0 ]; then exit 0; fi
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	@    $(SAY) "installing $${missing[*]}"
	@    export DEBIAN_FRONTEND=noninteractive
	@    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null
	@else
	@    echo "the tests run real programs that are not here: $${missing[*]}" >&2
	@    echo "Install them (Debian, Ubuntu: sudo apt-get install $${missing[*]}) and run make test again." >&2
	@    exit 2
	@fi
