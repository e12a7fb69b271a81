# The two commands of the first minute are `make demo` and `make test`. Each says what it will install, installs it,
# builds, and does its work; on a fresh Debian 12 nothing but Rust needs to be there before.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Rust calls the C compiler to link; OpenSSL is Debian's, libssh2 and SQLite come with their crates and are compiled.
BUILD_PACKAGES := gcc libc6-dev pkg-config libssl-dev zlib1g-dev
PACKAGES = $(BUILD_PACKAGES)
DEB_PACKAGES := debhelper dpkg-dev python3
# What trying the package in a Debian root of its own needs.
ROOT_PACKAGES := debootstrap lintian systemd-container
DEB_FOLDER := $(abspath $(TARGET))/debian

.PHONY: help demo test torture build cost peers deb deb-test build-packages

help:
	@echo 'make demo   build, then run a server with three channels in a temporary folder and send it three messages'
	@echo 'make test   build, then run every test'
	@echo 'make torture  the long form of the tests that break things on purpose; takes hours, parts of it need root'
	@echo 'make build  build the program: $(TARGET)/release/hl7server'
	@echo 'make cost   count the instructions of each stage of a message, under valgrind; needs no quiet machine'
	@echo 'make peers  the same work by hl7server and by what others would build it from, in one table'
	@echo 'make deb    build the Debian package in $(TARGET)/debian'
	@echo 'make deb-test  build it, and try it under a systemd in a fresh Debian root; needs root'

demo: build
	$(TARGET)/release/hl7server demo

# The tests start servers, real clients and tools of the system; what they need is installed first.
test: build-packages
	tests/support/install
	$(CARGO) test --locked --workspace

# Some of it is skipped, and says so, where this user may not mount.
torture: build-packages
	WANT_TORTURE=1 tests/support/install
	CARGO=$(CARGO) tests/torture/campaign

build: build-packages
	$(CARGO) build --release --locked

cost: PACKAGES := $(BUILD_PACKAGES) valgrind
cost: build-packages
	tests/support/cost

peers: PACKAGES := $(BUILD_PACKAGES) nodejs npm python3 python3-venv
peers: build
	tests/support/compare-peers

# The package and what belongs to it go to DEB_FOLDER; the source stays as it was.
deb: PACKAGES := $(BUILD_PACKAGES) $(DEB_PACKAGES)
deb: build-packages
	mkdir -p $(DEB_FOLDER)
	rm -f $(DEB_FOLDER)/hl7server* debian/files
	DEB_FOLDER=$(DEB_FOLDER) dpkg-buildpackage --build=binary --unsigned-changes --no-pre-clean --post-clean \
		--buildinfo-file=$(DEB_FOLDER)/hl7server.buildinfo --buildinfo-option=-u$(DEB_FOLDER) \
		--changes-file=$(DEB_FOLDER)/hl7server.changes --changes-option=-u$(DEB_FOLDER)
	@ls -l $(DEB_FOLDER)/*.deb

deb-test: PACKAGES := $(BUILD_PACKAGES) $(DEB_PACKAGES) $(ROOT_PACKAGES)
deb-test: deb
	tests/package/fresh-root $(DEB_FOLDER)

# Not root: through sudo, which asks for its password where it has to.
build-packages:
	@missing=(); \
	for package in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$$package"); \
	done; \
	if [ $${#missing[@]} -gt 0 ]; then \
		echo "Installing with apt-get: $${missing[*]}"; \
		as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo); \
		"$${as_root[@]}" apt-get update -q; \
		"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -q --no-install-recommends "$${missing[@]}"; \
	fi; \
	command -v $(CARGO) >/dev/null || { echo 'Rust is missing; see https://rustup.rs' >&2; exit 1; }
