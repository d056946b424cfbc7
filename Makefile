# Holdfast. `make` lists the targets; `make demo` and `make test` install what they need first.
# ARGS are handed on: make serve ARGS='--port 7000 --loops 2'

SHELL := bash
# Imports that no arrow of Package.swift allows are errors.
SWIFT_FLAGS := --explicit-target-dependency-import-check error
# What is compiled for tests: without debug information, which is an eighth of the time. A module at a time and its
# interface with it, and no index of the toolchain's modules: file by file each is read again and again, which is
# another fifth.
TEST_BUILD_FLAGS := $(SWIFT_FLAGS) $(addprefix -Xswiftc ,-gnone -wmo -num-threads 2 -disable-batch-mode \
  -no-emit-module-separately-wmo -index-ignore-system-modules)
SWIFT_TEST = swift test --skip-build --ignore-lock $(TEST_BUILD_FLAGS)
# Linked as a whole (LLVM's ThinLTO): the compiler inlines nothing that is `package` into other modules, and a call
# goes through eight of them. 12 to 30 % less CPU of a Reserve.
# Swift's libraries are part of the programs, so that they start on a machine without Swift; what the linker can leave
# out of them it does, and no path of this machine stands in them.
RELEASE_FLAGS := $(SWIFT_FLAGS) --experimental-lto-mode thin --static-swift-stdlib --disable-local-rpath \
  $(addprefix -Xlinker ,--no-export-dynamic --gc-sections)
RELEASE := .build/release
SWIFT_FOLDERS := Package.swift Sources LoadTest Benchmarks Tests examples/swift/Package.swift examples/swift/Sources/Checkout
PYTEST := .venv/bin/python -m pytest
ROUNDS ?= 20
SEEDS ?= 1000
SECONDS ?= 60
# Markers of the end-to-end tests that have a target of their own: they need more than there is, or take long.
SEPARATE := proxies or package or clients or browser or alerts or broker or orders
# Of the end-to-end tests, which wait more than they compute.
PROCESSES ?= 6
# Where the user postgres can get at it, if we are root.
ENGINE ?= .engine
# Of `make install`, as everywhere.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
# Of examples/, those that run where Debian, PyPI and Swift's packages are all there is.
CLIENTS ?= python go java ruby cpp swift
ARGS ?=

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@awk -F ':.*## ' '/^# == / { print "\n" substr($$0, 6) } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

# == For users

demo: bootstrap programs ## start the server, hammer one hot SKU, print the verdict
	scripts/demo.sh $(ARGS)

demo-ha: bootstrap bootstrap-dev programs ## two servers and PostgreSQL: load, kill the owner, kill the primary, the verdict (ARGS)
	scripts/demo-ha.py $(ARGS)

demo-orders: bootstrap bootstrap-dev programs ## a shop, a queue and 1,000 shoppers for 100 units: each part killed once, the verdict, naive shops beside (ARGS)
	.venv/bin/python scripts/demo-orders.py $(ARGS)

engine-up: bootstrap-dev ## three PostgreSQL servers on loopback, in .engine; says what to type next
	@scripts/engine.py up $(ENGINE) | { read -r url; read -r pgpass; printf '%s\n' \
	  "export PGPASSFILE=$$pgpass" "make programs" "$(RELEASE)/holdfast engine init --engine '$$url'" \
	  "$(RELEASE)/holdfast serve --durability quorum --engine '$$url' --data-dir holdfast-data" \
	  "$(RELEASE)/holdfast serve --durability quorum --engine '$$url' --data-dir holdfast-standby --standby --port 0 --admin-port 0"; }

engine-down: ## stop them; the folder goes too
	@if [ -e $(ENGINE) ]; then scripts/engine.py down $(ENGINE); rm -rf $(ENGINE); fi

test: proto-check test-swift test-end-to-end ## every test, from a fresh clone

serve: bootstrap programs ## run the server (ARGS)
	$(RELEASE)/holdfast serve $(ARGS)

