"""Training steps of a config on random latents: packs as in training, one whole run."""

from dataclasses import replace

import pytest
import torch
from tiny_training import TINY

from data.dataset import Clip, ClipShape
from data.seeding import keyed_generator
from vae3d import LatentCodec, VideoVAE
from video_dit.batch import encode_clip
from video_dit.config import RunConfig, load_config
from video_dit.evaluation.dit_mixed import (
    MixedOptions,
    measure_mixed,
    split_config,
    synthetic_latents,
    synthetic_packs,
)
from video_dit.evaluation.speed import in_own_process
from video_dit.sources import pack_plan, training_clips
from video_dit.text import byte_t5

OPTIONS = MixedOptions("cpu", 1, warm_up=1, steps=2)


def test_a_config_and_its_changes() -> None:
    assert split_config("sora_small.yaml") == ("sora_small.yaml", [])
    changed = "my runs/a.yaml data.token_budget=64 data.sample_prompts=[a red sphere, x]  train.lr=1"
    overrides = ["data.token_budget=64", "data.sample_prompts=[a red sphere, x]", "train.lr=1"]
    assert split_config(changed) == ("my runs/a.yaml", overrides)


def test_latents_are_like_those_of_a_clip(tiny_vae: VideoVAE) -> None:
    codec, clip = LatentCodec(tiny_vae), ClipShape(9, 32, 48, 8.0)
    frames = torch.zeros(9, 32, 48, 3, dtype=torch.uint8)
    encoded = encode_clip(codec, Clip(frames, 8.0), keyed_generator("a"))
    found = synthetic_latents(codec, clip, keyed_generator("b"))
    assert found.keys() == encoded.keys()
    assert found["latents"].shape == encoded["latents"].shape
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in encoded.items()}
    assert found["latents"].float().std() == pytest.approx(1, abs=0.1)


@pytest.fixture
def run() -> RunConfig:
    config = load_config(RunConfig, "sora_tiny.yaml", TINY)
    return replace(config, data=replace(config.data, num_clips=40))


def test_packs_are_those_of_training(run: RunConfig) -> None:
    codec = LatentCodec.from_pretrained(run.vae.path)
    source = training_clips(run, codec)
    plan = pack_plan(run, codec, source)
    tokenizer, _ = byte_t5(run.text)
    packs = synthetic_packs(run, codec, source, plan, tokenizer, 2)
    for position, pack in enumerate(packs):
        assert pack.segments.lengths == [view.tokens for view in plan.pack(position)]
        assert pack.prompts.segments.count == pack.segments.count
    assert max(n for pack in packs for n in pack.prompts.segments.lengths) > 20  # captions, not stubs


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_another_device_than_deepspeed_takes() -> None:
    with pytest.raises(ValueError, match="--device cuda: DeepSpeed takes a GPU where there is one, and only there"):
        measure_mixed("sora_tiny.yaml", replace(OPTIONS, device="cuda"))


@pytest.mark.slow
def test_a_whole_run() -> None:
    config = " ".join(
        ["sora_tiny.yaml", *TINY, "data.num_clips=40", "train.accumulation=2", "train.checkpointing=true"]
    )
    found = in_own_process(measure_mixed, config, OPTIONS)
    assert len(found.seconds) == len(found.tokens) == len(found.flops) == 2
    assert found.settings["accumulation"] == 2
    assert found.settings["zero_stage"] == 1
    assert found.settings["checkpointing"]
    assert max(found.tokens) <= 2 * found.settings["token_budget"]
    assert found.tokens_per_second > 0
    assert 0 < found.flops_per_second < found.all_flops_per_second
    assert found.peak_bytes == 0
