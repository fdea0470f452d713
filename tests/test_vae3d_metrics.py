"""Metrics of reconstructions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vae3d.metrics import blocking_in_space, blocking_in_time, error_flicker, psnr, ssim


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def clips() -> Tensor:
    """Two clips of smooth noise ``(2, 3, 17, 32, 40)`` in [-1, 1]."""
    return torch.nn.functional.avg_pool3d(normal(2, 3, 19, 34, 42), 3, stride=1).clamp(-1, 1)


def moving_ramp(t: int = 17, h: int = 32, w: int = 40) -> Tensor:
    """Neighbours differ by the same everywhere, in time and in space."""
    time, y, x = torch.arange(t)[:, None, None], torch.arange(h)[:, None], torch.arange(w)
    return (-0.8 + 0.01 * (time + y + x)).expand(1, 3, t, h, w)


def test_a_perfect_reconstruction(clips: Tensor) -> None:
    torch.testing.assert_close(psnr(clips, clips), torch.tensor([100.0, 100.0]))
    torch.testing.assert_close(ssim(clips, clips), torch.ones(2))
    assert torch.equal(error_flicker(clips, clips), torch.zeros(2))


def test_noise_of_a_known_level_gives_a_known_psnr() -> None:
    target, noise = torch.zeros(2, 3, 9, 64, 64), normal(2, 3, 9, 64, 64)
    noise[1] *= 2
    expected = torch.tensor([10 * math.log10(4 / sigma**2) for sigma in (0.1, 0.2)])
    torch.testing.assert_close(psnr(target + 0.1 * noise, target), expected, atol=0.05, rtol=0)


def test_noise_lowers_ssim_frame_by_frame(clips: Tensor) -> None:
    noisy = (clips + 0.1 * normal(*clips.shape)).clamp(-1, 1)
    scores = [ssim(clips + (noisy - clips) * scale, clips) for scale in (0.25, 0.5, 1.0)]
    assert (scores[0] > scores[1]).all() and (scores[1] > scores[2]).all()
    half = clips.clone()
    half[:, :, :8] = noisy[:, :, :8]  # of 17 frames
    expected = (8 * ssim(noisy[:, :, :8], clips[:, :, :8]) + 9) / 17
    torch.testing.assert_close(ssim(half, clips), expected)


def test_ssim_judges_grey_as_it_judges_light(clips: Tensor) -> None:
    """Both in [0, 1], as in the paper: about 0 of [-1, 1] the luminance term would tell two dark greys far apart."""
    grey = torch.full_like(clips, 0.01)
    assert (ssim(-grey, grey) > 0.999).all()


def test_flicker_is_of_the_error_alone(clips: Tensor) -> None:
    assert error_flicker(clips + 0.1, clips).max() < 1e-6  # a constant error stands still
    pulse = clips.clone()
    pulse[1, :, ::2] += 0.2
    torch.testing.assert_close(error_flicker(pulse, clips), torch.tensor([0.0, 0.1]), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="1 frames cannot flicker"):
        error_flicker(clips[:, :, :1], clips[:, :, :1])


def test_a_moving_ramp_has_no_blocks() -> None:
    torch.testing.assert_close(blocking_in_time(moving_ramp(), 4), torch.ones(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(blocking_in_space(moving_ramp(), 8), torch.ones(1), atol=1e-4, rtol=0)


def test_blocks_in_time_are_seen_at_the_borders_of_latent_groups_only() -> None:
    """Frame 0 | 1 to 4 | 5 to 8 | ...: a step of 0.03 where the ramp has one of 0.01."""
    ramp, group = moving_ramp(), (torch.arange(17) + 3) // 4
    blocks = ramp + 0.02 * group[:, None, None]
    torch.testing.assert_close(blocking_in_time(blocks, 4), torch.tensor([3.0]), atol=1e-3, rtol=0)
    for late in (1, 2, 3):  # all steps inside groups: a third of those there are
        shifted = ramp + 0.02 * ((torch.arange(17) + 3 - late) // 4)[:, None, None]
        torch.testing.assert_close(blocking_in_time(shifted, 4), torch.tensor([0.6]), atol=1e-3, rtol=0)
    # of 4 such steps, 2 are at borders of groups of 8 and 2 among the 14 inside
    torch.testing.assert_close(blocking_in_time(blocks, 8), torch.tensor([3 * 14 / 18]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("axes", ["y", "x", "yx"])
def test_blocks_in_space_are_seen_at_the_borders_of_patches_only(axes: str) -> None:
    ramp, y, x = moving_ramp(), torch.arange(32)[:, None], torch.arange(40)

    def blocks(shift: int) -> Tensor:
        step_y, step_x = ((axis + shift) // 8 * (name in axes) for name, axis in (("y", y), ("x", x)))
        return ramp + 0.02 * (step_y + step_x)

    expected = 3.0 if axes == "yx" else 2.0
    torch.testing.assert_close(blocking_in_space(blocks(0), 8), torch.tensor([expected]), atol=1e-3, rtol=0)
    assert all(blocking_in_space(blocks(shift), 8) < 1 for shift in range(1, 8))


FLIPS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.flip(3),
    lambda x: x.flip(4),
    lambda x: x.transpose(3, 4),
    lambda x: x.flip(1),
    lambda x: -x,
]


@pytest.mark.parametrize("flip", FLIPS, ids=["height", "width", "transposed", "colours", "negative"])
def test_blocking_does_not_depend_on_which_way_up(flip: Callable[[Tensor], Tensor], clips: Tensor) -> None:
    torch.testing.assert_close(blocking_in_space(flip(clips), 8), blocking_in_space(clips, 8))
    torch.testing.assert_close(blocking_in_time(flip(clips), 4), blocking_in_time(clips, 4))


def test_a_still_flat_clip_has_no_blocks_until_they_can_be_seen() -> None:
    still = torch.zeros(1, 3, 9, 16, 16)
    assert blocking_in_time(still, 4) == 1 and blocking_in_space(still, 8) == 1
    pulse = (torch.arange(9) + 3) // 4
    assert blocking_in_time(still + 0.0005 * pulse[:, None, None], 4) == 1  # a sixteenth of a grey level
    assert blocking_in_time(still + 0.01 * pulse[:, None, None], 4) == pytest.approx(10)
    checks = (torch.arange(16) // 8) * 0.01
    assert blocking_in_space(still + checks, 8) == pytest.approx(5)


def test_each_clip_has_its_own_figure(clips: Tensor) -> None:
    other = (clips + 0.1 * normal(*clips.shape, seed=1)).clamp(-1, 1)
    for metric in (
        lambda x, y: psnr(x, y),
        lambda x, y: ssim(x, y),
        lambda x, y: error_flicker(x, y),
        lambda x, _: blocking_in_time(x, 4),
        lambda x, _: blocking_in_space(x, 8),
    ):
        both = metric(other, clips)
        assert both.shape == (2,) and both.dtype == torch.float32
        alone = torch.cat([metric(other[i : i + 1], clips[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(both, alone)
        assert metric(other.bfloat16(), clips.bfloat16()).dtype == torch.float32


def test_what_has_no_borders_is_refused(clips: Tensor) -> None:
    for frames, r in ((clips[:, :, :2], 4), (clips, 1)):
        with pytest.raises(ValueError, match="have no borders and insides"):
            blocking_in_time(frames, r)
    for size in (1, 32):
        with pytest.raises(ValueError, match="no borders and insides of patches"):
            blocking_in_space(clips, size)
