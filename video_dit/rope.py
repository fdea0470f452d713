"""Rotary position embedding over three axes (RoFormer, Su et al., 2021, arXiv:2104.09864), in fp32.

Angles depend on the differences of coordinates alone, so that one model serves any place, aspect and duration.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ANGLE_PER_SECOND = 8.0
"""Time enters in eighths of a second: two frames at 8 frames a second are one unit apart, as two latent pixels."""


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many of the ``head_dim / 2`` rotated pairs turn with time, height and width."""
    space = head_dim // 2 * 5 // 16
    return head_dim // 2 - 2 * space, space, space


def rope_angles(coords: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines of the angles of each token, twice side by side, and sines, the first time with a minus: factors of the
    channels and of their partners. Both ``(n, 1, head_dim)`` fp32.

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
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


class RotatedNorm(nn.RMSNorm):
    """RMS norm over the channels of an attention head, and the rotation of its pairs, which are channel i and
    i + head_dim / 2; in fp32 or better. Of ``(n, heads, head_dim)``, the input alone is kept for the way back."""

    def __init__(self, head_dim: int) -> None:
        super().__init__(head_dim, eps=1e-6)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """``(n, heads, head_dim)`` to the same; ``rope``, of `rope_angles`, turns it."""
        cos, sin = rope if rope is not None else (None, None)
        return _NormRotate.apply(x, self.weight, cos, sin)


class _NormRotate(torch.autograd.Function):
    """The norm divides by a number for each token and head, which the rotation leaves as it is; so it comes last."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_exact(x))  # n heads 1
        scale = (lengths.square() / x.shape[-1] + 1e-6).rsqrt()  # Dynamo fails here on a name in place of the number
        context.save_for_backward(x, weight, cos, sin, scale)
        weighted = x.to(_exact(x), copy=True).mul_(weight.to(_exact(x)))  # n heads d
        return _rotated(weighted, cos, sin).mul_(scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, cos, sin, scale = context.saved_tensors
        exact = weight.to(_exact(x))
        back = _rotated(grad.to(_exact(x), copy=True).mul_(scale), cos, None if sin is None else -sin)  # n heads d
        weighted = back * exact
        long = x.to(_exact(x), copy=True)
        back.mul_(long)
        share = (back @ exact).unsqueeze(-1) * scale.square() / x.shape[-1]  # n heads 1
        of_x = weighted.sub_(long.mul_(share)).to(x.dtype)
        return of_x, back.sum(dim=(0, 1)).to(weight.dtype), None, None


def _rotated(x: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """``x (n, heads, head_dim)``, which it writes over."""
    if cos is None or sin is None:
        return x
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    return x.mul_(cos).addcmul_(swapped, sin)


def _exact(x: Tensor) -> torch.dtype:
    """fp32, or fp64 for that."""
    return torch.promote_types(x.dtype, torch.float32)
