"""Which tokens of a training sample are known, and how noisy each token is.

Everything that sampling does later, from text to video over extension in both directions to inpainting, is one of
these patterns, so training draws a random one for each sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from video_dit.noise import NoiseConfig, draw_levels

CONTEXT_LEVEL_MAX = 0.1


@dataclass(frozen=True)
class ContextConfig:
    """Shares of the patterns; what is left is one level for all tokens.

    two_levels: a known and a made side. per_frame: an independent level for each latent frame (Diffusion Forcing,
    Chen et al., 2024, arXiv:2407.01392). null_context: a known side at level 1, which history guidance needs
    (Song et al., 2025, arXiv:2502.06764). text_dropout: samples with the empty prompt. keyframe: samples that
    one more latent of a single frame joins. cold_suffix: patterns with a known suffix whose latents were encoded
    from their own start, as when a clip is extended backward.

    Raises:
        ValueError: shares out of [0, 1], or more than 1 in all.
    """

    two_levels: float = 0.40
    per_frame: float = 0.15
    null_context: float = 0.05
    text_dropout: float = 0.1
    keyframe: float = 0.1
    cold_suffix: float = 0.1

    def __post_init__(self) -> None:
        for name in ("two_levels", "per_frame", "null_context", "text_dropout", "keyframe", "cold_suffix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"context.{name}={getattr(self, name)} must be in [0, 1]")
        if (total := self.two_levels + self.per_frame + self.null_context) > 1:
            raise ValueError(f"context: two_levels + per_frame + null_context = {total:g} must be at most 1")


@dataclass(frozen=True)
class Pattern:
    """levels: ``(t, h, w)`` fp32, one a token. made: ``(t, h, w)`` bool, the tokens that bear loss.

    kind: its name. known_suffix: latent frames known at the end of a clip whose start is made, else 0.
    """

    levels: Tensor
    made: Tensor
    kind: str
    known_suffix: int = 0


def draw_pattern(
    grid: tuple[int, int, int], context: ContextConfig, noise: NoiseConfig, shift: float, generator: torch.Generator
) -> Pattern:
    """A random pattern over a grid of tokens ``(t, h, w)``; ``shift`` moves the made tokens' levels."""
    choice = float(torch.rand((), generator=generator))
    known_share = context.two_levels + context.null_context
    if choice < known_share:
        known, kind = draw_known(grid, generator)
        made_level = draw_levels(1, noise, shift, generator)
        level = _known_level(made_level, generator) if choice < context.two_levels else torch.ones(1)
        suffix = int(known.flatten(1).all(dim=1).sum()) if kind == "suffix" else 0
        return Pattern(torch.where(known, level, made_level), ~known, kind, suffix)
    everything = torch.ones(grid, dtype=torch.bool)
    if choice < known_share + context.per_frame:
        levels = draw_levels(grid[0], noise, shift, generator).view(-1, 1, 1).expand(grid)
        return Pattern(levels, everything, "per frame")
    return Pattern(draw_levels(1, noise, shift, generator).expand(grid), everything, "one level")


def with_suffix(pattern: Pattern, count: int) -> Pattern:
    """A "suffix" pattern with the last ``count`` latent frames known instead, at the same two levels."""
    known = torch.zeros_like(pattern.made)
    known[len(known) - count :] = True
    levels = torch.where(known, pattern.levels[-1:], pattern.levels[:1])
    return Pattern(levels, ~known, pattern.kind, count)


def draw_known(grid: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, str]:
    """A random known side ``(t, h, w)`` bool, neither empty nor everything, and its name.

    "prefix", "suffix", "ends", "frames" (any latent frames) or "tubes" (a rectangle through all time is made, or
    known). A clip of one latent frame always has tubes; one token alone has nothing known.
    """
    t, h, w = grid
    known = torch.zeros(grid, dtype=torch.bool)
    if t > 1 and (h * w == 1 or float(torch.rand((), generator=generator)) < 0.85):
        kinds = ("prefix", "suffix", "ends", "frames")
        shares = torch.tensor([0.4, 0.35, 0.1, 0.15])
        kind = kinds[int(torch.multinomial(shares, 1, generator=generator))]
        if kind == "ends" and t > 2:
            count = _integer(2, t - 1, generator)
            head = _integer(1, count - 1, generator)
            known[:head] = True
            known[t - (count - head) :] = True
            return known, kind
        count = _integer(1, t - 1, generator)
        if kind == "suffix":
            known[t - count :] = True
        elif kind == "frames":
            known[torch.randperm(t, generator=generator)[:count]] = True
        else:
            kind = "prefix"
            known[:count] = True
        return known, kind
    rows, columns = _integer(1, h, generator), _integer(1, w, generator)
    if rows * columns == h * w:
        rows, columns = (rows - 1, columns) if h > 1 else (rows, columns - 1)
    top, left = _integer(0, h - rows, generator), _integer(0, w - columns, generator)
    known[:, top : top + rows, left : left + columns] = True
    outside = rows * columns == 0 or float(torch.rand((), generator=generator)) < 0.5
    return (known if outside else ~known), "tubes"


def known_keyframe_level(generator: torch.Generator) -> Tensor:
    """A level ``(1,)`` for a keyframe that joins: near 0, as known tokens are in sampling."""
    return torch.rand(1, generator=generator) * CONTEXT_LEVEL_MAX


def _known_level(made_level: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the time in [0, 0.1], otherwise uniform below the made level."""
    near = float(torch.rand((), generator=generator)) < 0.5
    share = torch.rand(1, generator=generator)
    return share * CONTEXT_LEVEL_MAX if near else share * made_level


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Uniform in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))
