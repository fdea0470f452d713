"""The straight path from latents to noise, and how noise levels are drawn. Pure functions.

Level 0 is clean, level 1 pure noise: ``noisy = alpha(level)·latents + sigma(level)·noise`` with alpha = 1 − level
and sigma = level (rectified flow, Liu et al., 2022, arXiv:2209.03003). A scheduler's timestep is 1000 · level.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseConfig:
    """How levels are drawn in training.

    logit_mean, logit_std: of the logit-normal (Esser et al., 2024, arXiv:2403.03206, section 3.1).
    uniform_share: share of levels drawn uniformly instead, so that both ends of the path are seen.

    Raises:
        ValueError: a value is out of its range.
    """

    logit_mean: float = 0.0
    logit_std: float = 1.0
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.logit_std > 0:
            raise ValueError(f"noise.logit_std={self.logit_std} must be above 0")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError(f"noise.uniform_share={self.uniform_share} must be in [0, 1]")


def add_noise(latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """``(1 − level)·latents + level·noise``; ``level`` broadcasts against them."""
    return (1 - level) * latents + level * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to predict: the derivative of `add_noise` by the level."""
    return noise - latents


def level_shift(num_tokens: int, base_tokens: int) -> float:
    """``clip(sqrt(num_tokens / base_tokens), 1, 6)``: more tokens of one picture need more noise to hide it.

    ``num_tokens`` counts all tokens of a segment. Used in training and in sampling alike (Esser et al., 2024,
    arXiv:2403.03206, section 5.3.2).
    """
    return min(6.0, max(1.0, math.sqrt(num_tokens / base_tokens)))


def shift_level(level: Tensor, shift: float) -> Tensor:
    """``shift·u / (1 + (shift − 1)·u)``: moves levels in [0, 1] towards 1 and keeps both ends."""
    return shift * level / (1 + (shift - 1) * level)


def draw_levels(count: int, config: NoiseConfig, shift: float, generator: torch.Generator) -> Tensor:
    """``count`` levels of made tokens, ``(count,)`` fp32 in [0, 1]."""
    normal = torch.randn(count, generator=generator) * config.logit_std + config.logit_mean
    uniform = torch.rand(count, generator=generator)
    choice = torch.rand(count, generator=generator) < config.uniform_share
    return shift_level(torch.where(choice, uniform, normal.sigmoid()), shift)