load: bootstrap programs ## run the load generator (ARGS); out/ is there for its files
	@mkdir -p out
	$(RELEASE)/holdfast-load run $(ARGS)

compare-strategies: bootstrap programs ## the four strategies of serve --concurrency beside each other (ARGS)
	scripts/compare-strategies.sh $(ARGS)

install: ## install what `make programs` has built below PREFIX (/usr/local; DESTDIR for packages)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' RELEASE='$(RELEASE)' scripts/install.sh install

uninstall: ## take it away again; what was configured and the data stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' scripts/install.sh uninstall

deb: bootstrap-package programs ## Debian packages of both programs, in dist/
	scripts/build-deb.sh dist

clean: ## remove what was built
	rm -rf .build .build-thread .build-address .build-fuzz .build-count .venv .venv-proxies .venv-patroni .venv-browser .venv-clients dist
	for folder in examples/*/; do $(MAKE) -C $$folder clean; done

# == For developers

build: bootstrap ## the release build
	scripts/stamp-version.sh
	swift build -c release $(RELEASE_FLAGS)

# What users start, and what is asked of them; linking each program as a whole takes its time.
programs: bootstrap
	scripts/stamp-version.sh
	swift build -c release --product holdfast $(RELEASE_FLAGS)
	swift build -c release --product holdfast-load $(RELEASE_FLAGS)

# The end-to-end tests run the debug server that the Swift tests were built with: one build for both.
# The tests of the load generator mostly wait, so they run beside the others, which compute. The admin tests
# measure how long a probe takes: not beside tests that keep every processor busy.
test-swift: bootstrap-dev ## the Swift tests
	swift build --build-tests $(TEST_BUILD_FLAGS)
	scripts/side-by-side.sh \
	  '$(SWIFT_TEST) --skip "^(AdminTests|LoadTests)\\." $(ARGS)' \
	  '$(SWIFT_TEST) --filter "^LoadTests\\." $(ARGS)'
	$(SWIFT_TEST) --filter '^AdminTests\.' $(ARGS)

test-end-to-end: test-swift ## the Python tests against the real server
	$(PYTEST) Tests/EndToEnd -n $(PROCESSES) --dist loadfile --no-loadscope-reorder -m 'not alone and not ($(SEPARATE))'
	$(PYTEST) Tests/EndToEnd -m alone

test-proxies: bootstrap-proxies programs ## nginx, HAProxy and Envoy in front of the release build (ARGS)
	HOLDFAST_BINARY=$(RELEASE)/holdfast $(PYTEST) Tests/EndToEnd -m proxies $(ARGS)

test-broker: test-swift ## what takes a RabbitMQ of its own: restarts, alarms, limits (ARGS)
	$(PYTEST) Tests/EndToEnd -m broker $(ARGS)

test-orders: bootstrap-dev programs ## examples/orders as a whole, with the release build: every part killed, every order ends (ARGS)
	HOLDFAST_BINARY=$(RELEASE)/holdfast $(PYTEST) Tests/EndToEnd -m orders $(ARGS)

test-package: bootstrap-dev bootstrap-package programs ## the Debian packages in a root without Swift: installed, called, removed (as root; ARGS)
	$(PYTEST) Tests/EndToEnd/test_package.py -m package $(ARGS)

release: bootstrap-package ## what a release is published as, in dist/, from the commit that has its tag
	scripts/release.sh --check
	$(MAKE) programs
	scripts/release.sh dist

test-alerts: test-swift ## servers in every condition that there is an alert for, under a real Prometheus (ARGS)
	$(PYTEST) Tests/EndToEnd -n 4 --dist load -m alerts $(ARGS)

test-console: bootstrap-browser programs ## the console, and the shop of examples/orders, in Chromium, with the release build (ARGS)
	HOLDFAST_BINARY=$(RELEASE)/holdfast .venv-browser/bin/python -m pytest Tests/EndToEnd -m browser $(ARGS)

test-clients: bootstrap-clients programs ## build the programs of examples/ and hold each to the same table (CLIENTS, ARGS)
	set -e; for language in $(CLIENTS); do \
	  $(MAKE) -C examples/$$language PYTHON=$$PWD/.venv/bin/python GOOGLEAPIS=$$(echo $$PWD/.venv/lib/python3*/site-packages); done
	HOLDFAST_BINARY=$(RELEASE)/holdfast HOLDFAST_CLIENTS='$(CLIENTS)' $(PYTEST) Tests/EndToEnd -m clients $(ARGS)

