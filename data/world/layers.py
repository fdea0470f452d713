"""Layers of the judge, which takes frames in steps of `TIME_STRIDE`: over maps of all steps, and over sequences."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

TIME_STRIDE = 2  # frames to a step


class TimeShiftBlock(nn.Module):
    """A residual 3×3 convolution that sees an eighth of its channels a step earlier and an eighth a step later."""

    def __init__(self, width: int) -> None:
        assert width >= 8, "an eighth of the channels would be none"
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """x: (b·s, c, h, w), ``steps`` = s."""
        hidden = F.relu(self.norm(x))
        part = x.shape[1] // 8
        before, after, now = hidden.split([part, part, x.shape[1] - 2 * part], dim=1)
        hidden = torch.cat((_shifted(before, steps, 1), _shifted(after, steps, -1), now), dim=1)
        return x + self.conv(hidden.contiguous(memory_format=torch.channels_last))


class AttentionBlock(nn.Module):
    """Attention and feed-forward: over the steps of each followed object, or over the objects at each step."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (n, s, d), mask: (n, s), which of the s to look at, at least one; None for all."""
        mask = None if mask is None else rearrange(mask, "n s -> n 1 1 s")
        q, k, v = rearrange(self.qkv(self.norm(x)), "n t (three m d) -> three n m t d", three=3, m=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(rearrange(mixed, "n m t d -> n t (m d)"))
        return x + self.feed(self.norm2(x))


def _shifted(x: Tensor, steps: int, by: int) -> Tensor:
    """(b·s, c, h, w) as it was ``by`` steps before (1) or after (-1), zeros where there is no such step."""
    x = rearrange(x, "(b s) c h w -> b s c h w", s=steps)
    nothing = torch.zeros_like(x[:, :1])
    moved = torch.cat((nothing, x[:, :-1]) if by == 1 else (x[:, 1:], nothing), dim=1)
    return rearrange(moved, "b s c h w -> (b s) c h w")
