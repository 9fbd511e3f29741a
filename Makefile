# One verb per line of work; CI runs the same ones (.ci/run). Needs Python 3.11 or newer and, for the demo and
# the end-to-end tests, Prometheus, which `make install` takes from Debian where it is absent.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Without torch, the demo is installed in a third of the time.
DEMO_INSTALLED := $(VENV)/.demo-installed
# More than there are cores: end-to-end tests wait most of the time. 0: all in one, for a debugger.
TEST_PROCESSES ?= 6
MKDOCS := build/mkdocs/bin/mkdocs
RELEASE := build/release/bin
PACKAGES := -e batching-watchdog -e autoscaler -e lab
# What is installed anew when it changes.
MANIFESTS := pyproject.toml batching-watchdog/pyproject.toml autoscaler/pyproject.toml lab/pyproject.toml

# The tests start hundreds of processes: where bytecode is not kept, each would compile the same sources.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test fast fuzz mutants check lint format images page-test node-test gpu-test pictures manifests bench clean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) prometheus ## Virtual environment with everything editable, and Prometheus if absent

$(INSTALLED): GROUP := dev
$(DEMO_INSTALLED): GROUP := demo
$(INSTALLED) $(DEMO_INSTALLED): $(MANIFESTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: run make PYTHON=python3.11 (or newer)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet $(PACKAGES) --group $(GROUP)
	@touch $@

.PHONY: prometheus
prometheus:
	@PATH="$$PATH:/usr/sbin:/sbin" command -v prometheus promtool >/dev/null 2>&1 || sh lab/install-from-debian.sh prometheus

demo: $(or $(wildcard $(INSTALLED)),$(DEMO_INSTALLED)) prometheus ## The main job on one machine (DEMO_ARGS=--quick: within 90 s; --help for the rest)
	$(BIN)/python -m tailbound_lab.demo $(DEMO_ARGS)

test: install ## All tests (TEST_ARGS='-k name' for some, make fast for those without processes)
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

fast: install ## Tests without processes, containers, browser and cluster
	$(BIN)/pytest -n auto -m 'not (e2e or container or browser or release or node or gpu)' $(TEST_ARGS)

FUZZERS := $(addprefix tests/watchdog/,function/test_wire.py pool/test_connection.py front/test_conformance.py front/test_connections.py \
  engine/test_engine.py) $(addprefix tests/autoscaler/law/,test_decide.py test_policies.py test_allocate.py)

fuzz: $(INSTALLED) ## Try FUZZ_EXAMPLES (20000) new inputs with each fuzzer: minutes
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/pytest -n $(TEST_PROCESSES) $(FUZZERS) --timeout 0 $(TEST_ARGS)

mutants: $(INSTALLED) ## Change the pure rooms, and say which changes no fast test sees (MUTANTS_ARGS=--help for what there is)
	$(BIN)/python tests/mutants/run.py $(MUTANTS_ARGS)

lint: $(INSTALLED) ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	MYPYPATH=functions $(BIN)/mypy --explicit-package-bases functions/*/handler.py
	$(BIN)/lint-imports

format: $(INSTALLED) ## Put the code into its form
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

check: lint test ## Lint, types, import contracts, all tests

images: install ## Build both images with podman and try them; as root on Debian, where it installs what it needs
	sh tests/deploy/base-image.sh
	$(BIN)/pytest tests/deploy -m container $(TEST_ARGS)

page-test: install ## The status page in Chromium, and the dashboards; as root on Debian, installs what it needs
	sh tests/page/install-browser.sh
	$(BIN)/python -m pip install --quiet --group browser
	$(BIN)/pytest tests/page tests/contract/test_grafana_schema.py -m browser $(TEST_ARGS)

node-test: $(INSTALLED) ## Follow the install guides, with load, on KUBECONFIG's cluster if NODE_TEST_CONTEXT is its context
	$(BIN)/pytest tests/node -m node $(TEST_ARGS)

gpu-test: $(INSTALLED) ## The watchdog on a real CUDA device, with torch's build for it
	$(BIN)/pytest tests/gpu -m gpu $(TEST_ARGS)

pictures: $(INSTALLED) prometheus ## Take the documentation's picture of the status page from a demo; needs Chromium
	$(BIN)/python -m docs.figures.page

manifests: $(INSTALLED) ## Write the dashboards, the chart's schema, and the manifests made of it
	$(BIN)/python deploy/grafana/generate.py
	$(BIN)/python deploy/helm/manifests.py

bench: install ## Measure the data plane (BENCH_ARGS=--quick: beside two peers; --help for what there is)
	$(BIN)/python -m tailbound_lab.bench $(BENCH_ARGS)

.PHONY: docs reference tutorial

docs: $(MKDOCS) ## The documentation as a site, build/site/index.html; every link is checked
	NO_MKDOCS_2_WARNING=1 $(MKDOCS) build --strict --quiet

# An environment of its own: mkdocs brings a package `watchdog`, which would hide the modules of tests/watchdog.
$(MKDOCS): pyproject.toml
	$(PYTHON) -m venv build/mkdocs
	build/mkdocs/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	build/mkdocs/bin/python -m pip install --quiet --group docs
	@touch $@

reference: $(INSTALLED) ## Write the tables of docs/reference/ and docs/benchmarks.md anew
	$(BIN)/python -m docs.generate_reference
	$(BIN)/python -m docs.generate_benchmarks

tutorial: install ## Follow docs/tutorial.md, command by command: two minutes
	@command -v curl >/dev/null || sh lab/install-from-debian.sh curl
	$(BIN)/pytest tests/docs/follow_tutorial.py $(TEST_ARGS)

.PHONY: lock wheels sbom release-test

# The Kubernetes client requires aiohttp for its asyncio twin, which the image does not ship.
NOT_SHIPPED := $(addprefix --no-emit-package=,aiohttp aiohttp-retry aiohappyeyeballs aiosignal attrs frozenlist multidict propcache yarl)
COMPILE := $(RELEASE)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' $(LOCK_ARGS)
BUILD_REQUIRES := import sys, tomllib; print("\n".join(tomllib.load(sys.stdin.buffer)["build-system"]["requires"]))

lock: $(RELEASE)/uv ## Pin what the images install, with hashes (LOCK_ARGS=--upgrade: to the newest versions)
	$(COMPILE) batching-watchdog/pyproject.toml --output-file batching-watchdog/requirements.lock
	$(COMPILE) batching-watchdog/pyproject.toml --extra otel --constraints batching-watchdog/requirements.lock \
		--output-file batching-watchdog/otel.lock
	$(COMPILE) $(NOT_SHIPPED) autoscaler/pyproject.toml --output-file autoscaler/requirements.lock
	for each in batching-watchdog autoscaler; do \
		$(RELEASE)/python -c '$(BUILD_REQUIRES)' <$$each/pyproject.toml \
			| $(COMPILE) - --output-file $$each/build.lock || exit 1; \
	done

wheels: $(RELEASE)/uv ## sdist and wheel of both distributions, in build/dist/
	sh release/wheels.sh $(RELEASE) build/dist

sbom: $(RELEASE)/uv ## What each distribution installs, as CycloneDX JSON, in build/sbom/
	sh release/sbom.sh $(RELEASE) build/sbom

release-test: install wheels sbom ## Install the wheels into an empty environment and try them; needs an index
	$(BIN)/pytest tests/release -m release $(TEST_ARGS)

$(RELEASE)/uv: pyproject.toml
	$(PYTHON) -m venv build/release
	$(RELEASE)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(RELEASE)/python -m pip install --quiet --group release
	@touch $@

clean: ## Remove what was built, but not the virtual environment
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
