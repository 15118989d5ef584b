# Each target sets up what it needs: `make demo` and `make test` run on a fresh machine with Python 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := -m pip install --quiet --disable-pip-version-check
LOWEST := .venv-lowest
TESTED := train,eval,teacher,serve,texts,test,bench
comma := ,

.PHONY: setup demo test test-slow test-integrations test-exports test-infinity test-browser test-lowest lint docs pictures clean
setup: $(STAMP)

# Make an environment in $(1) with the extras $(2), under the constraints $(3). torch first and pinned: the plain name would pull gigabytes
# of CUDA packages.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || python3 -m venv $(1)
	$(1)/bin/python $(PIP) -c $(3) torch
	$(1)/bin/python $(PIP) -c $(3) -e '.[$(2)]'
	touch $@
endef

$(STAMP): pyproject.toml constraints.txt
	$(call install,$(VENV),$(TESTED)$(comma)lint$(comma)docs,constraints.txt)

# What the demo needs and no more, since a newcomer waits for it.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(call install,$(VENV),train$(comma)eval,constraints.txt)

demo: $(VENV)/.demo
	$(BIN)/prorank demo $(DEMO)

# One process a core, each with one thread; a file stays in one process, so that its fixtures are made once.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The frameworks fit beside the pinned torch and transformers, so they come into the same environment.
$(VENV)/.integrations: $(STAMP)
	$(BIN)/python $(PIP) -c constraints.txt -e '.[integrations]'
	touch $@

test-integrations: $(VENV)/.integrations
	PRORANK_INTEGRATIONS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile tests/integrations

# llama.cpp, onnxruntime, Ray and search engines, in the same environment. llama.cpp is compiled from the packages' sources, without what
# no test needs; pip keeps the result in its cache.
LLAMA := -DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
	-DLLAMA_OPENSSL=OFF
$(VENV)/.exports: $(STAMP)
	CMAKE_ARGS="$(LLAMA)" LLAMA_CPP_BUILD_JOBS=2 $(BIN)/python $(PIP) -c constraints.txt -e '.[exports]'
	touch $@

# The packages of the page in examples/browser; its test also needs what test-browser does.
examples/browser/node_modules/.stamp: examples/browser/package-lock.json
	npm ci --prefix examples/browser --ignore-scripts --no-audit --no-fund
	touch $@

test-exports: $(VENV)/.exports $(VENV)/.browser examples/browser/node_modules/.stamp
	PRORANK_EXPORTS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile tests/exports

# The server infinity excludes numpy 2 and transformers 5, so it has an environment of its own; tests call its program.
INFINITY := .venv-infinity
$(INFINITY)/.stamp: constraints-infinity.txt
	test -x $(INFINITY)/bin/python || $(PYTHON) -m venv $(INFINITY) || python3 -m venv $(INFINITY)
	$(INFINITY)/bin/python $(PIP) -c constraints-infinity.txt torch
	$(INFINITY)/bin/python $(PIP) -c constraints-infinity.txt 'infinity-emb[server,torch]'
	touch $@

test-infinity: $(STAMP) $(INFINITY)/.stamp
	PRORANK_EXPORTS=1 PRORANK_INFINITY=$(INFINITY)/bin/infinity_emb $(BIN)/python -m pytest tests/exports/test_infinity.py

# Drives the machine's own Chromium, which root gets from apt where there is none; playwright brings none here.
CHROMIUM := command -v chromium || command -v chromium-browser || command -v google-chrome
APT := apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium

$(VENV)/.browser: $(STAMP)
	($(CHROMIUM) || { [ "$$(id -u)" = 0 ] && $(APT); } || { echo "install chromium first, then try again" >&2; false; }) >/dev/null
	$(BIN)/python $(PIP) -c constraints.txt -e '.[browser]'
	touch $@

test-browser: $(VENV)/.browser
	PRORANK_BROWSER=1 $(BIN)/python -m pytest tests/test_playground.py

# Every direct dependency in the lowest version that pyproject.toml allows (what those need in turn: the newest), in a place of its own.
$(LOWEST)/.stamp: pyproject.toml constraints-lowest.txt
	$(call install,$(LOWEST),$(TESTED),constraints-lowest.txt)

test-lowest: $(LOWEST)/.stamp
	$(LOWEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# After a lower bound changed: `make -B constraints-lowest.txt`, which fails where lower bounds exclude each other. The packages that
# torch needs for CUDA are left out: its CPU build has none.
constraints-lowest.txt: | $(STAMP)
	mkdir -p build/lowest && touch build/lowest/README.md
	sed -E 's/("[A-Za-z][^">]*)>=/\1==/g' pyproject.toml > build/lowest/pyproject.toml
	$(BIN)/uv pip compile build/lowest/pyproject.toml --quiet --no-header --no-annotate --no-build --python-version 3.11 \
		$(addprefix --extra ,$(subst $(comma), ,$(TESTED))) -o build/lowest/all.txt
	grep -vE '^(nvidia|cuda|triton)' build/lowest/all.txt > $@

lint: $(STAMP)
	$(BIN)/ruff check prorank tests benchmarks scripts recipes examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The site into build/site. Strict: a broken link or anchor fails. The hook in scripts/ fills the generated tables.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

pictures: $(STAMP)
	$(BIN)/python -m scripts.draw_pictures

clean:
	rm -rf $(VENV) $(LOWEST) $(INFINITY) build dist *.egg-info
