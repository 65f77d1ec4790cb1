# Everything a learner or maintainer runs. `make help` lists it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
export TOKENIZERS_PARALLELISM = false

.PHONY: help setup setup-colab lab run labs test test-colab test-models setup-browser test-browser check bench clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another Python 3.11 to 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt || { \
	  echo "the packages could not be installed (pip says why above). If there is no network: connect to the network once, then call make again"; exit 1; }
	@touch $@

setup: $(VENV)/.installed ## the environment and the model, once (under 5 minutes)
	@$(PY) -m helpers.models

.venv-colab/.installed: tests/colab_image.txt
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check -r tests/colab_image.txt
	@touch $@

setup-colab: .venv-colab/.installed ## Colab's versions in .venv-colab, for test-colab (about 2 minutes)

lab: setup ## open lesson 00 in JupyterLab on this machine
	@# in a container one often is root, and Jupyter refuses root unless told
	$(BIN)/jupyter lab --ip 127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

run: setup ## execute all lessons in order, refresh their outputs, print the scoreboard
	@$(PY) -m helpers.lessons run

labs: setup ## the training runs that data/labs.jsonl lacks (1 to 70 minutes each); LESSON=07 only lesson 07's own, LESSON=06 those of 04 to 06 and the passes of 7.2; AGAIN=1 makes them all anew and compares
	@case "$(LESSON)" in ""|04|05|06|07) ;; *) echo "LESSON is $(LESSON); 06 for the runs of 04 to 06, 07, or nothing for all"; exit 2;; esac
	@[ -z "$(AGAIN)" ] || exec $(PY) -m helpers.again $(LESSON)
	@[ "$(AGAIN)" -o "$(LESSON)" = 07 ] || $(PY) -m helpers.labs
	@case "$(AGAIN)$(LESSON)" in ""|07) $(PY) -m helpers.knowledge;; esac

check: $(VENV)/.installed ## ruff, spelling, notebook hygiene, links
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/codespell README.md CONTRIBUTING.md docs helpers benchmarks tests data/README.md data/handbook data/probes/prose.txt
	@$(PY) -m helpers.lessons check
	@$(PY) -m helpers.colab check

$(VENV)/.browser: requirements-browser.txt $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-browser.txt
	@touch $@

setup-browser: $(VENV)/.browser ## playwright, for the browser tests; chromium comes from the system

test: setup ## unit tests, every lesson really trained on a part of its rows, lesson 04 on another model, the browser, score floors; SHARE=1 takes all rows
	@$(MAKE) -s setup-browser || echo "without playwright the browser tests are skipped"
	@rm -rf runs/test && mkdir -p runs/test
	@share=$${SHARE:-$$($(PY) -m helpers.lessons share)} && echo "the lessons do $$share of their work" && \
	PYTHONPATH=$(CURDIR)/tests/no_names REFUSED_NAMES=$(CURDIR)/runs/test/refused_names.txt \
	WORKSHOP_SHARE=$$share WORKSHOP_RUNS=$(CURDIR)/runs/test HF_HUB_OFFLINE=1 $(PY) -m pytest -rs -m "not every_lesson" tests/unit notebooks tests/test_other_models.py tests/browser tests/floors

test-models: setup ## lessons 04 to 07 on a small random model, in full and in 4 bit, as far as a CPU can stand in for a GPU (20 minutes)
	@$(PY) -m pytest -rs tests/test_other_models.py

test-browser: setup setup-browser ## only the lessons in JupyterLab, driven through the system's chromium (half an hour)
	@$(PY) -m pytest -rs tests/browser

test-colab: setup setup-colab ## the bootstrap cell and lessons 00 and 04 as Colab would run them (8 minutes)
	@$(PY) -m pytest tests/test_colab.py

bench: setup ## speed against the stock recipes, side by side; QUICK=1 in under three minutes
	@$(PY) -m benchmarks.bench $(if $(QUICK),--quick)

clean: ## remove what runs left behind; the environment and the model stay
	rm -rf runs .pytest_cache .ruff_cache
