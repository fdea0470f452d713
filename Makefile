# make generate PROMPT="…" SECONDS=10 | test | lint | bench | train-tiny | gallery
PYTHON ?= python3
PROMPT ?= a red sphere bounces on the ground, the camera orbits slowly
SECONDS ?= 10
ARGS ?=
export PROMPT

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := generate
.PHONY: setup generate test test-slow lint bench train-tiny gallery

setup: .venv/.installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "setting up .venv (one to two minutes)"
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

# Samples of all kinds as animated pictures, unpicked: seed 0 of each prompt; and the first two scenes of the world's split
# "val" continued, connected, closed and edited.
GALLERY := outputs/gallery
SHOW := $(BIN)/python tools/generate.py $(ARGS)
FIRST := a tiny snowy cone floats up slowly, a small green box grows slowly and a big red cone shrinks slowly
SECOND := a huge golden cylinder slides to the right and hits a big emerald sphere, a small yellow cone bounces up and down
gallery: setup
	@rm -rf $(GALLERY)
	@$(BIN)/python tools/prepare.py world --split val --count 2 --num-frames 33 --size 96x96 --out $(GALLERY)/world
	@$(SHOW) --prompt-file docs/gallery/prompts.txt --seconds 4 --out $(GALLERY)/text.webp
	@$(SHOW) --video $(GALLERY)/world/00000000.mp4 --extend forward --seconds 4 --prompt "$(FIRST)" --out $(GALLERY)/forward.webp
	@$(SHOW) --video $(GALLERY)/world/00000000.mp4 --extend backward --seconds 4 --prompt "$(FIRST)" --out $(GALLERY)/backward.webp
	@$(SHOW) --video $(GALLERY)/world/00000000.mp4 --connect $(GALLERY)/world/00000001.mp4 --seconds 2 --prompt "0: $(FIRST) | 4: $(SECOND)" --out $(GALLERY)/connect.webp
	@$(SHOW) --video $(GALLERY)/world/00000001.mp4 --loop --seconds 2 --prompt "$(SECOND)" --out $(GALLERY)/loop.webp
	@$(SHOW) --video $(GALLERY)/world/00000001.mp4 --edit 0.8 --source-prompt "$(SECOND)" --prompt "$(subst golden,red,$(SECOND))" --out $(GALLERY)/edit.webp

# A model like the shipped one from nothing: the autoencoder on the world (and on real clips, with MANIFEST=clips.csv),
# the text encoder on the world's captions, latents of its clips, the transformer on these, and its student of few steps.
# Each goes on where it was stopped, but for the text encoder, which begins again; what is done is left as it is. With
# ARGS=train.max_steps=16000 the transformer is trained on, and has a new student. RANKS=2 is for two CPU cores.
RANKED := $(BIN)/deepspeed $(if $(RANKS),--num_accelerators $(RANKS))
TINY := --config sora_tiny.yaml vae.path=runs/vae_tiny
train-tiny: .venv/.installed-test
	$(RANKED) tools/train_vae.py --config vae_tiny.yaml $(if $(MANIFEST),data.manifest=$(MANIFEST)) $(VAE_ARGS)
	$(BIN)/python tools/train_text.py --out runs/text $(TEXT_ARGS)
	$(RANKED) tools/encode.py $(TINY) --out runs/latents "text.encoder=''" $(DATA_ARGS)
	$(RANKED) train.py $(TINY) text.encoder=runs/text data.latents=runs/latents $(DATA_ARGS) $(ARGS)
	@[ runs/student/config.yaml -nt runs/sora_tiny/model/config.yaml ] || rm -rf runs/student
	$(RANKED) tools/distill.py $(TINY) text.encoder=runs/text data.latents=runs/latents $(DATA_ARGS) \
		train.init_from=runs/sora_tiny/model run_dir=runs/student $(STUDENT_ARGS)
	cp -r runs/student/few_steps runs/sora_tiny/model/
