"""From latents to noise and back: two paths, what a model predicts on them, how levels are drawn. Pure functions.

Level 0 is clean, level 1 pure noise: ``noisy = alpha(level)·latents + sigma(level)·noise``.

- The straight path (rectified flow, Liu et al., 2022, arXiv:2209.03003): alpha = 1 − level, sigma = level. A
  scheduler's timestep is 1000 · level.
- The variance-preserving path of DDPM (Ho et al., 2020, arXiv:2006.11239): alpha² = ᾱ, sigma² = 1 − ᾱ, where ᾱ falls
  over T = 1000 timesteps t as the schedule says. Level (t + 1) / T is timestep t, and ᾱ is linear in between, with 1 at
  level 0: so tokens that are known may have any level.

Functions of the path take its ``alphas_cumprod``, ``(T,)``, the ᾱ of all timesteps; None is the straight path. Levels
broadcast against tokens: ``(n, 1)`` for ``(n, d)``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
PREDICTIONS = {"straight": ("velocity",), "vp": ("epsilon", "v_prediction", "sample")}
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (0.0, 0.999)}
"""First and last beta; the bounds of the cosine's."""
WEIGHTINGS = ("simple", "min_snr")
SNR_GAMMA = 5.0


@dataclass(frozen=True)
class NoiseConfig:
    """The path, what the model predicts on it, and how levels are drawn in training.

    logit_mean, logit_std: of the logit-normal (Esser et al., 2024, arXiv:2403.03206, section 3.1).
    uniform_share: share of levels drawn uniformly instead, so that both ends of the path are seen; 1 is DDPM.
    path: ``straight``, or ``vp``, the variance-preserving path of DDPM.
    schedule: of the vp path: ``linear``, ``scaled_linear`` or ``cosine``. At the end of the cosine alpha is 5e-5, so
        that an epsilon says next to nothing of the latents there: predict ``v_prediction`` or ``sample`` on it.
    prediction: ``velocity`` on the straight path; on the vp path ``epsilon`` (the noise), ``v_prediction`` or
        ``sample`` (the latents), as diffusers calls them.
    weighting: ``simple`` weighs all levels alike; ``min_snr``, on the vp path, by `loss_weight`.
    pictures: whether the run writes those that explain the vp path (see `video_dit.teaching`).

    Raises:
        ValueError: a value is out of its range, or does not go with ``path``.
    """

    logit_mean: float = 0.0
    logit_std: float = 1.0
    uniform_share: float = 0.1
    path: str = "straight"
    schedule: str = "linear"
    prediction: str = "velocity"
    weighting: str = "simple"
    pictures: bool = False

    def __post_init__(self) -> None:
        if not self.logit_std > 0:
            raise ValueError(f"noise.logit_std={self.logit_std} must be above 0")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError(f"noise.uniform_share={self.uniform_share} must be in [0, 1]")
        for name, allowed in (("path", PREDICTIONS), ("schedule", BETAS), ("weighting", WEIGHTINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"noise.{name}={getattr(self, name)} must be one of {', '.join(allowed)}")
        if self.prediction not in PREDICTIONS[self.path]:
            fix = f"use {', '.join(PREDICTIONS[self.path])}"
            raise ValueError(f"noise.prediction={self.prediction} does not go with noise.path={self.path}: {fix}")
        if self.weighting == "min_snr" and self.path != "vp":
            raise ValueError(f"noise.weighting=min_snr does not go with noise.path={self.path}: use simple")
        if self.pictures and self.path != "vp":
            raise ValueError(f"noise.pictures=true does not go with noise.path={self.path}: use false")


def path_alphas_cumprod(config: NoiseConfig) -> Tensor | None:
    """What the functions here take for the path of ``config``."""
    return alphas_cumprod(config.schedule) if config.path == "vp" else None


def alphas_cumprod(schedule: str) -> Tensor:
    """The share of the latents' variance that is left after each timestep, ``(T,)`` fp32.

    ``linear`` in beta (Ho et al., 2020, arXiv:2006.11239), ``scaled_linear``: in its square root (Rombach et al., 2022,
    arXiv:2112.10752), ``cosine`` (Nichol and Dhariwal, 2021, arXiv:2102.09672, equation 17).
    """
    low, high = BETAS[schedule]
    if schedule == "linear":
        betas = torch.linspace(low, high, NUM_TRAIN_TIMESTEPS)
    elif schedule == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, NUM_TRAIN_TIMESTEPS).square()
    else:
        level = torch.arange(NUM_TRAIN_TIMESTEPS + 1, dtype=torch.float64) / NUM_TRAIN_TIMESTEPS
        left = torch.cos((level + 0.008) / 1.008 * math.pi / 2).square()
        betas = (1 - left[1:] / left[:-1]).clamp_max(high).float()
    return torch.cumprod(1 - betas, dim=0)


