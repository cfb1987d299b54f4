# make demo   a network found, trained, measured and exported on this computer, with a report (two to four minutes after installation)
# make test   everything that is checked before a change lands
# make bench  the figures that the README quotes (an hour or two; the machine should be otherwise idle)
#
# Each sets up all it needs: a virtual environment, and system packages through apt where they are missing.

VENV ?= .venv
BIN := $(VENV)/bin
# The oldest Python that is new enough and can be found.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# System packages by Debian name, and the command that shows that one is there.
DEMO_PACKAGES := g++:g++
TEST_PACKAGES := $(DEMO_PACKAGES) chromium:chromium \
	gcc-arm-none-eabi:arm-none-eabi-gcc libnewlib-arm-none-eabi:arm-none-eabi-gcc qemu-system-arm:qemu-system-arm \
	qemu-user:qemu-aarch64 gcc-aarch64-linux-gnu:aarch64-linux-gnu-gcc g++-aarch64-linux-gnu:aarch64-linux-gnu-g++ \
	debootstrap:debootstrap fakeroot:fakeroot cmake:cmake verilator:verilator yosys:yosys

.PHONY: demo test bench lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo
	$(BIN)/python examples/demo.py

test: export OMP_NUM_THREADS := 1
test: $(VENV)/test lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not timing"
	$(BIN)/pytest -m timing

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/test
	for b in tests/bench/bench_*.py; do $(BIN)/python $$b || exit 1; done
	for b in host int8 random demo aarch64 cortex_m; do $(BIN)/python -m tests.bench.compiled.bench_$$b; done

clean:
	rm -rf $(VENV) demo-out build dist

$(VENV)/demo: pyproject.toml
	@$(MAKE) --no-print-directory system PACKAGES="$(DEMO_PACKAGES)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/test: pyproject.toml
	@$(MAKE) --no-print-directory system PACKAGES="$(TEST_PACKAGES)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@ $(VENV)/demo

.PHONY: system
system:
	@test -n "$(PYTHON)" || { echo "hwnas needs Python 3.11 or newer: apt-get install python3.11 python3.11-venv"; exit 2; }
	@missing=""; for pair in $(PACKAGES); do command -v $${pair#*:} >/dev/null || missing="$$missing $${pair%%:*}"; done; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
		as_root=""; [ "$$(id -u)" = 0 ] || as_root=sudo; \
		echo "installing$$missing"; \
		$$as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
