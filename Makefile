# Each target is a line or two that anyone could type; all work from a bare clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: compiled demo test sim mutants failpoints lint format compat chaos e2e fire bench bench-rows bench-growth bench-tools overload lock audit clean

# Made anew whenever the dependencies change.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,operator]'
	touch $@

compiled: $(VENV)/.installed ## the member's hot modules as machine code; used for as long as they fit the sources
	$(BIN)/python setup.py -q compile

demo: $(VENV)/.installed ## three members: write, read, watch, lose the leader, snapshot, restore
	PYTHONPATH=tests/support $(BIN)/python tests/demo/demo.py

test: lint compiled ## everything that needs no Kubernetes; the core's tests also on its compiled modules
	$(BIN)/python -m pytest -q
	KVTEST_COMPILED=1 $(BIN)/python -m pytest -q tests/lease tests/mvcc tests/raft

SEEDS ?= 100
sim: $(VENV)/.installed ## whole members under simulated faults: SEEDS=500, or REPLAY=... of one that failed
	KVNODE_PURE=1 PYTHONPATH=node:tests/support $(BIN)/python -m kvtest.sim --seeds $(SEEDS) --first $(or $(FIRST),0) --replay '$(REPLAY)'

mutants: $(VENV)/.installed ## deliberate faults in the core, each of which the simulation must find
	KVNODE_PURE=1 PYTHONPATH=node:tests/support $(BIN)/python -m kvtest.mutants

failpoints: $(VENV)/.installed ## the operator killed at every point of every operation, in a simulated Kubernetes; ONLY='first of 5'
	PYTHONPATH=node:operator:tests/support $(BIN)/python -m kvtest.operator_failpoints --only '$(ONLY)'

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

compat: compiled ## others' clients of etcd, on etcd and on kvnode, and tools for HTTP/2; they are built first
	tests/kube/kube build etcd
	PYTHONPATH=node:tests/support $(BIN)/python -m kvtest.foreign
	PYTHONPATH=node:tests/support $(BIN)/python -m kvtest.http2_tools
	PYTHONPATH=node:tests/support $(BIN)/python -m kvtest.chaos.linear
	$(BIN)/python -m pytest -q tests/compat/clients

MINUTES ?= 10
MEMBERS ?= 3
chaos: compiled ## real members in network namespaces under faults; MINUTES, MEMBERS=5, SEED; needs root, Go, iptables, tc
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	PYTHONPATH=node:tests/support $(BIN)/python -m kvtest.chaos --minutes $(MINUTES) --members $(MEMBERS) $(if $(SEED),--seed $(SEED))

e2e: $(VENV)/.installed ## on a Kubernetes of three nodes, booted here, or on that of KUBECONFIG
	tests/e2e/run

fire: $(VENV)/.installed ## the operator, nodes and a quorum killed in that Kubernetes
	E2E_TESTS=tests/e2e/fire tests/e2e/run

bench: ## against etcd, on 127.0.0.1, in a quarter of an hour; BENCH=full: up to 1,000,000 keys, in well over an hour
	$(MAKE) -j1 --keep-going bench-rows bench-growth

TLS ?= also
ROUNDS ?= $(if $(filter full,$(BENCH)),3,1)
bench-rows: bench-tools ## etcd's own benchmark on both, plain and over TLS; TLS=no or only, ROUNDS=3, ROWS='^put'
	PYTHONPATH=tests/support $(BIN)/python tests/bench/vs_etcd.py --rounds $(ROUNDS) --tls $(TLS) --rows '$(ROWS)'

bench-growth: bench-tools ## what grows; one part alone, kept beside the others: SWEEPS=keys, with AT=1000000 only that many
	PYTHONPATH=tests/support $(BIN)/python tests/bench/bench.py $(if $(filter full,$(BENCH)),--full) \
	  $(if $(SWEEPS),--sweeps $(SWEEPS) --keep --no-profile) $(if $(AT),--at $(AT))

bench-tools: compiled
	tests/kube/kube build etcd
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'

overload: compiled ## floods and clients that read nothing, on 127.0.0.1, in five minutes
	PYTHONPATH=node:tests/support $(BIN)/python tests/bench/overload.py

LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --upgrade --generate-hashes \
  --no-annotate --no-header --no-emit-index-url --quiet
lock: $(VENV)/.installed ## the images' dependencies anew, pinned by hash
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) --output-file node/requirements.txt
	$(LOCK) --extra operator --output-file operator/requirements.txt

audit: $(VENV)/.installed ## whether vulnerabilities of the images' dependencies are known; asks PyPI
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --disable-pip --require-hashes --strict -r node/requirements.txt -r operator/requirements.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
