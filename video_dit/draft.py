"""A known side that the model drafted itself, so that it learns to go on from its own errors.

In training, what a sample knows is the truth; in a rollout of windows it is what the model made, whose errors add up.
So a share of the samples with a known side is trained on a draft of that side: the model's guess of it from a random
noise level, without gradient, noised again to the level at which it is known. What is to be made stays the truth, so
the model learns to lead back to it. The errors are those of the current weights, for one more forward pass, and no
store of them has to be resumed (Stable Video Infinity, arXiv:2510.09212, recycles errors of one step from a bank; Self
Forcing, arXiv:2506.08009, rolls out whole clips).
"""

import torch
from torch import Tensor

from video_dit.noise import NoiseConfig, alpha, path_alphas_cumprod, to_sample
from video_dit.noised import NoisedTokens, noised_tokens

LEVEL_MAX = 0.6
"""Guesses from higher levels are far more blurred than what a model makes in many steps."""


def draw_draft(
    clean: Tensor,
    token_levels: Tensor,
    known: Tensor,
    made: Tensor,
    share: float,
    noise: NoiseConfig,
    generator: torch.Generator,
) -> NoisedTokens:
    """What the model is asked of one sample, so that its guess of the known tokens can take their place.

    With probability ``share``, known tokens are asked at one level, uniform up to `LEVEL_MAX`, and made ones at 1.
    Else, and where nothing is known, nothing of the answer is used. The noise is not that which the sample is trained
    with: in a rollout, what was made knows nothing of the noise in which it is shown.

    Args:
        clean: tokens ``(n, p)``. token_levels: ``(n,)``, those that they are trained at.
        known, made: ``(n,)`` bool; what is neither, as a keyframe, is the truth.
    Returns:
        ``weight`` is what an error of the model's output, output − target, moves a token by; 0 where not drafted.
    """
    chosen = bool(torch.rand((), generator=generator) < share) and bool(known.any())
    level = LEVEL_MAX * torch.rand((), generator=generator)
    drawn = torch.randn(clean.shape, generator=generator)
    drafted = known if chosen else torch.zeros_like(known)
    asked = torch.where(drafted, level, torch.where(made, 1.0, token_levels)) if chosen else token_levels
    path = path_alphas_cumprod(noise)
    of_output = to_sample(noise.prediction, torch.ones(()), torch.zeros(()), asked, path)  # n
    weight = torch.where(drafted, alpha(token_levels, path) * of_output, 0.0)
    return noised_tokens(clean, drawn, asked, weight, noise)


def redrafted(hidden_states: Tensor, draft: NoisedTokens, output: Tensor) -> Tensor:
    """A pack's noisy tokens ``(n, p)`` with the model's ``output`` for a draft in place of the truth."""
    return hidden_states + draft.weight[:, None] * (output.float() - draft.target)
