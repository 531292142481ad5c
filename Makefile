# One place for every command: people, CI and the documentation run the same targets.
# Everything that is fetched or built stays in .venv and .cache; `make clean` removes both.

PYTHON ?= python3
# A configuration of your own for `make run`; empty: the demo's, left running after its story.
CONFIG ?=
# Options of `semievold demo`, for example DEMO='--seed 1'.
DEMO   ?=
# TORCH_BACKEND=cpu takes a torch without CUDA (0.2 GB instead of 5 GB). Empty: what PyPI has.
TORCH_BACKEND ?=
# What `make up` runs vLLM and the training on: cpu or gpu. Empty: COMPOSE_PROFILES of deploy/.env.
PROFILE ?=

# What `make dashboards-preview` asks, and how far back.
PROMETHEUS ?= http://127.0.0.1:9090
HOURS ?= 1

BIN   := .venv/bin
STAMP := .venv/.installed$(addprefix -,$(TORCH_BACKEND))
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
export HF_HOME      := $(CURDIR)/.cache/huggingface
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo run test check metrics-docs dashboards dashboards-preview lint format types imports unit integration faults on-servers clients monitoring-test scenarios cluster-test kube-score bench servers up down lock clean model

help: ## Show this list
	@echo "Usage: make TARGET [PYTHON=python3.12] [TORCH_BACKEND=cpu]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  TORCH_BACKEND=cpu   install a torch without CUDA (much smaller; needs download.pytorch.org)"
	@echo "  PYTHON=PATH         the interpreter that .venv is made from (3.11 or newer)"
	@echo "  PROFILE=cpu|gpu     what make up runs vLLM and the training on"

setup: $(STAMP)-dev ## Make .venv with everything for development

demo: $(STAMP)-demo ## Run the whole loop on this machine, no server and no account needed (report in .cache/demo)
	@UV="$$(cat .venv/.uv)" $(BIN)/python -m semievold.demo.model --into .cache/models
	@$(BIN)/semievold demo $(DEMO)

run: $(STAMP)-demo ## Run the demo and leave its daemon running, or run your own CONFIG=path.yaml
	@$(BIN)/python -m semievold.demo.model --into .cache/models
	@if [ -n "$(CONFIG)" ]; then $(BIN)/semievold run --config "$(CONFIG)"; \
	else $(BIN)/semievold demo --keep-running $(DEMO); fi

# The servers first: some unit tests ask kubectl and promtool.
test: lint types imports servers unit on-servers ## Run every check and every test; brings the servers that they need

check: lint types imports unit ## Run the quick checks (a minute or two)

lint: $(STAMP)-dev ## Lint and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)-dev ## Format, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)-dev ## Check types (strict; of what no CI run calls, its calls)
	$(BIN)/mypy
	$(BIN)/mypy --config-file bench/mypy.ini bench docs/examples tests/clients tests/cluster tests/scenarios tests/watched_run

imports: $(STAMP)-dev ## Check who may import whom
	$(BIN)/lint-imports --cache-dir .cache/import-linter

unit: $(STAMP)-dev ## Run the unit tests
	$(BIN)/pytest --numprocesses=2 --dist=loadfile tests/unit

integration: $(STAMP)-dev model servers ## Run the tests against real files, processes, models and servers
	$(BIN)/pytest tests/integration

faults: $(STAMP)-dev model servers ## Run the tests that kill and corrupt things
	$(BIN)/pytest tests/faults

# Both in one session, and by two processes: many of these tests wait for a server or a child process. Those that need
# vLLM stay in one of the two, so that its servers start once (tests/scheduling.py). Of some
# 1,400 a few that fail are tried once more, and listed with their first failure: three such runs in a row were refused
# for one test each that then passed. More than a few is no chance.
RERUNS := --reruns=1 --max-suite-reruns=2 --rerun-show-tracebacks
on-servers: $(STAMP)-dev model servers
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --durations=40 $(RERUNS) tests/integration tests/faults

# Not in CI: it takes ten minutes or more. CALLS='langchain or curl' makes some of them alone.
clients: $(STAMP)-dev model ## Ask both engines with real client libraries, compare, write the table in docs/gateway.md
	$(BIN)/pytest -q tests/clients $(if $(CALLS),-k "$(CALLS)")

# Not in CI: a minute and a half, of which most is waiting for what a Prometheus is to see.
monitoring-test: $(STAMP)-dev servers ## Have a real Prometheus watch a run, and answer every panel, rule and alert
	$(BIN)/pytest -q --show-capture=no tests/watched_run

# Not in CI: five minutes of one core. SCENARIOS_OUT_OF_SCOPE=PATH takes the mail out of scope from a JSONL file.
scenarios: $(STAMP)-dev ## Leave whole daemons alone with wrong labels, spam, floods, drift, nodding reviewers: none may serve worse
	$(BIN)/pytest -q --show-capture=no tests/scenarios

# Not in CI: half an hour on two cores, and once half an hour more for programs that no package has. As root on Debian.
cluster-test: $(STAMP)-dev model servers ## Run k8s/README.md on a real cluster of one node, write docs/cluster.md; as root on Debian
	@$(BIN)/python -m tests.cluster.set_up
	$(BIN)/pytest -x -s -q tests/cluster

# Not in CI: building it takes a minute, once.
kube-score: $(STAMP)-dev ## Have kube-score look through the overlays of k8s/ (needs Go and kubectl)
	@$(BIN)/python -m tests.servers.kube_score --build
	$(BIN)/pytest -q -rs tests/integration/shipped/test_kube_score.py

