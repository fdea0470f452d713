"""The module that is trained: the loss it takes of a pack, and what train.init_from must agree with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vae3d import LatentCodec
from video_dit import VideoPipeline
from video_dit.batch import Pack
from video_dit.config import RunConfig, load_config
from video_dit.denoiser import Denoiser, load_denoiser
from video_dit.noise import NoiseConfig
from video_dit.schedulers import model_scheduler
from video_dit.tokens import Segments, grid_coords

Load = Callable[..., Denoiser]


def pack(n: int = 8) -> Pack:
    """One sample of random tokens."""
    g = torch.Generator().manual_seed(0)
    return Pack(
        hidden_states=torch.randn(n, 16, generator=g),
        target=torch.randn(n, 16, generator=g),
        levels=torch.full((32,), 0.5),
        level_index=torch.zeros(n, dtype=torch.long),
        coords=grid_coords(torch.zeros(1), 4, n, 2),
        one_frame=torch.ones(n, dtype=torch.bool),
        made=torch.arange(n) >= 3,
        weight=torch.ones(n),
        segments=Segments.from_lengths([n]),
        prompts=("a ball",),
        prompt_embeds=(None,),
        clips=(0,),
    )


def test_each_token_bears_loss_by_its_weight(tiny_pipe: VideoPipeline) -> None:
    denoiser, one = Denoiser(tiny_pipe.transformer, tiny_pipe.tokenizer, tiny_pipe.text_encoder), pack()
    with torch.no_grad():
        alone = [denoiser(replace(one, made=torch.arange(8) == token)) for token in range(8)]
        assert torch.allclose(denoiser(one), sum(alone[3:], torch.zeros(())), rtol=1e-5)
        weight = torch.rand(8, generator=torch.Generator().manual_seed(1))
        expected = sum((w * loss for w, loss in zip(weight[3:], alone[3:], strict=True)), torch.zeros(()))
        assert torch.allclose(denoiser(replace(one, weight=weight)), expected, rtol=1e-5)


@pytest.fixture
def load(tiny_pipe: VideoPipeline, tmp_path: Path) -> Load:
    """Read a model that was trained with these settings into a run with those."""

    def call(trained: NoiseConfig, *settings: str) -> Denoiser:
        parts = tiny_pipe.components | {"scheduler": model_scheduler(trained)}
        VideoPipeline(**parts).save_pretrained(tmp_path)
        sizes = ["model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.base_tokens=4"]
        text = ["text.max_length=32", "text.width=16", "text.num_layers=1", "text.num_heads=2", "text.hidden=32"]
        run = load_config(RunConfig, "sora_tiny.yaml", [*sizes, *text, f"train.init_from={tmp_path}", *settings])
        return load_denoiser(run, LatentCodec(tiny_pipe.vae), {})

    return call


DDPM = NoiseConfig(path="vp", prediction="epsilon")
VP = ["noise.path=vp", "noise.prediction=epsilon"]


def test_a_model_of_the_same_path_is_gone_on_with(load: Load, tiny_pipe: VideoPipeline) -> None:
    for trained, settings in ((NoiseConfig(), []), (DDPM, [*VP, "noise.weighting=min_snr"])):
        loaded = load(trained, *settings).transformer.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in tiny_pipe.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("trained", "settings", "reason"),
    [
        (DDPM, [], "noise.path=straight is not that of train.init_from=.*: use noise.path=vp"),
        (NoiseConfig(), VP, "noise.path=vp is not that of train.init_from=.*: use noise.path=straight"),
        (DDPM, [*VP, "noise.schedule=cosine"], "noise.schedule=cosine is not .*: use noise.schedule=linear"),
        (DDPM, ["noise.path=vp", "noise.prediction=sample"], "noise.prediction=sample is not .*: use .*=epsilon"),
    ],
)
def test_a_model_of_another_path_is_refused(load: Load, trained: NoiseConfig, settings: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(trained, *settings)
