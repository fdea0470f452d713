"""The straight path and that of DDPM, what is predicted on them, and how levels are drawn."""

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from video_dit.noise import (
    BETAS,
    NUM_TRAIN_TIMESTEPS,
    PREDICTIONS,
    NoiseConfig,
    add_noise,
    alpha,
    alphas_cumprod,
    draw_levels,
    flow_step,
    level_shift,
    loss_weight,
    path_alphas_cumprod,
    prediction_target,
    sampling_levels,
    shift_level,
    sigma,
    slerp,
    to_epsilon,
    to_sample,
)

ALL = [
    *(NoiseConfig(path="vp", schedule=s, prediction=p) for s in BETAS for p in PREDICTIONS["vp"]),
    NoiseConfig(),
]


def name(config: NoiseConfig) -> str:
    return f"{config.schedule} {config.prediction}" if config.path == "vp" else config.path


def diffusers_scheduler(schedule: str) -> DDPMScheduler:
    if schedule == "cosine":
        return DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    low, high = {"linear": (0.0001, 0.02), "scaled_linear": (0.00085, 0.012)}[schedule]
    return DDPMScheduler(beta_schedule=schedule, beta_start=low, beta_end=high)


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    return prediction_target("velocity", latents, noise, torch.tensor(0.5))


def test_ends_of_the_path() -> None:
    latents, noise = torch.randn(2, 5, 7)
    assert torch.equal(add_noise(latents, noise, torch.tensor(0.0)), latents)
    assert torch.equal(add_noise(latents, noise, torch.tensor(1.0)), noise)


@pytest.mark.parametrize("schedule", BETAS)
def test_the_schedules_are_those_of_diffusers(schedule: str) -> None:
    """At all timesteps, by level (t + 1) / T."""
    theirs = diffusers_scheduler(schedule)
    ours = alphas_cumprod(schedule)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs.alphas_cumprod, rtol=1e-6, atol=0)
    torch.manual_seed(0)
    latents, noise = torch.randn(2, NUM_TRAIN_TIMESTEPS, 7)
    timesteps = torch.arange(NUM_TRAIN_TIMESTEPS)
    level = ((timesteps + 1) / NUM_TRAIN_TIMESTEPS)[:, None]
    noisy = add_noise(latents, noise, level, ours)
    v = prediction_target("v_prediction", latents, noise, level, ours)
    assert torch.allclose(noisy, theirs.add_noise(latents, noise, timesteps), atol=1e-6)
    assert torch.allclose(v, theirs.get_velocity(latents, noise, timesteps), atol=1e-6)


@pytest.mark.parametrize("schedule", BETAS)
def test_between_timesteps_the_noise_grows_and_the_variance_stays(schedule: str) -> None:
    table = alphas_cumprod(schedule)
    level = torch.linspace(0, 1, 5 * NUM_TRAIN_TIMESTEPS + 1)
    a, s = alpha(level, table), sigma(level, table)
    assert torch.allclose(a**2 + s**2, torch.ones(()), atol=1e-6)
    assert (a[0], s[0]) == (1, 0)
    assert (a.diff() < 0).all()
    assert (s.diff() >= 0).all()
    assert (s[: 4 * NUM_TRAIN_TIMESTEPS].diff() > 0).all()
    assert a[-1] < 0.07
    latents, noise = torch.randn(2, 5, 7)
    assert torch.equal(add_noise(latents, noise, torch.tensor(0.0), table), latents)


@pytest.mark.parametrize("config", ALL, ids=name)
def test_latents_and_noise_follow_from_what_is_predicted(config: NoiseConfig) -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 50, 7)
    level = torch.linspace(0.01, 0.99, 50)[:, None]
    table = path_alphas_cumprod(config)
    assert (table is None) == (config.path == "straight")
    noisy = add_noise(latents, noise, level, table)
    output = prediction_target(config.prediction, latents, noise, level, table)
    assert torch.allclose(to_sample(config.prediction, output, noisy, level, table), latents, atol=1e-4)
    assert torch.allclose(to_epsilon(config.prediction, output, noisy, level, table), noise, atol=1e-4)


def test_what_is_predicted_is_what_its_name_says() -> None:
    latents, noise = torch.randn(2, 5, 7)
    level, table = torch.tensor(0.4), alphas_cumprod("linear")
    assert torch.equal(prediction_target("epsilon", latents, noise, level, table), noise)
    assert torch.equal(prediction_target("sample", latents, noise, level, table), latents)