bench: $(STAMP)-dev model servers ## Measure every claim of the README
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

metrics-docs: $(STAMP)-dev ## Write docs/metrics.md from the code
	@$(BIN)/python -m semievold.monitoring.metrics_page docs/metrics.md

dashboards: $(STAMP)-dev ## Write the dashboards, and the alerts for Kubernetes
	@$(BIN)/python -m deploy.grafana.boards
	@$(BIN)/python -m deploy.prometheus.prometheus_rule

dashboards-preview: $(STAMP)-dev ## Draw every panel of the dashboards from a Prometheus (PROMETHEUS=http://127.0.0.1:9090, HOURS=1)
	@$(BIN)/python -m deploy.grafana.preview $(PROMETHEUS) .cache/dashboards.html --hours $(HOURS)

servers: $(STAMP)-dev ## Bring Kafka, PostgreSQL and vLLM for tests: into .cache, on Debian as root also packages
	@$(BIN)/python -m tests.servers.set_up

up: deploy/.env ## Start everything in containers (deploy/compose.yaml); PROFILE=cpu or gpu
	@$(need-compose)
	@$(COMPOSE) $(addprefix --profile ,$(PROFILE)) up --detach --build
	@$(COMPOSE) --profile cpu --profile gpu ps
	@echo "make: gateway http://127.0.0.1:8320, API :8321, Grafana :3000, Prometheus :9090, Kafka :9094 unless" \
	  "deploy/.env says otherwise; tokens and passwords are in deploy/.env"

down: ## Stop the containers; volumes stay (docker compose down --volumes removes them)
	@$(need-compose)
	@$(COMPOSE) --profile cpu --profile gpu down

model: $(STAMP)-dev
	@UV="$$(cat .venv/.uv)" $(BIN)/python -m semievold.demo.model --into .cache/models

# What an image may take as EXTRAS.
IMAGE_EXTRAS := gcs kafka kubernetes local mlflow parquet postgres qdrant s3 tensorboard tracing
HASHED = $$(cat .venv/.uv) pip compile --universal --python-version 3.11 --generate-hashes --constraint requirements.lock \
  --custom-compile-command 'make lock' --no-annotate --quiet

lock: .venv/.uv ## Resolve requirements.lock and the images' locks again from pyproject.toml
	@# Without the extra vllm: it pins half of what is here, and belongs in an environment of its own.
	@$$(cat .venv/.uv) pip compile --universal --python-version 3.11 --extra dev --extra bench --extra hub --extra mlflow pyproject.toml \
	  --no-header --no-annotate --quiet -o requirements.lock
	@# The images' at the same versions. Torch apart: its hash differs with TORCH_BACKEND.
	@$(HASHED) $(addprefix --extra ,$(IMAGE_EXTRAS)) --no-emit-package torch pyproject.toml -o deploy/images.lock
	@echo torch | $(HASHED) --no-deps - -o deploy/images-torch.lock
	@printf 'setuptools>=77\nuv\n' | $(HASHED) --no-deps - -o deploy/images-build.lock

clean: ## Remove .venv, .cache and build leftovers
	rm -rf .venv .cache build dist *.egg-info .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- containers -----------------------------------------------------------------------------------------------------

COMPOSE := docker compose --file deploy/compose.yaml

define need-compose
docker compose version >/dev/null 2>&1 || { \
  echo "make: this needs Docker with the Compose plugin 2.20.3 or newer, and 'docker compose version' does not answer;" \
    "see https://docs.docker.com/compose/install/ (Debian, Ubuntu: docker-compose-plugin of Docker's repository)" >&2; exit 1; }; \
docker info >/dev/null 2>&1 || { \
  echo "make: no Docker engine answers ('docker info' says why); start it, or join the group that may use it" >&2; exit 1; }
endef

# Every secret is drawn here, once; an existing file is never touched.
deploy/.env: | deploy/.env.example
	@umask 077; while IFS= read -r line; do case "$$line" in \
	  *=change-me) echo "$${line%change-me}$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')";; *) echo "$$line";; esac; \
	done < deploy/.env.example > $@
	@echo "make: wrote $@ with new secrets"

# --- set-up -------------------------------------------------------------------------------------------------------

# The environment and the uv that fills it: the user's own where it is recent enough, else one of our own in .cache.
.venv/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: Python 3.11 or newer is needed, and '$(PYTHON) -V' says: $$($(PYTHON) -V 2>&1 | tail -1)." \
	    "Set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@set -e; mkdir -p .cache; \
	if uv pip install --help 2>/dev/null | grep -q -e --torch-backend; then uv=uv; else \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: $(PYTHON) has no working venv module; install it (Debian, Ubuntu: apt install python3-venv) or install uv" >&2; exit 1; }; \
	  echo "make: no recent uv on the PATH, installing one into .cache/uv-tool"; \
	  $(PYTHON) -m venv .cache/uv-tool; \
	  .cache/uv-tool/bin/python -m pip install --quiet --cache-dir .cache/pip uv; uv=$(CURDIR)/.cache/uv-tool/bin/uv; fi; \
	test -x $(BIN)/python || $$uv venv --quiet --python "$$(command -v $(PYTHON))" .venv; \
	echo $$uv > $@

# .venv/.installed-demo, .venv/.installed-dev, and with a backend .venv/.installed-cpu-demo ...
$(STAMP)-%: pyproject.toml requirements.lock | .venv/.uv
	$$(cat .venv/.uv) pip install --compile-bytecode --python $(BIN)/python $(addprefix --torch-backend ,$(TORCH_BACKEND)) -c requirements.lock -e '.[$*]'
	@touch $@
