# Each target does its own set-up: a virtual environment in .venv with what requirements.lock pins, and the built wheel.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most tests wait for processes and disks, so more of them than cores.
PARALLEL := -n $(shell expr 2 \* $$(nproc)) --dist loadgroup
RESULTS := $(VENV)/torture.jsonl
COMPILE := $(VENV)/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --upgrade
SOURCES := $(shell find clients daemon -name '*.py' -o -name '*.sql' -o -name py.typed) pyproject.toml

.PHONY: help demo test test-system all-tests lint unit integration torture torture-short soak bench fields lock clean install uninstall wheels

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

demo: $(VENV)/installed ## sensors, daemon and reader on a video: make demo [SOURCE=video|rtsp://…|/dev/video0] [DURATION=seconds]
	$(BIN)/sightlog demo $(if $(SOURCE),--source "$(SOURCE)") $(if $(DURATION),--duration "$(DURATION)")

test: lint all-tests ## lint, types and every test below, on the built wheel

lint: $(VENV)/installed ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

all-tests: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL)

unit: $(VENV)/dependencies ## the unit tests, on the source tree: no build between two runs
	PYTHONPATH=clients:daemon $(BIN)/python -m pytest $(PARALLEL) tests/unit

integration: $(VENV)/installed ## real daemons, sockets, files and SIGKILLs, on the built wheel
	$(BIN)/python -m pytest $(PARALLEL) tests/integration

torture-short: $(VENV)/installed ## every promise attacked, the short runs, on the built wheel
	$(BIN)/python -m pytest $(PARALLEL) tests/torture

torture: $(VENV)/installed ## every promise attacked, the long runs (up to 30 min): tests/torture/README.md
	rm -f $(RESULTS)
	SIGHTLOG_TORTURE=long SIGHTLOG_RESULTS=$(RESULTS) $(BIN)/python -m pytest $(PARALLEL) tests/torture; \
		passed=$$?; $(BIN)/python tests/torture/table.py $(RESULTS) && exit $$passed

soak: $(VENV)/installed ## 50 events/s, readers, kills and purges; nothing may be lost, nothing grow: make soak [HOURS=0.1]
	PYTHONPATH=tests $(BIN)/python tests/torture/soak.py $(HOURS)

bench: $(VENV)/installed $(VENV)/peers ## everything against raw SQLite and others, half an hour: make bench [QUICK=1] [SECTIONS=…]
	$(BIN)/python tests/benchmarks/run.py $(if $(QUICK),--quick --results $(VENV)/bench) $(SECTIONS)

test-system: $(VENV)/installed ## the service under a booted systemd, in a container: needs root and systemd-container
	$(BIN)/python -m pytest tests/system

install: ## as a service of this machine, or a new version of it: sudo make install [WHEELS=folder] (systemd/README.md)
	systemd/install.sh install

uninstall: ## remove the service; data and configuration stay: sudo make uninstall
	systemd/install.sh uninstall

wheels: ## what an install needs that has no network: make wheels [WHEELS=folder]
	systemd/install.sh wheels $(WHEELS)

fields: $(VENV)/dependencies ## the code and tables that follow from clients/sightlog/protocol/fields.py
	PYTHONPATH=clients:daemon $(BIN)/python tests/unit/fields_code.py

lock: ## pin every dependency anew
	$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip -q install uv
	$(COMPILE) --extra dev -o requirements.lock pyproject.toml
	$(COMPILE) --extra bench -c requirements.lock -o requirements-bench.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist demo-data

$(VENV)/dependencies: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sightlog needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip -q --disable-pip-version-check install --require-hashes -r requirements.lock
	@touch $@

$(VENV)/peers: requirements-bench.lock $(VENV)/dependencies
	$(BIN)/pip -q --disable-pip-version-check install --require-hashes -r requirements-bench.lock
	@touch $@

# The wheel is what users get, so it is what is tested.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	rm -rf build $(VENV)/wheel
	$(BIN)/pip -q --disable-pip-version-check wheel --no-deps --no-build-isolation -w $(VENV)/wheel .
	$(BIN)/pip -q --disable-pip-version-check install --no-deps --force-reinstall $(VENV)/wheel/*.whl
	@rm -rf build clients/*.egg-info daemon/*.egg-info *.egg-info
	@touch $@
