"""Measures of continued clips: what each is blind to and what it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from video_dit.evaluation.cuts import DIRECTIONS, Cut, boundary_repeated, cut_clip, given_of
from video_dit.evaluation.measures import (
    Figures,
    colour_difference,
    colour_drift,
    expected_of_given,
    expected_of_truth,
    measure,
    repetition,
    seam,
)

both = pytest.mark.parametrize("direction", ["forward", "backward"])
each = pytest.mark.parametrize("direction", DIRECTIONS)
RATE = 8.0
BEST = Figures(100.0, 1.0, 1.0, 1.0, 0.0, 0.0, None, None, None, None, 0.0)


def moving(num_frames: int = 17) -> Tensor:
    """A picture that moves a pixel a frame, so that all steps are much alike; no value is near black or white."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(60, 190, (16, num_frames + 47, 3), generator=generator, dtype=torch.uint8)
    return torch.stack([picture[:, t : t + 24] for t in range(num_frames)])


def figures(clip: Tensor, truth: Tensor, decoded: Tensor, cut: Cut) -> Figures:
    """As of a clip whose truth is known."""
    return measure(clip, truth, expected_of_truth(truth, decoded, cut, RATE), cut, RATE)


def with_new(truth: Tensor, new: Tensor, cut: Cut) -> Tensor:
    """The true clip with other frames where some are made."""
    clip = truth.clone()
    clip[cut.made] = new
    return clip


@pytest.mark.parametrize("direction", ["forward", "backward", "connect"])
def test_the_truth_itself_has_the_best_figures(direction: str) -> None:
    truth = moving()
    assert figures(truth, truth, truth, cut_clip(direction, 5, 2, 4)) == BEST


@each
@pytest.mark.parametrize("value", [0, 128])
def test_black_and_still_clips_have_figures(direction: str, value: int) -> None:
    cut = cut_clip(direction, 5, 2, 4)
    still = torch.full((cut.num_frames, 16, 24, 3), value, dtype=torch.uint8)
    assert figures(still, still, still, cut) == BEST
    expected = expected_of_given(still[: cut.num_given], still[: cut.num_given], RATE)
    assert measure(still, None, expected, cut, RATE) == replace(BEST, psnr=None, colour_shift=None)


@both
def test_a_frozen_continuation_does_not_move(direction: str) -> None:
    truth, cut = moving(), cut_clip(direction, 5, 2, 4)
    frozen = boundary_repeated(given_of(truth, cut), cut)
    found = figures(frozen, truth, truth, cut)
    assert found.psnr is not None
    assert found.motion < 0.05 and found.psnr < 20
    assert found.seam < 1  # which is no praise: read it beside the motion
    assert found.repetition <= 0


@both
def test_half_the_motion_is_half_the_figure(direction: str) -> None:
    truth, cut = moving(), cut_clip(direction, 5, 2, 4)
    flat = 125 + (truth.int() - 125) // 2
    found = figures(with_new(truth, flat[cut.made].to(torch.uint8), cut), truth, truth, cut)
    assert found.motion == pytest.approx(0.5, abs=0.01)


@both
def test_another_colour_is_a_shift_and_a_seam_but_no_motion(direction: str) -> None:
    truth, cut = moving(), cut_clip(direction, 5, 2, 4)
    other = (truth.int() + torch.tensor([40, -40, 10])).to(torch.uint8)
    found = figures(with_new(truth, other[cut.made], cut), truth, truth, cut)
    assert found.colour_shift == pytest.approx(30 / 255, abs=1e-4)  # those of the channels do not cancel out
    assert found.psnr == pytest.approx(10 * np.log10(255**2 / ((1600 + 1600 + 100) / 3)), abs=0.01)
    assert found.motion == pytest.approx(1)
    assert 1.05 < found.seam < 2


@both
def test_a_cut_at_the_join_is_a_seam_and_one_elsewhere_is_none(direction: str) -> None:
    still, cut = moving(1).expand(17, -1, -1, -1), cut_clip(direction, 5, 2, 4)
    join = cut.joins[0][1]
    calm = still + torch.arange(17, dtype=torch.uint8)[:, None, None, None]  # a grey level a frame
    assert seam(calm, cut) == pytest.approx(1, rel=1e-4)
    for place, height in ((join, 20), (join + 2, 1), (join - 2, 1)):
        broken = calm.clone()
        broken[place:] += 19
        assert seam(broken, cut) == pytest.approx(height, rel=1e-4)
        assert figures(broken, calm, calm, cut).seam == pytest.approx(height, rel=1e-4)
    assert figures(broken, calm, broken, cut).seam == pytest.approx(1, rel=1e-4)  # as much as the codec itself gives


