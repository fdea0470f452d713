"""Rotary position embedding over three axes (RoFormer, Su et al., 2021, arXiv:2104.09864), in fp32.

Angles depend on the differences of coordinates alone, so that one model serves any place, aspect and duration.
"""

import torch
from einops import rearrange
from torch import Tensor

ANGLE_PER_SECOND = 8.0
"""Time enters in eighths of a second: two frames at 8 frames a second are one unit apart, as two latent pixels."""


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many of the ``head_dim / 2`` rotated pairs turn with time, height and width."""
    space = head_dim // 2 * 5 // 16
    return head_dim // 2 - 2 * space, space, space


def rope_angles(coords: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles of each token, both ``(n, 1, head_dim / 2)`` fp32.

    Args:
        coords: ``(n, 3)`` fp32: seconds, height and width in latent pixels.
        head_dim: channels of an attention head; even.
        theta: the slowest pair turns by about 1 / theta a unit.
    """
    parts: list[Tensor] = []
    for axis, pairs in enumerate(axis_pairs(head_dim)):
        exponents = torch.arange(pairs, dtype=torch.float32, device=coords.device) / max(pairs, 1)
        place = coords[:, axis, None].float() * (ANGLE_PER_SECOND if axis == 0 else 1.0)
        parts.append(place * theta**-exponents)
    angles = rearrange(torch.cat(parts, dim=1), "n pairs -> n 1 pairs")
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x (n, heads, head_dim)``, whose pairs are channel i and i + head_dim / 2, in fp32."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)
