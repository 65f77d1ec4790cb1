# Everything a learner or maintainer runs. `make help` lists it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help setup lab run test check bench clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another Python 3.11 to 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

setup: $(VENV)/.installed ## the environment and the model, once (under 5 minutes)
	@$(PY) -m helpers.models

lab: setup ## open lesson 00 in JupyterLab on this machine
	$(BIN)/jupyter lab --ip 127.0.0.1 notebooks/00_start_here.ipynb

run: setup ## execute all lessons in order, refresh their outputs, print the scoreboard
	@$(PY) -m helpers.lessons run

check: $(VENV)/.installed ## ruff, spelling, notebook hygiene, links
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/codespell README.md CONTRIBUTING.md helpers benchmarks tests data/README.md data/handbook data/probes/prose.txt
	@$(PY) -m helpers.lessons check

test: setup ## unit tests, every lesson with real training, score floors (about 45 minutes on 2 cores)
	@rm -rf runs/test && mkdir -p runs/test
	@WORKSHOP_RUNS=$(CURDIR)/runs/test $(PY) -m pytest tests/unit notebooks tests/floors

bench: setup ## speed against the stock recipes, side by side; QUICK=1 in under four minutes
	@$(PY) -m benchmarks.bench $(if $(QUICK),--quick)

clean: ## remove what runs left behind; the environment and the model stay
	rm -rf runs .pytest_cache .ruff_cache