def test_a_seam_at_either_join_counts() -> None:
    cut = cut_clip("loop", 5, 2, 4)
    calm = (
        moving(1).expand(cut.num_frames, -1, -1, -1)
        + torch.arange(cut.num_frames, dtype=torch.uint8)[:, None, None, None]
    )
    around = cut.num_frames - 1  # grey levels from the last frame back to the first
    assert seam(calm, cut) == pytest.approx((1 + around) / 2, rel=1e-4)


def test_what_the_codec_loses_at_the_join_is_its_own_seam() -> None:
    """Given frames keep their detail: the truth through the codec has a seam to them, but none beside itself."""
    cut = cut_clip("forward", 5, 2, 4)
    truth = moving()
    decoded = (125 + (truth.int() - 125) // 2).to(torch.uint8)
    found = figures(with_new(truth, decoded[cut.made], cut), truth, decoded, cut)
    assert found.seam_to_codec == pytest.approx(1)
    assert found.seam < 0.9  # here what is lost is most of the motion


@both
def test_flicker_does_not_hide_a_seam(direction: str) -> None:
    """New frames that change a lot do not make little of the step to them."""
    cut = cut_clip(direction, 5, 2, 4)
    truth = moving(1).expand(17, -1, -1, -1) + torch.arange(17, dtype=torch.uint8)[:, None, None, None]
    noise = 5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noisy = (truth + noise).round().clamp(0, 255).to(torch.uint8)
    found = figures(with_new(truth, noisy[cut.made], cut), truth, truth, cut)
    assert found.seam > 3
    assert found.motion > 3  # and counts as motion


def test_shifts_of_single_frames_cancel_out() -> None:
    truth = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    flicker = truth + torch.tensor([5, 251], dtype=torch.uint8)[:, None, None, None]  # 251 is -5
    assert colour_difference(flicker, truth) == 0
    assert colour_difference(flicker[:1], truth[:1]) == pytest.approx(5 / 255, abs=1e-6)


@pytest.mark.parametrize(("direction", "shape"), [("forward", 1), ("backward", -1), ("connect", 0), ("loop", 0)])
def test_colour_that_goes_astray_evenly_drifts_by_that_much(direction: str, shape: int) -> None:
    """A grey level a frame, away from what is given: 80 in 10 s at 8 a second, less half a second's, for which the last
    second stands."""
    cut = cut_clip(direction, 21, 2, 4)
    number = torch.arange(cut.num_made)
    away = {1: number + 1, -1: number.flip(0) + 1, 0: torch.minimum(number, number.flip(0)) + 1}[shape]
    truth = torch.full((cut.num_frames, 8, 8, 3), 50, dtype=torch.uint8)
    clip = with_new(truth, (50 + away).to(torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3), cut)
    for wanted in (truth, None):
        assert colour_drift(clip, wanted, cut, RATE) == pytest.approx(100 * 80 / 255, rel=0.12)
        assert colour_drift(truth, wanted, cut, RATE) == 0
    brighter = (truth + 3 * (clip > 50)).to(torch.uint8)
    assert colour_drift(clip, clip, cut, RATE) == 0 < colour_drift(brighter, truth, cut, RATE)


def test_what_is_done_again_is_repeated_whether_it_was_given_or_made() -> None:
    noise = torch.randint(256, (64, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = slice(24, 64)
    assert repetition(noise, made, RATE) < 0.2
    of_given, of_made, given_alone = noise.clone(), noise.clone(), noise.clone()
    of_given[30:48] = noise[2:20]
    of_made[46:64] = noise[26:44]
    given_alone[12:24] = noise[0:12]
    loop = noise[:13].repeat(5, 1, 1, 1)[:64]
    assert 0.3 < repetition(of_given, made, RATE) < 1 and 0.3 < repetition(of_made, made, RATE) < 1
    assert repetition(given_alone, made, RATE) < 0.3
    assert repetition(loop, made, RATE) == pytest.approx(1)
    assert repetition(noise[:4], slice(2, 4), RATE) == 0  # too short to tell


def test_figures_without_the_truth_are_beside_what_is_given() -> None:
    cut, clip = cut_clip("forward", 9, 4, 4), moving(33)
    given = clip[: cut.num_given]
    found = measure(clip, None, expected_of_given(given, given, RATE), cut, RATE)
    assert (found.psnr, found.colour_shift) == (None, None)
    assert found.seam == pytest.approx(1, abs=0.1) and found.motion == pytest.approx(1, abs=0.1)