def _alpha_squared(level: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """ᾱ at any levels in [0, 1]."""
    table = torch.nn.functional.pad(alphas_cumprod, (1, 0), value=1.0)
    place = level * NUM_TRAIN_TIMESTEPS
    below = place.floor().clamp(0, NUM_TRAIN_TIMESTEPS - 1)
    first = below.long()
    return torch.lerp(table[first], table[first + 1], place - below)


def alpha(level: Tensor, alphas_cumprod: Tensor | None = None) -> Tensor:
    """The factor of the latents."""
    return 1 - level if alphas_cumprod is None else _alpha_squared(level, alphas_cumprod).sqrt()


def sigma(level: Tensor, alphas_cumprod: Tensor | None = None) -> Tensor:
    """The factor of the noise."""
    return level if alphas_cumprod is None else (1 - _alpha_squared(level, alphas_cumprod)).sqrt()


def add_noise(latents: Tensor, noise: Tensor, level: Tensor, alphas_cumprod: Tensor | None = None) -> Tensor:
    """``alpha(level)·latents + sigma(level)·noise``."""
    return alpha(level, alphas_cumprod) * latents + sigma(level, alphas_cumprod) * noise


def prediction_target(
    prediction: str, latents: Tensor, noise: Tensor, level: Tensor, alphas_cumprod: Tensor | None = None
) -> Tensor:
    """What the model learns to predict.

    ``velocity``: noise − latents, the derivative of `add_noise` by the level on the straight path. ``epsilon``: the
    noise. ``sample``: the latents. ``v_prediction``: alpha·noise − sigma·latents (Salimans and Ho, 2022,
    arXiv:2202.00512, appendix D).
    """
    if prediction == "velocity":
        return noise - latents
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return latents
    assert prediction == "v_prediction", prediction
    return alpha(level, alphas_cumprod) * noise - sigma(level, alphas_cumprod) * latents


def to_sample(
    prediction: str, output: Tensor, noisy: Tensor, level: Tensor, alphas_cumprod: Tensor | None = None
) -> Tensor:
    """The latents that a model's output means, given what it saw. An epsilon is divided by alpha: none at level 1 of
    the straight path."""
    if prediction == "sample":
        return output
    if prediction == "velocity":
        return noisy - level * output
    a, s = alpha(level, alphas_cumprod), sigma(level, alphas_cumprod)
    return (noisy - s * output) / a if prediction == "epsilon" else a * noisy - s * output


def to_epsilon(
    prediction: str, output: Tensor, noisy: Tensor, level: Tensor, alphas_cumprod: Tensor | None = None
) -> Tensor:
    """The noise that a model's output means, given what it saw. A sample is divided by sigma: none at level 0."""
    if prediction == "epsilon":
        return output
    if prediction == "velocity":
        return noisy + (1 - level) * output
    a, s = alpha(level, alphas_cumprod), sigma(level, alphas_cumprod)
    return (noisy - a * output) / s if prediction == "sample" else a * output + s * noisy


def flow_step(
    prediction: str, output: Tensor, noisy: Tensor, level: Tensor, to: Tensor, alphas_cumprod: Tensor | None = None
) -> Tensor:
    """From one level to another along the path that the model's output says: Euler's step of the probability flow,
    DDIM's (Song et al., 2021, arXiv:2010.02502, equation 13) on the vp path, in either direction. What is ``noisy`` is
    at ``level``; the output may be that of another place near it."""
    if alphas_cumprod is None:
        assert prediction == "velocity", prediction
        return noisy + (to - level) * output
    epsilon = to_epsilon(prediction, output, noisy, level, alphas_cumprod)
    latents = (noisy - sigma(level, alphas_cumprod) * epsilon) / alpha(level, alphas_cumprod)
    return add_noise(latents, epsilon, to, alphas_cumprod)


def slerp(first: Tensor, second: Tensor, fraction: float) -> Tensor:
    """Between two samples of noise ``(b, …)`` along a great circle, so that what lies between is as long as they are
    (Shoemake, 1985; DDIM, Song et al., 2021, section 5.3). fraction: 0 is the first, 1 the second."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    cosine = (a * b).sum(dim=1, keepdim=True) / (a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True))
    angle = cosine.clamp(-1, 1).acos()
    if bool((angle < 1e-4).any()):  # of one direction: a straight line
        return torch.lerp(first, second, fraction)
    between = (((1 - fraction) * angle).sin() * a + (fraction * angle).sin() * b) / angle.sin()
    return between.view_as(first).to(first)


def loss_weight(config: NoiseConfig, level: Tensor, alphas_cumprod: Tensor | None = None) -> Tensor:
    """The factor of the squared error at each level.

    ``min_snr`` (Hang et al., 2023, arXiv:2303.09556, section 3.4): with snr = alpha² / sigma², ``min(snr, 5)`` for a
    ``sample``; an equal error in the latents weighs the same as an epsilon, over ``snr``, and as a ``v_prediction``,
    over ``snr + 1``.
    """
    if config.weighting == "simple":
        return torch.ones_like(level)
    snr = (alpha(level, alphas_cumprod) / sigma(level, alphas_cumprod)).square()
    capped = snr.clamp_max(SNR_GAMMA)
    if config.prediction == "sample":
        return capped
    return capped / (snr if config.prediction == "epsilon" else snr + 1)


def level_shift(num_tokens: int, base_tokens: int) -> float:
    """``clip(sqrt(num_tokens / base_tokens), 1, 6)``: more tokens of one picture need more noise to hide it.

    ``num_tokens`` counts all tokens of a segment. Used in training and in sampling alike (Esser et al., 2024,
    arXiv:2403.03206, section 5.3.2).
    """
    return min(6.0, max(1.0, math.sqrt(num_tokens / base_tokens)))


def shift_level(level: Tensor, shift: float) -> Tensor:
    """``shift·u / (1 + (shift − 1)·u)``: moves levels in [0, 1] towards 1 and keeps both ends."""
    return (shift * level / (1 + (shift - 1) * level)).clamp(max=1)  # rounding leads beyond


def sampling_levels(steps: int, shift: float, strength: float = 1.0) -> Tensor:
    """The levels at which sampling asks the model, evenly spaced before the shift: of ``steps`` from level 1 down, the
    last ones, as large a share as ``strength`` and at least one."""
    count = max(1, round(steps * strength))
    return shift_level(torch.linspace(strength, strength / count, count), shift)


def draw_levels(count: int, config: NoiseConfig, shift: float, generator: torch.Generator) -> Tensor:
    """``count`` levels of made tokens, ``(count,)`` fp32 in [0, 1].

    On the vp path they are those of timesteps, and not shifted: its schedule is what says how they are spread.
    """
    normal = torch.randn(count, generator=generator) * config.logit_std + config.logit_mean
    uniform = torch.rand(count, generator=generator)
    choice = torch.rand(count, generator=generator) < config.uniform_share
    level = torch.where(choice, uniform, normal.sigmoid())
    if config.path == "straight":
        return shift_level(level, shift)
    timestep = (level * NUM_TRAIN_TIMESTEPS).floor().clamp_max(NUM_TRAIN_TIMESTEPS - 1)
    return (timestep + 1) / NUM_TRAIN_TIMESTEPS
