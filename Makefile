# make generate PROMPT="…" SECONDS=10 | test | lint | bench | train-tiny
PYTHON ?= python3
PROMPT ?= a red sphere bounces on the ground, the camera orbits slowly
SECONDS ?= 10
ARGS ?=
export PROMPT

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := generate
.PHONY: setup generate test test-slow lint bench train-tiny

setup: .venv/.installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "setting up .venv (about a minute)"
	@$(INSTALL) torch --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	@$(INSTALL) --editable .[test]
	@touch $@

generate: setup
	@$(BIN)/python tools/generate.py --prompt "$$PROMPT" --seconds "$(SECONDS)" $(ARGS)

test: .venv/.installed-test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 $(ARGS)

test-slow: .venv/.installed-test
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/.installed-test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Our autoencoder beside those of diffusers, at a quarter of the pixels that the requirements are for; with
# ARGS="--size 256x256" it takes 12 minutes on two CPU cores.
bench: setup
	@$(BIN)/python tools/benchmark.py vae --size 128x128 $(ARGS)

# A model like the shipped one from nothing: the autoencoder on the world (and on real clips, with MANIFEST=clips.csv),
# then the transformer on the world.
train-tiny: setup
	$(BIN)/deepspeed tools/train_vae.py --config vae_tiny.yaml $(if $(MANIFEST),data.manifest=$(MANIFEST)) $(VAE_ARGS)
	$(BIN)/deepspeed train.py --config sora_tiny.yaml vae.path=runs/vae_tiny $(ARGS)