crash: bootstrap programs ## kill -9 under load, restart, compare with the ledger (ROUNDS, ARGS)
	scripts/crash.py --rounds $(ROUNDS) $(ARGS)

crash-engine: bootstrap bootstrap-dev programs ## two servers and PostgreSQL lose what they may lose, under load (ROUNDS, ARGS)
	.venv/bin/python scripts/crash-engine.py --rounds $(ROUNDS) $(ARGS)

crash-events: bootstrap bootstrap-dev programs ## relay, intake, broker and server are killed in turn; every decision is published, every order ends right (ROUNDS, ARGS)
	.venv/bin/python scripts/crash-events.py --rounds $(ROUNDS) $(ARGS)

backups: bootstrap bootstrap-dev programs ## backups under load, each restored and audited (ROUNDS, ARGS)
	.venv/bin/python scripts/backups.py --rounds $(ROUNDS) $(ARGS)

power-cuts: bootstrap-dev programs ## the power is cut at every kind of moment, as recorded; images compared with the ledger (ARGS)
	.venv/bin/python scripts/power-cuts.py $(ARGS)

simulate: bootstrap ## the store on a disk that fails: SEEDS=N, ARGS='--mutant all' or '--seed N' or '--bit-flips N'
	swift build -c release --product simulate $(RELEASE_FLAGS)
	$(RELEASE)/simulate --seeds $(SEEDS) $(ARGS)

sanitize: bootstrap ## tests and a small load under ThreadSanitizer and AddressSanitizer
	scripts/sanitize.sh $(ARGS)

fuzz: bootstrap ## coverage-guided fuzzing of frames, header blocks, calls, orders and what brokers say, SECONDS each (ARGS: the targets)
	scripts/fuzz.sh $(SECONDS) $(ARGS)

format: ## format the Swift sources in place
	swift format --in-place --parallel --recursive $(SWIFT_FOLDERS)

lint: proto-lint ## check the format of the Swift sources and the API's style
	swift format lint --strict --parallel --recursive $(SWIFT_FOLDERS)

console: ## put the console's pages, web/console, into the Swift sources
	scripts/embed-console.py

console-pictures: bootstrap-browser programs ## pictures of the console under load, in docs/pictures
	.venv-browser/bin/python scripts/console-pictures.py $(ARGS)

proto: bootstrap-dev ## regenerate Sources/CHoldfastProto from proto/
	scripts/generate-proto.sh

proto-lint: bootstrap-dev ## buf's STANDARD and COMMENTS rules; nothing breaks since the last release
	cd proto && ../.venv/bin/buf lint && ../.venv/bin/buf breaking --against released.txtpb

proto-check: bootstrap-dev ## fail if the generated C is stale
	scripts/generate-proto.sh --check

proto-clients: bootstrap-clients ## clients in every language from proto/, generated, and compiled in four
	scripts/proto-clients.sh

bootstrap: ## install what the build needs and is missing
	@scripts/bootstrap.sh

bootstrap-dev: ## and what the tests need
	@scripts/bootstrap.sh --dev

bootstrap-bench: ## and what measuring needs
	@scripts/bootstrap.sh --bench

bootstrap-proxies: ## and what test-proxies needs: nginx, haproxy, and Envoy in .venv-proxies
	@scripts/bootstrap.sh --proxies

bootstrap-browser: ## and what test-console needs: Chromium and its driver, selenium in .venv-browser
	@scripts/bootstrap.sh --browser

