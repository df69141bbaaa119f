# Limelight: `make run` starts the page, `make test` checks everything. Both set up what they need.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check --progress-bar off
# Tiny models use one thread each, so that tests run on all cores.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 4 --dist loadgroup
ARGS ?=
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
SYSTEM_READY := $(VENV)/.system-ready

.DEFAULT_GOAL := help
.PHONY: help run test test-quick test-browser check format train-autoencoder train-parser train-denoiser train-mean train-style-reader \
	train-sr-lite train-restorer train-identity-reader train-subjects train-curve-net train-turntable export bench clean

help:
	@echo "make run                start Limelight on 127.0.0.1:7860 (ARGS=\"--port 7861\" passes options on)"
	@echo "make test               lint, format, types, then all tests including the browser"
	@echo "make test-quick         all tests without the browser"
	@echo "make test-browser       the browser tests only"
	@echo "make check              ruff and mypy only"
	@echo "make train-autoencoder  also train-parser, train-denoiser, train-mean, train-style-reader, train-sr-lite,"
	@echo "                        train-restorer, train-identity-reader, train-subjects, train-curve-net,"
	@echo "                        train-turntable, export"
	@echo "                        (ARGS=\"--minutes 60 --resume\" passes options on)"
	@echo "make bench              measure every scenario and rewrite the table in README.md"

run: $(RUN_READY)
	$(PY) app.py $(ARGS)

# The browser first and alone: beside other tests it waits so long that what it is asked comes too late.
test: check $(SYSTEM_READY)
	$(PY) -m pytest -m browser $(ARGS)
	$(PYTEST) -m "not browser" $(ARGS)

test-quick: check $(SYSTEM_READY)
	$(PYTEST) -m "not browser" $(ARGS)

test-browser: $(SYSTEM_READY)
	$(PY) -m pytest -m browser $(ARGS)

check: $(DEV_READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(DEV_READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

train-autoencoder: $(SYSTEM_READY)
	$(PY) -m training.train_autoencoder $(ARGS)

train-parser: $(SYSTEM_READY)
	$(PY) -m training.train_parser $(ARGS)

train-denoiser: $(SYSTEM_READY)
	$(PY) -m training.train_denoiser $(ARGS)

train-mean: $(SYSTEM_READY)
	$(PY) -m training.train_mean $(ARGS)

train-style-reader: $(SYSTEM_READY)
	$(PY) -m training.train_style_reader $(ARGS)

train-sr-lite: $(SYSTEM_READY)
	$(PY) -m training.train_sr_lite $(ARGS)

train-restorer: $(SYSTEM_READY)
	$(PY) -m training.train_restorer $(ARGS)

train-identity-reader: $(SYSTEM_READY)
	$(PY) -m training.train_identity_reader $(ARGS)

train-subjects: $(SYSTEM_READY)
	$(PY) -m training.train_subjects $(ARGS)

train-turntable: $(SYSTEM_READY)
	$(PY) -m training.train_turntable $(ARGS)

train-curve-net: $(SYSTEM_READY)
	$(PY) -m training.train_curve_net $(ARGS)

export: $(SYSTEM_READY)
	$(PY) -m training.export $(ARGS)

bench: $(SYSTEM_READY)
	$(PY) -m benchmarks run autoencoder --json benchmarks/results/autoencoder.json
	$(PY) -m benchmarks run t2i_fidelity --json benchmarks/results/t2i_fidelity.json
	$(PY) -m benchmarks run t2i_techniques --json benchmarks/results/t2i_techniques.json
	$(PY) -m benchmarks run style --json benchmarks/results/style.json
	$(PY) -m benchmarks run drag --json benchmarks/results/drag.json
	$(PY) -m benchmarks run personalization --json benchmarks/results/personalization.json
	$(PY) -m benchmarks run super_resolution --json benchmarks/results/super_resolution.json
	$(PY) -m benchmarks run low_light --json benchmarks/results/low_light.json
	$(PY) -m benchmarks run preview_3d --json benchmarks/results/preview_3d.json
	$(PY) -m benchmarks run t2i_speed --json benchmarks/results/t2i_speed.json
	$(PY) -m benchmarks run startup --json benchmarks/results/startup.json
	$(PY) -m benchmarks table

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

# A Python without ensurepip (bare Debian) cannot give the venv its pip: our own pip installs it from outside.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Limelight needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
		|| { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install -qq pip; } \
		|| { rm -rf $(VENV); echo "No virtual environment could be made. On Debian: apt install python3-venv"; exit 1; }

$(RUN_READY): requirements.txt | $(PY)
	@echo "Installing what the page needs (once; a few minutes) ..."
	@$(PIP) -r requirements.txt
	@touch $@

$(DEV_READY): requirements-dev.txt $(RUN_READY)
	@echo "Installing what tests and training need (once) ..."
	@$(PIP) -r requirements-dev.txt
	@touch $@

# Chromium for the browser tests; its Debian package also brings the GL libraries that skia-python links to.
$(SYSTEM_READY): $(DEV_READY)
	@if command -v chromium >/dev/null && $(PY) -c 'import skia' 2>/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing chromium, libgl1 and libegl1 (once) ..."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium libgl1 libegl1 fonts-dejavu-core >/dev/null; \
	else \
		echo "Tests and training need the programs chromium, libgl1 and libegl1. Install them once, for example:"; \
		echo "  sudo apt install chromium libgl1 libegl1"; \
		exit 1; \
	fi
	@touch $@
