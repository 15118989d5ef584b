# Each target sets up what it needs: `make demo` and `make test` run on a fresh machine with Python 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.PHONY: setup demo test test-slow test-integrations test-browser lint clean
setup: $(STAMP)

# torch first and pinned: the plain name would pull gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,eval,serve,texts,test,bench,lint]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/prorank demo $(DEMO)

# One process a core, each with one thread; a file stays in one process, so that its fixtures are made once.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The frameworks fit beside the pinned torch and transformers, so they come into the same environment.
$(VENV)/.integrations: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[integrations]'
	touch $@

test-integrations: $(VENV)/.integrations
	PRORANK_INTEGRATIONS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile tests/integrations

# Drives the machine's own Chromium, which root gets from apt where there is none; playwright brings none here.
CHROMIUM := command -v chromium || command -v chromium-browser || command -v google-chrome
APT := apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium

$(VENV)/.browser: $(STAMP)
	($(CHROMIUM) || { [ "$$(id -u)" = 0 ] && $(APT); } || { echo "install chromium first, then try again" >&2; false; }) >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	touch $@

test-browser: $(VENV)/.browser
	PRORANK_BROWSER=1 $(BIN)/python -m pytest tests/test_playground.py

lint: $(STAMP)
	$(BIN)/ruff check prorank tests benchmarks scripts recipes

clean:
	rm -rf $(VENV) build dist *.egg-info
