# Everything a developer does; each target sets up what it needs and works offline once that is done.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHONPATH := src

.PHONY: run test slow e2e lint types docs docs-check rules dashboards dashboards-check dashboards-pictures golden bench lock install-systemd uninstall-systemd clean
.DEFAULT_GOAL := run

# pip retries by itself; the stamp is written only when everything is in place.
$(VENV)/run.stamp: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gpumon needs Python 3.11 or newer; $(PYTHON) is older. Set PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 10 --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 10 --require-hashes -r requirements-dev.lock
	@touch $@

run: $(VENV)/run.stamp  ## serve this machine's GPUs, or a simulated node where there are none
	$(BIN)/python -m gpumon run --simulate auto

test: $(VENV)/dev.stamp  ## run the tests, one process per core
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

slow: $(VENV)/dev.stamp  ## run the tests that take long, one process per core
	$(BIN)/python -m pytest -m slow -n auto --dist worksteal $(ARGS)

e2e: $(VENV)/dev.stamp  ## run the tests with real peers; builds an OpenTelemetry Collector first (needs Go)
	$(BIN)/python -m pytest -m e2e $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

docs: $(VENV)/dev.stamp  ## write the generated files anew
	$(BIN)/python -m gpumon docs

docs-check: $(VENV)/dev.stamp  ## fail when a generated file is stale
	$(BIN)/python -m gpumon docs --check
	PYTHONPATH=src:. $(BIN)/python -m rules.generate --check

rules: $(VENV)/dev.stamp  ## write the Prometheus rules anew
	PYTHONPATH=src:. $(BIN)/python -m rules.generate

dashboards: $(VENV)/dev.stamp  ## write Grafana's dashboards anew
	PYTHONPATH=src:grafana-dashboards:. $(BIN)/python -W ignore -m generate

dashboards-check: $(VENV)/dev.stamp  ## fail when a dashboard is stale
	PYTHONPATH=src:grafana-dashboards:. $(BIN)/python -W ignore -m generate --check

dashboards-pictures: $(VENV)/dev.stamp  ## draw the dashboards into docs/images (needs node, npm, chromium, prometheus)
	PYTHONPATH=src:grafana-dashboards:. $(BIN)/python -W ignore -m tests.tools.pictures $(ARGS)

golden: $(VENV)/dev.stamp  ## write the golden pages anew; read the diff
	GOLDEN=write $(BIN)/python -m pytest -q tests/test_golden.py

bench: $(VENV)/dev.stamp  ## measure; prints a table and writes bench/results.json (ARGS=--quick for a glance)
	$(BIN)/python bench/run.py $(ARGS)

lock: $(VENV)/dev.stamp  ## resolve the dependencies anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --group dev pyproject.toml -o requirements-dev.lock
	echo nvitop-exporter | uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url - -o bench/requirements.lock

# A bare machine: /opt/gpumon, its unit and its settings. The user it runs as cannot read a Python in somebody's home.
SYSTEM_PYTHON ?= /usr/bin/python3
OPT := $(DESTDIR)/opt/gpumon
UNIT := $(DESTDIR)/etc/systemd/system/gpumon.service

install-systemd:  ## install gpumon as a service (as root; DESTDIR for packages)
	@case "$$(readlink -f "$$(command -v $(SYSTEM_PYTHON))")" in /home/*|/root/*|"") echo "SYSTEM_PYTHON=$(SYSTEM_PYTHON) is not there, or in a home; give one that every user can run" >&2; exit 1;; esac
	@$(SYSTEM_PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' || { echo "gpumon needs Python 3.11 or newer with venv (Debian: python3-venv). Set SYSTEM_PYTHON=…" >&2; exit 1; }
	$(SYSTEM_PYTHON) -m venv --clear $(OPT)
	$(OPT)/bin/python -m pip install --quiet --disable-pip-version-check --retries 10 --require-hashes -r requirements.lock
	rm -rf build  # setuptools would install from it what an earlier version had
	$(OPT)/bin/python -m pip install --quiet --disable-pip-version-check --retries 10 --no-deps .
	sed -i '1s|^#!.*|#!/opt/gpumon/bin/python|' $(OPT)/bin/gpumon
	install -D -m 644 examples/systemd/gpumon.service $(UNIT)
	test -e $(DESTDIR)/etc/gpumon/config.toml || install -D -m 644 config.example.toml $(DESTDIR)/etc/gpumon/config.toml
	test -n "$(DESTDIR)" || systemctl daemon-reload
	@echo "Installed. systemctl enable --now gpumon starts it, now and at every boot."

uninstall-systemd:  ## remove the service; settings in /etc/gpumon and history in /var/lib/gpumon stay
	test -n "$(DESTDIR)" || systemctl disable --now gpumon || true
	rm -rf $(OPT) $(UNIT)
	test -n "$(DESTDIR)" || systemctl daemon-reload

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache bench/.tools