@pytest.mark.parametrize("schedule", BETAS)
def test_min_snr_weighs_equivalent_predictions_alike(schedule: str) -> None:
    """An error in the latents costs the same whichever way it is predicted, and no more than 5."""
    torch.manual_seed(0)
    table = alphas_cumprod(schedule).double()
    latents, guess, noise = torch.randn(3, 99, 7, dtype=torch.float64)
    level = (torch.arange(1, 100) / 100)[:, None].double()
    costs = []
    for prediction in PREDICTIONS["vp"]:
        config = NoiseConfig(path="vp", schedule=schedule, prediction=prediction, weighting="min_snr")
        noisy = add_noise(latents, noise, level, table)
        epsilon = to_epsilon("sample", guess, noisy, level, table)
        output = prediction_target(prediction, guess, epsilon, level, table)
        target = prediction_target(prediction, latents, noise, level, table)
        costs.append(loss_weight(config, level, table) * (output - target).square())
    assert torch.allclose(costs[0], costs[2])
    assert torch.allclose(costs[1], costs[2])
    snr = (alpha(level, table) / sigma(level, table)) ** 2
    assert torch.allclose(costs[2], snr.clamp_max(5) * (guess - latents) ** 2)


def test_weights_are_finite_at_the_ends_and_simple_ones_are_one() -> None:
    level = torch.tensor([0.0, 1e-3, 0.5, 1.0])
    for schedule in BETAS:
        for prediction, clean in (("epsilon", 0), ("v_prediction", 0), ("sample", 5)):
            config = NoiseConfig(path="vp", schedule=schedule, prediction=prediction, weighting="min_snr")
            weight = loss_weight(config, level, path_alphas_cumprod(config))
            assert weight.isfinite().all()
            assert weight[0] == clean
            assert weight.max() <= 5
    assert torch.equal(loss_weight(NoiseConfig(), level), torch.ones(4))


def test_levels_of_the_vp_path_are_those_of_timesteps() -> None:
    """Uniform ones are DDPM's: each timestep as often, whatever the shift."""
    config = NoiseConfig(path="vp", prediction="epsilon", uniform_share=1.0)
    levels = draw_levels(200_000, config, 3.0, torch.Generator().manual_seed(0))
    timesteps = levels.double() * NUM_TRAIN_TIMESTEPS - 1
    assert torch.allclose(timesteps, timesteps.round(), atol=1e-3)
    counts = timesteps.round().long().bincount(minlength=NUM_TRAIN_TIMESTEPS)
    assert len(counts) == NUM_TRAIN_TIMESTEPS
    assert counts.min() > 200 - 6 * math.sqrt(200)
    assert counts.max() < 200 + 6 * math.sqrt(200)


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
        ({"path": "curved"}, "noise.path=curved must be one of straight, vp"),
        ({"path": "vp", "schedule": "x"}, "noise.schedule=x must be one of linear, scaled_linear, cosine"),
        ({"path": "vp"}, "noise.prediction=velocity does not go with noise.path=vp: use epsilon, v_pred"),
        ({"prediction": "epsilon"}, "noise.prediction=epsilon does not go with noise.path=straight: use velocity"),
        ({"weighting": "max"}, "noise.weighting=max must be one of simple, min_snr"),
        ({"pictures": True}, "noise.pictures=true does not go with noise.path=straight: use false"),
        ({"weighting": "min_snr"}, "noise.weighting=min_snr does not go with noise.path=straight: use simple"),
    ],
)
def test_settings_out_of_range_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseConfig(**option)


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_of_a_part_of_the_way(strength: float, shift: float) -> None:
    """As many as its share of the steps, from the shifted strength down, and as far apart as on the whole way."""
    levels = sampling_levels(20, shift, strength)
    assert len(levels) == round(20 * strength)
    assert float(levels[0]) == pytest.approx(float(shift_level(torch.tensor(strength), shift)))
    assert torch.allclose(levels, sampling_levels(20, shift)[-len(levels) :])
    assert len(sampling_levels(4, shift, 0.01)) == 1


@pytest.mark.parametrize("path", [None, *(alphas_cumprod(name) for name in BETAS)])
def test_a_step_along_the_truth_may_be_of_any_length_and_in_either_direction(path: Tensor | None) -> None:
    latents, noise = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    low, high = torch.tensor(0.1), torch.tensor(0.8)
    for start, end in ((low, high), (high, low), (torch.tensor(0.0), high)):
        prediction = "velocity" if path is None else "epsilon"
        output = noise - latents if path is None else noise
        there = flow_step(prediction, output, add_noise(latents, noise, start, path), start, end, path)
        assert torch.allclose(there, add_noise(latents, noise, end, path), atol=1e-4)


def test_what_lies_between_two_samples_of_noise_is_as_long() -> None:
    first, second = torch.randn(2, 3, 4, 50, generator=torch.Generator().manual_seed(0)).unbind(0)
    for fraction in (0.2, 0.5, 0.8):
        between = slerp(first, second, fraction)
        assert torch.allclose(between.std(dim=(1, 2)), torch.ones(3), atol=0.15)
        assert torch.allclose(between, slerp(second, first, 1 - fraction), atol=1e-5)
        line = torch.lerp(first, second, fraction)
        cosine = (between * line).sum() / (between.norm() * line.norm())
        assert float(cosine) > 0.99 and float(between.norm()) > 1.05 * float(line.norm())
    for fraction, end in ((0.0, first), (1.0, second)):
        assert torch.allclose(slerp(first, second, fraction), end, atol=1e-6)
    assert torch.allclose(slerp(first, first, 0.3), first)