bootstrap-clients: ## and what test-clients and proto-clients need: Go, Java, Ruby, C++, their libraries, and .venv-clients
	@scripts/bootstrap.sh --clients

bootstrap-ha: ## and what scripts/patroni.py needs: Patroni and etcd, and a newer Patroni in .venv-patroni
	@scripts/bootstrap.sh --ha

bootstrap-package: ## and what packaging and test-package need: dpkg-dev, lintian, debootstrap, mandoc, zsh, fish
	@scripts/bootstrap.sh --package

# == Measuring

bench: bootstrap-bench build ## CPU per Reserve beside the floor server; the store by itself
	scripts/bench.sh

bench-store: build ## Replace beside Release + Reserve, bytes of an item and of a live hold, with their bars
	$(RELEASE)/store-benchmark bars

bench-journal: bootstrap-bench build ## what durability costs beside memory: CPU, latency, bytes; seconds to recover
	@mkdir -p out; folder=$$(mktemp -d -p out); trap 'rm -rf '$$folder EXIT; \
	  $(RELEASE)/store-benchmark recovery $$folder
	scripts/bench-journal.py $(ARGS)

bench-generator: bootstrap-bench build ## CPU per request of the load generator beside h2load's, on the floor server (ARGS)
	scripts/bench-generator.py $(ARGS)

bench-pause: bootstrap-bench build ## the longest wait of a call in a storm of expiries, a checkpoint, and while tables grow, beside rest (ARGS)
	$(RELEASE)/store-benchmark pauses
	scripts/bench-pause.py $(ARGS)

bench-watch: bootstrap-bench build ## what 100 watches that wait and one of everything cost; events/s; expiries (ARGS)
	scripts/bench-watch.py $(ARGS)

bench-stream: bootstrap-bench build ## a durable decision of a ReserveStream and of batches, beside unary calls (ARGS)
	scripts/bench-stream.py $(ARGS)

bench-events: bootstrap-dev programs ## events/s of the relay to a RabbitMQ, CPU per event, and how late they are (ARGS)
	.venv/bin/python scripts/bench-events.py $(ARGS)

bench-import: bootstrap-bench bootstrap-dev build ## a million rows of new items over ImportStock, from a client in Python (ARGS)
	.venv/bin/python scripts/bench-import.py $(ARGS)

bench-intake: bootstrap-bench bootstrap-dev programs ## orders a second from a RabbitMQ, and CPU of an order: intake, broker, server (ARGS)
	.venv/bin/python scripts/bench-intake.py $(ARGS)

bench-limit: bootstrap-bench build ## CPU of a Reserve with a limit for a new customer beside one without (ARGS)
	tools/bench/ratio.py --limit --scenarios bc --repetitions 5 --bars b=1.4,c=1.4 $(ARGS)

bench-replace: bootstrap-bench bootstrap-dev build ## CPU of a Replace beside a Release and a Reserve, whole calls (ARGS)
	.venv/bin/python scripts/bench-replace.py $(ARGS)

bench-quorum: bootstrap-bench bootstrap-dev programs ## durability quorum beside fsync, and beside conditional updates in that PostgreSQL (ARGS)
	scripts/bench-quorum.py $(ARGS)

bench-broker: bootstrap-bench bootstrap-dev build ## CPU of a message through RabbitMQ, published and consumed (ARGS)
	scripts/bench-broker.py $(ARGS)

# Built with Swift's libraries beside the programs: calls into them can only be counted from outside.
count: bootstrap-bench ## allocations and reference counting per call on the hot path
	swift build -c release --scratch-path .build-count --product holdfast $(SWIFT_FLAGS) --experimental-lto-mode thin
	swift build -c release --scratch-path .build-count --product holdfast-load $(SWIFT_FLAGS) --experimental-lto-mode thin
	scripts/count-hot-path.py --binaries .build-count/release $(ARGS)

disk-use: bootstrap build ## what stands on the disk while units are held and released without end (ARGS)
	scripts/disk-use.py $(ARGS)
