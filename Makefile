# `make run` serves, `make test` tests, `make check` reads; `make help` lists the rest.
# Each target sets up what it needs, once. PYTHON=python3.13 make test uses another interpreter, in an environment of its own.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

ifeq ($(strip $(PYTHON)),)
override PYTHON := python3
VENV := .venv
else
describe := import sys, sysconfig; free = sysconfig.get_config_var("Py_GIL_DISABLED"); \
            print("%d.%d.%d" % sys.version_info[:3] + ("t" if free else ""))
VENV := .venv-$(shell $(PYTHON) -c '$(describe)')
endif
PY := $(VENV)/bin/python
# An older wheel rather than a source release that wants a compiler: free-threaded builds have few wheels.
PIP := PIP_RETRIES=1 $(PY) -m pip --quiet --disable-pip-version-check --require-virtualenv install --prefer-binary
# A user who has pip install into the home folder, by a variable or pip.conf, does not mean these environments.
export PIP_USER := 0
# Options for pytest or the program that a target runs: make test ARGS='-k echo', make run ARGS='--bind 127.0.0.1:5001'.
ARGS ?=
# What `make bench` measures: programs in bench/.
BENCH ?= pool echo overload wsgi
PYTEST := $(PY) -m pytest
PARALLEL := -n auto --maxprocesses 8

# Install $(1) into the environment, which is made anew the next time if that fails: it may be what is broken. What pip
# says is shown only then: the last of its errors, or else its last lines.
install = $(PIP) $(1) >$(VENV)/.log 2>&1 || { rm -f $(VENV)/.made; \
    { grep 'ERROR: [A-Z]' $(VENV)/.log || cat $(VENV)/.log; } | tail -n 3 >&2; \
    echo "make: cannot install into $(VENV), which needs a network, once; try again (all that pip said: $(VENV)/.log)" >&2; exit 1; }

# Set the environment up for a target; of several at once, one after another, where there is flock (util-linux).
LOCKED := $(if $(shell command -v flock),flock $(VENV).lock)
ready = +@$(LOCKED) $(MAKE) --silent --no-print-directory $(VENV)/.$(1)

# As `python -m venv`, but Ctrl-C ends it without a traceback.
venv := import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); runpy.run_module("venv", run_name="__main__")

# An environment knows its own path, so one that was copied along with the checkout is made anew.
ifneq ($(shell cat $(VENV)/.made 2>/dev/null),$(CURDIR))
$(VENV)/.made: FORCE
endif

.PHONY: help run run-web test check conformance bench stress fuzz mutants dist clean FORCE

help:            ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile | expand -t 14

run:             ## serve: a TCP echo server on 127.0.0.1:5000
	$(call ready,cli)
	@exec $(VENV)/bin/treadle echo $(ARGS)

run-web:         ## serve a web application: examples/web_app.py on http://127.0.0.1:8000
	$(call ready,cli)
	@exec $(VENV)/bin/treadle wsgi --chdir examples web_app:app $(ARGS)

test:            ## run every test, the conformance suite included
	$(call ready,test)
	$(PYTEST) $(PARALLEL) $(ARGS)

check:           ## formatting, lint, types, and the layers of the house
	$(call ready,check)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PYTEST) -q tests/test_house.py tests/typing

conformance:     ## only CPython's own executor tests, against treadle.Pool
	$(call ready,test)
	$(PYTEST) tests/conformance $(ARGS)

bench:           ## measure treadle beside its peers; writes bench/results/. BENCH=wsgi: one of pool, echo, overload, wsgi
	$(call ready,bench)
	@status=0; for name in $(BENCH); do \
	    echo "$(PY) bench/$$name.py $(ARGS)"; $(PY) bench/$$name.py $(ARGS) || status=$$?; \
	done; exit $$status

stress:          ## an exception at every instant, then five minutes of random schedules
	$(call ready,test)
	$(PY) tests/behaviour/stress.py $(ARGS)

fuzz:            ## ten minutes of random bytes, faults and schedules against the server
	$(call ready,test)
	$(PY) tests/fuzz/main.py $(ARGS)

mutants:         ## break guarded lines, one at a time: which tests notice? ARGS='-k workers'
	$(call ready,test)
	$(PY) tests/mutants/main.py $(ARGS)

dist:            ## build wheel and sdist into dist/
	$(call ready,dist)
	rm -rf dist
	$(PY) -m build --outdir dist .

clean:           ## remove everything that the targets made
	rm -rf .venv .venv.lock .venv-* .build build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c '' || { \
	    echo "make: cannot run $(PYTHON); install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: treadle needs Python 3.11 or later and $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "make: installing $$package, which this Python needs to make virtual environments"; \
	        apt-get update -qq && apt-get install -qq -y "$$package" >/dev/null; \
	    else \
	        echo "make: this Python cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install $$package" >&2; exit 1; \
	    fi; }
	@echo "make: making $(VENV), once"
	@$(PYTHON) -c '$(venv)' --clear $(VENV)
	@echo "$(CURDIR)" > $@

$(VENV)/.cli: $(VENV)/.made pyproject.toml
	@echo "make: installing treadle[cli] into $(VENV), once"
	@$(call install,--editable '.[cli]')
	@touch $@

# Compiled libraries have no wheels for every build of Python, and are not compiled here; tests and peers that need them
# are skipped then.
# The tests make their certificates with the openssl command, and put servers behind haproxy where there is one.
$(VENV)/.test $(VENV)/.bench: $(VENV)/.%: $(VENV)/.made pyproject.toml
	@command -v openssl >/dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "make: installing openssl, with which the tests make certificates"; \
	        apt-get update -qq && apt-get install -qq -y openssl >/dev/null; \
	    else \
	        echo "make: the tests need the openssl command; on Debian and Ubuntu: sudo apt-get install openssl" >&2; exit 1; \
	    fi; }
	@[ $* != bench ] || command -v wrk >/dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "make: installing wrk, which loads web servers"; \
	        apt-get update -qq && apt-get install -qq -y wrk >/dev/null; \
	    fi || true; \
	    command -v wrk >/dev/null || \
	        echo "make: there is no wrk, so web servers are not measured; on Debian and Ubuntu: sudo apt-get install wrk"; }
	@[ $* != test ] || PATH=$$PATH:/usr/sbin command -v haproxy >/dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "make: installing haproxy, behind which the tests put servers"; \
	        apt-get update -qq && apt-get install -qq -y haproxy >/dev/null; \
	    fi || true; \
	    PATH=$$PATH:/usr/sbin command -v haproxy >/dev/null || \
	        echo "make: there is no haproxy, so tests that need it are skipped; on Debian and Ubuntu: sudo apt-get install haproxy"; }
	@echo "make: installing treadle[$*] into $(VENV), once"
	@$(call install,--editable '.[$*]')
	@$(PIP) --only-binary :all: --editable '.[$*-compiled]' >/dev/null 2>&1 || \
	    echo "make: not all of treadle[$*-compiled] has wheels for this Python; what needs it is skipped"
	@touch $@

$(VENV)/.check $(VENV)/.dist: $(VENV)/.%: $(VENV)/.made pyproject.toml
	@echo "make: installing treadle[$*] into $(VENV), once"
	@$(call install,--editable '.[$*]')
	@touch $@
