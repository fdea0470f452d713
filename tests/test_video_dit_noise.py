"""The straight path, and how levels are drawn."""

import pytest
import torch

from video_dit.noise import (
    NoiseConfig,
    add_noise,
    draw_levels,
    level_shift,
    shift_level,
    velocity,
)


def test_ends_of_the_path() -> None:
    latents, noise = torch.randn(2, 5, 7)
    assert torch.equal(add_noise(latents, noise, torch.tensor(0.0)), latents)
    assert torch.equal(add_noise(latents, noise, torch.tensor(1.0)), noise)


def test_clean_latents_and_noise_follow_from_the_velocity() -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 5, 7)
    level = torch.rand(5, 1)
    noisy, v = add_noise(latents, noise, level), velocity(latents, noise)
    assert torch.allclose(noisy - level * v, latents, atol=1e-6)
    assert torch.allclose(noisy + (1 - level) * v, noise, atol=1e-6)


def test_velocity_is_the_derivative_by_the_level() -> None:
    latents, noise = torch.randn(2, 7, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(
        lambda level: add_noise(latents, noise, level), torch.tensor(0.3).double()
    )
    assert torch.allclose(slope, velocity(latents, noise))


@pytest.mark.parametrize("shift", [1.0, 2.5, 6.0])
def test_shift_keeps_both_ends_and_the_order(shift: float) -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    moved = shift_level(u, shift)
    assert moved[0] == 0
    assert moved[-1] == 1
    assert (moved.diff() > 0).all()
    assert (moved >= u - 1e-12).all()
    if shift == 1:
        assert torch.allclose(moved, u)


def test_more_tokens_shift_more_within_bounds() -> None:
    shifts = [level_shift(n, 36) for n in (1, 36, 72, 144, 1296, 100_000)]
    assert shifts == sorted(shifts)
    assert shifts[:2] == [1, 1]
    assert shifts[3] == pytest.approx(2)
    assert shifts[-2:] == [6, 6]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_drawn_levels(shift: float) -> None:
    """All in [0, 1]; shares near the ends and below the middle as the two distributions say."""
    config = NoiseConfig(uniform_share=0.2)
    levels = draw_levels(40_000, config, shift, torch.Generator().manual_seed(0))
    assert levels.dtype == torch.float32
    assert levels.min() >= 0
    assert levels.max() <= 1
    normal = torch.distributions.Normal(0.0, 1.0)

    def below(u: float) -> float:
        return float(0.8 * normal.cdf(torch.tensor(u).logit()) + 0.2 * u)

    for u in (0.02, 0.1, 0.5, 0.9, 0.98):
        measured = float((levels < shift_level(torch.tensor(u), shift)).float().mean())
        assert measured == pytest.approx(below(u), abs=0.01)
    near_zero = float((levels < shift_level(torch.tensor(0.01), shift)).float().mean())
    near_one = float((levels > shift_level(torch.tensor(0.99), shift)).float().mean())
    assert 0.0015 < near_zero < 0.003  # the uniform share alone reaches the ends
    assert 0.0015 < near_one < 0.003


def test_the_generator_decides_alone() -> None:
    draws = [draw_levels(50, NoiseConfig(), 2.0, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    torch.manual_seed(0)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"logit_std": 0.0}, "noise.logit_std=0.0 must be above 0"),
        ({"logit_std": float("nan")}, "noise.logit_std=nan must be above 0"),
        ({"uniform_share": 1.5}, r"noise.uniform_share=1.5 must be in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_named(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseConfig(**option)
