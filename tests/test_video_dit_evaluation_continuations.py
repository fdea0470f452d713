"""Baselines: what each does with what is given, over the same model and noise as ours."""

import pytest
import torch
from torch import Tensor

from video_dit import VideoPipeline
from video_dit.evaluation.continuations import (
    METHODS,
    Setting,
    guided_prompts,
    next_window,
    reencode,
    replaced_window,
    replacement,
)
from video_dit.evaluation.cuts import DIRECTIONS, Given, cut_clip, given_of
from video_dit.sampling import SamplingConfig, Window, sample_window
from video_dit.tokens import latent_times

SETTING = Setting(SamplingConfig(2, 2.0, 0.03), context=2, seed=5)


def noise_clip(num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_frames, 32, 32, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("windows", [1, 3])
def test_what_is_given_is_kept_and_noise_is_of_the_seed(
    method: str, direction: str, windows: int, tiny_pipe: VideoPipeline
) -> None:
    cut = cut_clip(direction, 5 * windows, 2, 4)
    frames = noise_clip(cut.num_frames)
    given = given_of(frames, cut)
    first = METHODS[method](tiny_pipe, given, cut, "a ball", SETTING)
    assert first.shape == frames.shape and first.dtype == torch.uint8
    for run in cut.given:
        assert torch.equal(first[run], frames[run])
    again = METHODS[method](tiny_pipe, given, cut, "a ball", SETTING)
    other = METHODS[method](tiny_pipe, given, cut, "a ball", Setting(SETTING.sampling, 2, seed=6))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("method", METHODS)
def test_all_are_guided_alike_by_default(method: str, tiny_pipe: VideoPipeline) -> None:
    """As what is known is gone on with, though one of them does not tell the model."""
    cut = cut_clip("forward", 5, 2, 4)
    given = given_of(noise_clip(cut.num_frames), cut)
    by_default, told, other = (
        METHODS[method](tiny_pipe, given, cut, "a ball", Setting(SamplingConfig(2, scale), 2, seed=5))
        for scale in (None, 1.5, 4.0)
    )
    assert torch.equal(by_default, told) and not torch.equal(told, other)


@pytest.mark.parametrize("method", ["replacement", "reencode"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_window_is_larger_than_the_model_was_trained_on(
    method: str, direction: str, tiny_pipe: VideoPipeline
) -> None:
    seen: list[int] = []
    tiny_pipe.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]) // (2 * 4)))
    for windows in (1, 3):
        cut = cut_clip(direction, 5 * windows, 2, 4)
        METHODS[method](tiny_pipe, given_of(noise_clip(cut.num_frames), cut), cut, "a ball", SETTING)
    assert max(seen) <= 5


@pytest.mark.parametrize("method", ["replacement", "reencode"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_made_depends_on_what_is_given_at_each_join(
    method: str, direction: str, tiny_pipe: VideoPipeline
) -> None:
    cut = cut_clip(direction, 5, 2, 4)
    given = given_of(noise_clip(cut.num_frames), cut)
    made = METHODS[method](tiny_pipe, given, cut, "a ball", SETTING)[cut.made]
    for side in ("before", "after"):
        frames = getattr(given, side)
        if frames is not None:
            parts = {"before": given.before, "after": given.after} | {side: 255 - frames}
            changed = METHODS[method](tiny_pipe, Given(**parts), cut, "a ball", SETTING)
            assert not torch.equal(changed[cut.made], made)


def test_without_given_frames_replacement_is_the_sampler(tiny_pipe: VideoPipeline) -> None:
    nothing = torch.zeros(5, dtype=torch.bool)
    one_frame = torch.tensor([True, False, False, False, False])
    window = Window(torch.zeros(1, 4, 5, 4, 4), nothing, latent_times(5, 8.0, 4, True), one_frame)
    prompts = guided_prompts(tiny_pipe, "a ball", 2.0)
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1, 0)]
    replaced = replaced_window(tiny_pipe, window, prompts, SETTING.sampling, *seeds[:2])
    usual = sample_window(tiny_pipe.transformer, tiny_pipe.scheduler, window, prompts, SETTING.sampling, seeds[2])
    assert torch.allclose(replaced, usual, atol=1e-5)


def test_replacement_shows_the_model_one_level_and_given_latents_of_that_level(tiny_pipe: VideoPipeline) -> None:
    known = torch.tensor([True, True, False, False, False])
    latents = torch.randn(1, 4, 5, 4, 4, generator=torch.Generator().manual_seed(3))
    window = Window(latents, known, latent_times(5, 8.0, 4, False), torch.zeros(5, dtype=torch.bool))
    shown: list[tuple[Tensor, Tensor]] = []
    tiny_pipe.transformer.register_forward_pre_hook(
        lambda _, inputs, named: shown.append((inputs[0].clone(), named["level_index"])), with_kwargs=True
    )
    config = SamplingConfig(4, 1.0, 0.03)
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    found = replaced_window(tiny_pipe, window, guided_prompts(tiny_pipe, "", 1.0), config, *seeds)
    assert torch.equal(found[:, :, known], latents[:, :, known])
    clean = latents[0, :, 0].permute(1, 2, 0).flatten()  # nearest to it at the last step
    away = []
    for tokens, level_index in shown:
        assert len(set(level_index.tolist())) == 1
        given = tokens[:4].reshape(2, 2, 4, 2, 2).permute(0, 3, 1, 4, 2).flatten()  # y py x px c
        away.append(float((given - clean).square().mean()))
    assert away == sorted(away, reverse=True) and away[0] > 4 * away[-1]


def test_windows_are_encoded_again_only_by_that_baseline(
    tiny_pipe: VideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    encode = tiny_pipe.codec.encode

    def counted(frames: Tensor) -> Tensor:
        lengths.append(frames.shape[2])
        return encode(frames)

    monkeypatch.setattr(tiny_pipe.codec, "encode", counted)
    cut = cut_clip("forward", 15, 2, 4)
    given = given_of(noise_clip(cut.num_frames), cut)
    replacement(tiny_pipe, given, cut, "a ball", SETTING)
    assert lengths == [5]
    lengths.clear()
    reencode(tiny_pipe, given, cut, "a ball", SETTING)
    assert lengths == [5] * 5  # 13 latent frames, 3 a window


@pytest.mark.parametrize(
    ("left", "so_far", "late", "expected"),
    [
        (5, 4, 0, (4, 5, True)),
        (6, 4, 0, (4, 5, False)),
        (5, 2, 2, (2, 5, True)),
        (6, 2, 2, (2, 5, False)),
        (6, 9, 2, (4, 5, False)),
        (1, 9, 2, (2, 1, True)),
    ],
)
def test_the_next_window(left: int, so_far: int, late: int, expected: tuple[int, int, bool]) -> None:
    """Of 9 latent frames, with a context of 4."""
    assert next_window(left, 9, 4, so_far, late) == expected
