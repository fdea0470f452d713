"""Tokens at their noise levels, and what the model is to say of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from video_dit.noise import NoiseConfig, add_noise, path_alphas_cumprod, prediction_target

LEVELS_MULTIPLE = 32


@dataclass(frozen=True)
class NoisedTokens:
    """hidden_states, target: ``(n, c·p·p)`` fp32. levels: ``(l,)`` fp32. level_index: ``(n,)``. weight: ``(n,)`` fp32,
    what an error of the model's output counts for: in the loss, or in the tokens that a draft replaces."""

    hidden_states: Tensor
    target: Tensor
    levels: Tensor
    level_index: Tensor
    weight: Tensor

    def to(self, device: torch.device | str) -> "NoisedTokens":
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def noised_tokens(
    clean: Tensor, drawn: Tensor, token_levels: Tensor, weight: Tensor, noise: NoiseConfig
) -> NoisedTokens:
    """Clean tokens ``(n, p)`` of one sample with the noise ``drawn`` for them, at levels ``(n,)``."""
    path, level = path_alphas_cumprod(noise), token_levels[:, None]  # n 1
    levels, level_index = token_levels.unique(return_inverse=True)
    return NoisedTokens(
        hidden_states=add_noise(clean, drawn, level, path),
        target=prediction_target(noise.prediction, clean, drawn, level, path),
        levels=levels,
        level_index=level_index,
        weight=weight,
    )


def end_to_end(samples: Sequence[NoisedTokens]) -> NoisedTokens:
    """All samples of a pack, with one table of levels, padded to a multiple of 32."""
    levels = torch.cat([sample.levels for sample in samples])
    index: list[Tensor] = []
    before = 0
    for sample in samples:
        index.append(sample.level_index + before)
        before += len(sample.levels)
    return NoisedTokens(
        hidden_states=torch.cat([sample.hidden_states for sample in samples]),
        target=torch.cat([sample.target for sample in samples]),
        levels=torch.nn.functional.pad(levels, (0, -len(levels) % LEVELS_MULTIPLE)),
        level_index=torch.cat(index),
        weight=torch.cat([sample.weight for sample in samples]),
    )
