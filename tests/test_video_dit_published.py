"""Folders of diffusers' pipelines are loaded as ours, or what is wrong with them is said in a line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, WanPipeline
from safetensors.torch import load_file, save_file
from tiny_wan import transformer, wan

from video_dit.published import load_wan


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def lose(file: Path) -> None:
    """The first of its weights."""
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file, metadata={"format": "pt"})


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_weights_are_of_16_bits_but_for_those_that_need_more(tmp_path: Path) -> None:
    """As diffusers loads them; and the autoencoder."""
    wan(two=True).save_pretrained(tmp_path)
    pipe, theirs = load_wan(tmp_path, torch.bfloat16), WanPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for ours, other in ((pipe.transformer.high, theirs.transformer), (pipe.transformer.low, theirs.transformer_2)):
        expected = {name: weight.dtype for name, weight in other.named_parameters()}
        assert {name: weight.dtype for name, weight in ours.named_parameters()} == expected
        assert set(expected.values()) == {torch.bfloat16, torch.float32}
    assert pipe.dtype == pipe.transformer.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32
    assert not any(part.training for part in (pipe.transformer, pipe.text_encoder, pipe.vae))
    output: Any = pipe("x", 5, 32, 32, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert output.frames.shape == (1, 5, 32, 32, 3)


@pytest.mark.parametrize(
    ("kind", "size", "window", "frame_rate", "grid"),
    [
        ({}, (480, 832), 21, 16.0, 16),
        ({"two": True}, (480, 832), 21, 16.0, 16),
        ({"told": True}, (704, 1280), 31, 24.0, 32),
    ],
    ids=["2.1", "2.2 of 14B", "2.2 of 5B"],
)
def test_defaults_are_what_it_was_trained_on(
    kind: dict[str, bool], size: tuple[int, int], window: int, frame_rate: float, grid: int, tmp_path: Path
) -> None:
    wan(**kind).save_pretrained(tmp_path)
    pipe = load_wan(tmp_path, torch.float32)
    assert pipe.sizes == [size, size[::-1]]
    assert (pipe.window, pipe.frame_rate, pipe.grid) == (window, frame_rate, grid)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: cut(folder / "vae" / "diffusion_pytorch_model.safetensors"),
            "vae holds no whole autoencoder: ",
        ),
        (lambda folder: (folder / "vae" / "config.json").write_text("{"), "vae holds no whole autoencoder: "),
        (lambda folder: cut(folder / "transformer" / "diffusion_pytorch_model.safetensors"), "no whole transformer: "),
        (lambda folder: lose(folder / "transformer" / "diffusion_pytorch_model.safetensors"), "lack blocks.0.attn1"),
        (
            lambda folder: lose(folder / "transformer_2" / "diffusion_pytorch_model.safetensors"),
            "no whole transformer_2",
        ),
        (lambda folder: change(folder / "transformer" / "config.json", ffn_dim=48), "no whole transformer: "),
        (lambda folder: (folder / "transformer" / "config.json").write_text("{"), "is no whole WanPipeline: "),
        (lambda folder: cut(folder / "text_encoder" / "model.safetensors"), "no whole text_encoder: "),
        (lambda folder: lose(folder / "text_encoder" / "model.safetensors"), "no whole text_encoder: its weights lack"),
        (lambda folder: change(folder / "text_encoder" / "config.json", d_ff=48), "no whole text_encoder: "),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"), "is no whole WanPipeline: "),
        (lambda folder: transformer(1, 36).save_pretrained(folder / "transformer"), "in_channels=36, out_channels=4"),
        (
            lambda folder: change(folder / "transformer" / "config.json", image_dim=8),
            "image_dim=8: give a text-to-video",
        ),
        (lambda folder: DDIMScheduler().save_pretrained(folder / "scheduler"), "noise.path=vp, and the model"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_named(
    tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    pipe = wan(two=True)
    pipe.save_pretrained(tmp_path)
    spoil(tmp_path)
    if "noise.path" in message:
        change(tmp_path / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_wan(tmp_path, torch.float32)
    assert "\n" not in str(error.value)


def test_without_accelerate_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.utils.import_utils._accelerate_available", False)
    with pytest.raises(ValueError, match="needs the package accelerate: pip install accelerate"):
        load_wan(tmp_path, torch.float32)
