# make quickstart   installs tested versions into .venv and runs the main job
# make test         installs what tests need and runs them
# make adapters     tests of adapters for packages that want other versions, in .venv/adapters
# make vllm         tests of the vLLM sampler with the real engine on the CPU, in .venv/vllm
# make lint types   the other checks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
HASH := $(shell cat requirements/*.txt pyproject.toml | cksum | cut -d' ' -f1)
RUN := $(VENV)/.run-$(HASH)
TEST := $(VENV)/.test-$(HASH)
ADAPTERS := $(VENV)/.adapters-$(HASH)
VLLM := $(VENV)/.vllm-$(HASH)
STRICT := temper/carrier.py temper/columns.py temper/episode.py temper/bridge.py temper/loop.py temper/run.py \
	temper/objective.py temper/stage.py temper/request.py temper/policy.py temper/state.py temper/recipe.py \
	temper/install.py temper/backends

.PHONY: quickstart test adapters vllm lint types install clean
quickstart: $(RUN)
	$(BIN)/temper run quickstart

test: $(TEST)
	TEMPER_BFCL=$(CURDIR)/$(VENV)/bfcl $(BIN)/python -m pytest

adapters: $(ADAPTERS)
	$(VENV)/adapters/bin/python -m pytest tests/envs/adapters tests/contract/test_recipes.py \
		-k "verifiers or tasksets or openenv or trl_beside"

vllm: $(VLLM)
	$(VENV)/vllm/bin/python -m pytest tests/backends/test_vllm*.py tests/backends/test_ray_vllm.py

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST)
	$(BIN)/mypy --strict $(STRICT)

install: $(RUN)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(RUN): | $(BIN)/python
	$(PIP) -r requirements/lock.txt
	$(PIP) --no-deps --no-build-isolation --use-pep517 -r requirements/reasoning-gym.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.run-*; touch $@

$(TEST): $(RUN)
	$(PIP) -r requirements/test.txt
	$(PIP) -r requirements/tools.txt
	TEMPER_BFCL=$(CURDIR)/$(VENV)/bfcl $(BIN)/temper setup bfcl
	@rm -f $(VENV)/.test-*; touch $@

$(ADAPTERS): $(TEST)
	$(PYTHON) -m venv $(VENV)/adapters
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$(echo $(VENV)/adapters/lib/python*/site-packages)/beside.pth
	$(VENV)/adapters/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/adapters.txt
	@rm -f $(VENV)/.adapters-*; touch $@

$(VLLM): $(TEST)
	$(PYTHON) -m venv $(VENV)/vllm
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$(echo $(VENV)/vllm/lib/python*/site-packages)/beside.pth
	$(VENV)/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm.txt
	@rm -f $(VENV)/.vllm-*; touch $@
