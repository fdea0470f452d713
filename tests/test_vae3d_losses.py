"""Losses of the autoencoder and the equivariance transforms."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from vae3d.losses import (
    Equivariance,
    LossWeights,
    border_l1,
    gradient_l1,
    reconstruction_loss,
    temporal_blocking,
    wavelet_l1,
)
from vae3d.lpips import LPIPS


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def standard(b: int = 2) -> DiagonalGaussianDistribution:
    """Zero mean, unit variance."""
    return DiagonalGaussianDistribution(torch.zeros(b, 8, 2, 2, 2))


def test_a_perfect_reconstruction_costs_nothing() -> None:
    x = normal(2, 3, 5, 16, 16)
    total, terms = reconstruction_loss(x, x, standard(), 4, 8, LossWeights())
    assert total == 0
    assert all(term == 0 for term in terms.values())


def test_the_total_is_the_weighted_sum() -> None:
    x, y = normal(2, 3, 5, 16, 16), normal(2, 3, 5, 16, 16, seed=1)
    posterior = DiagonalGaussianDistribution(normal(2, 8, 2, 2, 2, seed=2))
    names = ["mse", "l1", "wavelet", "gradient", "border", "temporal_blocking", "kl"]
    weights = LossWeights(**{name: 0.5 * (number + 1) for number, name in enumerate(names)})
    total, terms = reconstruction_loss(x, y, posterior, 4, 8, weights)
    assert set(terms) == set(names)
    assert all(term > 0 for term in terms.values())
    torch.testing.assert_close(total, sum(getattr(weights, name) * terms[name] for name in names))
    torch.testing.assert_close(terms["l1"], (x - y).abs().mean())
    torch.testing.assert_close(terms["mse"], (x - y).square().mean())
    alone = LossWeights(**{name: 0.5 * (name == "gradient") for name in names})
    torch.testing.assert_close(reconstruction_loss(x, y, posterior, 4, 8, alone)[0], 0.5 * gradient_l1(x, y))


def test_a_term_of_weight_0_is_not_computed() -> None:
    x, y = normal(1, 3, 5, 16, 16), normal(1, 3, 5, 16, 16, seed=1)
    _, terms = reconstruction_loss(
        x, y, standard(1), 4, 8, LossWeights(gradient=0, wavelet=0, border=0, temporal_blocking=0)
    )
    assert set(terms) == {"mse", "l1", "kl"}


def test_the_perceptual_term_is_weighted_as_the_others() -> None:
    x, y = normal(1, 3, 2, 16, 16), normal(1, 3, 2, 16, 16, seed=1)
    perceptual = LPIPS()
    with torch.no_grad():
        perceptual.heads[0].fill_(1.0)
    weights = LossWeights(
        mse=0, l1=0, wavelet=0, gradient=0, border=0, temporal_blocking=0, kl=0, lpips=0.5, lpips_weights="there"
    )
    total, terms = reconstruction_loss(x, y, standard(1), 4, 8, weights, perceptual)
    assert terms["lpips"] > 0
    torch.testing.assert_close(total, 0.5 * terms["lpips"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kl": -1.0}, "losses.kl=-1.0 must be 0 or more"),
        ({"mse": float("nan")}, "losses.mse=nan must be 0 or more"),
        ({"equivariance": 1.5}, "losses.equivariance=1.5 must be in [0, 1]"),
        ({"lpips": 1.0}, "losses.lpips=1 needs losses.lpips_weights"),
    ],
)
def test_weights_out_of_range_are_named(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LossWeights(**option)


def test_losses_are_computed_in_fp32_and_reach_the_prediction() -> None:
    x = normal(1, 3, 5, 16, 16).bfloat16().requires_grad_()
    y = normal(1, 3, 5, 16, 16, seed=1).bfloat16()
    total, terms = reconstruction_loss(x, y, standard(1), 4, 8, LossWeights())
    assert total.dtype == torch.float32
    assert not any(term.requires_grad for term in terms.values())
    total.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_kl_is_that_of_the_whole_latent_over_the_elements_of_the_clip() -> None:
    x = torch.zeros(2, 3, 5, 16, 16)
    posterior = DiagonalGaussianDistribution(torch.full((2, 8, 2, 2, 2), 0.5))
    _, terms = reconstruction_loss(x, x, posterior, 4, 8, LossWeights())
    one = 0.5 * (0.5**2 + math.exp(0.5) - 1 - 0.5)
    values = 3 * 4 * 8 * 8  # that a latent pixel stands for
    torch.testing.assert_close(terms["kl"], torch.tensor(one * 4 / values))


@pytest.mark.parametrize("r", [1, 2, 3, 4, 8])
def test_wavelet_loss_takes_any_time_factor(r: int) -> None:
    x, y = normal(1, 3, 1 + r, 8, 8), normal(1, 3, 1 + r, 8, 8, seed=1)
    assert wavelet_l1(x, x, r) == 0
    assert wavelet_l1(x, y, r) > 0


def test_wavelet_loss_counts_frame_0_as_the_autoencoder_sees_it() -> None:
    """Frame 0 stands for r frames, so an error in it weighs r times that of another frame."""
    x = torch.zeros(1, 3, 5, 8, 8)
    first, other = x.clone(), x.clone()
    first[:, :, 0] = 1
    other[:, :, 1:] = 1
    torch.testing.assert_close(wavelet_l1(first, x, 4), wavelet_l1(other, x, 4))
    assert wavelet_l1(normal(1, 3, 1, 8, 8), x[:, :, :1], 4) > 0


def test_gradient_loss_ignores_a_constant_and_sees_a_temporal_blocking() -> None:
    x = normal(1, 3, 5, 16, 16)
    assert gradient_l1(x + 0.3, x) < 1e-5
    pulse = x.clone()
    pulse[:, :, 1] += 0.5  # the same everywhere in the frame: no gradient in space
    # |0.5| into the pulse and out of it, over four steps of time
    torch.testing.assert_close(gradient_l1(pulse, x), torch.tensor(0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 3, 1, 16, 16), (1, 3, 5, 8, 8), (1, 3, 1, 2, 2), (1, 3, 1, 1, 1)])
def test_gradient_loss_of_small_clips_is_finite(shape: tuple[int, ...]) -> None:
    assert gradient_l1(normal(*shape), torch.zeros(shape)).isfinite()


def test_coarse_scales_see_what_is_wide() -> None:
    """A step at the middle is seen at every scale, pixel noise mostly at the finest."""
    x = torch.zeros(1, 3, 1, 32, 32)
    step, noise = x.clone(), normal(1, 3, 1, 32, 32)
    step[..., 16:] = 1
    assert gradient_l1(step, x, 3) > 2.5 * gradient_l1(step, x, 1)
    assert gradient_l1(noise, x, 3) < 2.5 * gradient_l1(noise, x, 1)


def test_borders_count_and_nothing_inside_does() -> None:
    x = torch.zeros(1, 3, 9, 16, 24)
    for axis, inside, border in ((2, 2, 1), (2, 4, 5), (3, 4, 8), (4, 9, 16)):
        for place, expected in ((inside, False), (border, True)):  # all from here on is brighter
            y = x.clone()
            y.narrow(axis, place, y.shape[axis] - place).add_(0.5)
            assert (border_l1(y, x, 4, 8) > 0) == expected, (axis, place)
    step = x.clone()
    step[:, :, 5:] = 1
    torch.testing.assert_close(border_l1(step, x, 4, 8), torch.tensor(0.5))  # one of two borders in time


def test_a_picture_of_one_patch_has_no_borders() -> None:
    assert border_l1(normal(2, 3, 1, 8, 8), normal(2, 3, 1, 8, 8, seed=1), 4, 8) == 0


def test_a_pulse_costs_and_blur_does_not() -> None:
    x = normal(2, 3, 9, 8, 8)
    assert temporal_blocking(0.5 * x, x, 4) < 1e-3  # all steps half as large
    pulsing = x.clone()
    pulsing[:, :, 5:] += 5  # a step at the border of two groups
    assert temporal_blocking(pulsing, x, 4) > 0.05


@pytest.mark.parametrize(("size", "calm_grow"), [(0.2, True), (3.0, False)])
def test_a_pulse_is_never_mended_by_more_change_than_the_original_has(size: float, calm_grow: bool) -> None:
    x = normal(1, 3, 9, 8, 8)
    changes = size * normal(1, 3, 8, 8, 8, seed=1)
    changes[:, :, ::4] *= 3  # from group to group
    changes.requires_grad_()
    temporal_blocking(F.pad(changes.cumsum(dim=2), (0, 0, 0, 0, 1, 0)), x, 4).backward()
    assert changes.grad is not None
    downhill = -(changes.grad * changes).sum(dim=(0, 1, 3, 4))  # of a step: whether its change is to grow
    assert (downhill[::4] < 0).all()
    calm = torch.cat([downhill[1:4], downhill[5:]])
    assert (calm > 0).all() if calm_grow else (calm == 0).all()


@pytest.mark.parametrize("frames", [1, 4])
def test_less_than_a_group_has_no_temporal_blocking(frames: int) -> None:
    assert temporal_blocking(normal(1, 3, frames, 8, 8), normal(1, 3, frames, 8, 8, seed=1), 4) == 0


TRANSFORMS = [Equivariance(a, b, s) for a in (False, True) for b in (False, True) for s in (1.0, 0.75, 0.5)]


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (8, 8), (24, 40), (160, 288)])
@pytest.mark.parametrize("scale", [1.0, 0.75, 0.5])
def test_transformed_frames_and_latents_agree_in_size(size: tuple[int, int], scale: float) -> None:
    h, w = size
    transform = Equivariance(scale=scale)
    frames = transform.frames(torch.zeros(1, 3, 2, h, w), 8)
    latents = transform.latents(torch.zeros(1, 4, 2, h // 8, w // 8))
    assert frames.shape[3:] == (latents.shape[3] * 8, latents.shape[4] * 8)
    assert latents.shape[:3] == (1, 4, 2)
    assert abs(latents.shape[3] - h / 8 * scale) <= 0.5 or latents.shape[3] == 1


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_an_equivariant_encoder_has_equivariant_latents(transform: Equivariance) -> None:
    """The mean over each latent pixel commutes with flips exactly, with shrinking nearly (smooth frames)."""
    ramp = torch.linspace(-1, 1, 64)
    frames = (ramp[:, None] * 0.3 + ramp[None] * 0.7).expand(1, 3, 2, 64, 64)

    def encode(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, (1, 8, 8))

    error = (encode(transform.frames(frames, 8)) - transform.latents(encode(frames))).abs().max()
    assert error < (1e-6 if transform.scale == 1 else 0.06)


def test_flips_are_undone_by_themselves_and_the_identity_copies_nothing() -> None:
    x = normal(1, 4, 2, 6, 8)
    for transform in (Equivariance(True, False), Equivariance(False, True), Equivariance(True, True)):
        assert not torch.equal(transform.latents(x), x)
        assert torch.equal(transform.latents(transform.latents(x)), x)
    assert torch.equal(Equivariance(flip_height=True).latents(x), x.flip(3))
    assert Equivariance().latents(x) is x


def test_draws_are_a_function_of_the_generator_and_reach_every_transform() -> None:
    draws = [Equivariance.draw(torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert draws == [Equivariance.draw(torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert set(draws) == set(TRANSFORMS)
