# Everything runs from .venv, which `make setup` builds from the lock file.
# It needs only Python 3.11 or newer, make, git and the Python package index.

# pyproject.toml (dependency group "dev") pins the version of uv.
UV := $(shell sed -n 's/.*"\(uv==[0-9.]*\)".*/\1/p' pyproject.toml)
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3
SYNCED := .venv/.synced

# uv must neither download a Python nor work on another environment.
SYNC := UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv .venv/bin/uv sync --locked --python .venv/bin/python

# Four at a time, because many tests wait for a process. To watch one at a time: ARGS='-n0 -s'.
# Bytecode is kept even where the environment says otherwise: else each of the four compiles everything.
# Their files are in memory where there is room: no test crashes the machine, so a disk would prove nothing more.
FREE_KIB := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }')
MEMORY := $(shell [ "$(or $(FREE_KIB),0)" -gt 4194304 ] && [ -w /dev/shm ] && echo /dev/shm)
TEST_FILES := $(or $(TMPDIR),$(MEMORY))
PYTEST := PYTHONDONTWRITEBYTECODE= $(if $(TEST_FILES),TMPDIR=$(TEST_FILES)) .venv/bin/pytest -n 4 --dist worksteal

# The short forms of what `make faults` shows at length; `make test` runs them, too.
LONG_SHOWS := campaign failovers pulls pushes

.DEFAULT_GOAL := help
.PHONY: help setup run demo screenshots dashboard try-dashboard test check compose-test faults bench bench-scale bench-pushing bench-pages bench-replicas format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

setup: $(SYNCED) ## build .venv from the lock file

run: $(SYNCED) ## set up, then serve on 127.0.0.1:8000 with the embedded database (HOST=, PORT=)
	@.venv/bin/paasoo-dlr serve $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

demo: $(SYNCED) ## set up, then run the service and a simulated PaaSoo for a minute (ARGS='--seconds 10')
	@.venv/bin/python -m simulator.demo $(ARGS)

screenshots: $(SYNCED) ## make the pictures of the console in docs/; needs Chromium
	.venv/bin/python -m tests.console.screenshots $(ARGS)

dashboard: $(SYNCED) ## make deploy/grafana/dashboard.json from the panels in panels.py beside it
	.venv/bin/python -m deploy.grafana.dashboard

try-dashboard: $(SYNCED) ## its queries and the alerts against a real Prometheus, for a minute; needs prometheus (ARGS='--seconds 30')
	.venv/bin/python -m tests.ops.try_dashboard $(ARGS)

test: $(SYNCED) ## set up, then run every test on SQLite and PostgreSQL (ARGS= for pytest)
	$(PYTEST) $(ARGS)

check: $(SYNCED) ## all that CI runs: format, lint, types, import rules, Dockerfile, alerts, tests
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile
	@if command -v promtool >/dev/null; then promtool test rules deploy/prometheus/*_test.yml; \
	else echo "check: the alerts' tests are skipped; for them, apt-get install prometheus"; fi
	@command -v chromium >/dev/null || echo "check: the console's tests in a browser are skipped; for them, apt-get install chromium"
	$(PYTEST) $(LONG_SHOWS:%=--ignore=tests/faults/test_%.py)

# Nothing but a Python and Docker, so it needs no .venv.
compose-test: ## the Compose stack with TLS, upgraded, restarted and killed under callbacks; needs Docker (PYTHON_IMAGE=, POSTGRES_IMAGE=, CADDY_IMAGE= name other images)
	@python3 -m tests.compose $(ARGS)

faults: $(SYNCED) ## 1,000 kills and a million reports on both databases, then 10 minutes against deadlocks, 40 failovers, asking through 20 kills, pushing through 66; over an hour (ARGS=--seed N)
	.venv/bin/python -m tests.faults.campaign $(ARGS)

bench: $(SYNCED) ## compare with the baselines, about 12 minutes; needs wrk (ARGS='--rounds 5')
	.venv/bin/python -m benchmarks $(ARGS)

bench-scale: $(SYNCED) ## 10 million deliveries, about 45 minutes; needs wrk and 24 GiB of disk (ARGS='--deliveries 1000000')
	.venv/bin/python -m benchmarks.scale $(ARGS)

bench-pushing: $(SYNCED) ## pushes to 20 addresses against none; needs wrk (ARGS='--rounds 1')
	.venv/bin/python -m benchmarks.pushing $(ARGS)

bench-pages: $(SYNCED) ## the console's pages with a million deliveries, about 10 minutes; needs wrk (ARGS='--deliveries 10000000')
	.venv/bin/python -m benchmarks.pages $(ARGS)

bench-replicas: $(SYNCED) ## two replicas against one; needs wrk (ARGS='--rounds 1')
	.venv/bin/python -m benchmarks.replicas $(ARGS)

format: $(SYNCED) ## format the code and apply the safe fixes
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean: ## remove .venv and caches; never var/, which holds data
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The scripts in .venv/bin name their interpreter by its full path, so the stamp holds the folder that it was made in.
# A stamp from another folder, or beside an interpreter that no longer starts, is void.
ifneq ($(shell test "`cat $(SYNCED) 2>/dev/null`" = "$(CURDIR)" && .venv/bin/python -c 'print("ok")' 2>/dev/null),ok)
.PHONY: $(SYNCED)
VOID := yes
endif

# With a valid stamp, .venv is updated in place; otherwise (no stamp yet, a void one, or an interrupted run) it is
# built anew. The stamp is removed before the work starts and written when all of it is done.
$(SYNCED): pyproject.toml uv.lock
	@set -e; \
	found=; why="no Python found"; \
	if [ -z "$(VOID)" ] && [ -f $@ ]; then found=.venv/bin/python; fi; rm -f $@; \
	if [ -z "$$found" ]; then \
	  for python in $(PYTHONS); do \
	    version=`"$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null` || continue; \
	    if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	      case $$why in no*) why="Python 3.11 or newer is needed, and $$python is $$version";; esac; \
	    elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	      why="$$python is $$version but cannot make environments; install its venv package (Debian, Ubuntu: apt install python$$version-venv)"; \
	    else found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then echo "setup: $$why (to name another: make PYTHON=/path/to/python3)" >&2; exit 1; fi; \
	  echo "setup: building .venv with $$found ($$version)"; \
	  "$$found" -m venv --clear .venv; \
	fi; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(UV)"; \
	$(SYNC) --quiet; \
	echo "$(CURDIR)" > $@
