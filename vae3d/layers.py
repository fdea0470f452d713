"""Layers of the autoencoder. Inside, tensors are channels-last: ``(b, t, h, w, c)``.

That is the memory of a ``channels_last_3d`` convolution and of a ``Linear`` at once, so that neither copies.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

State = tuple[Tensor, ...]
"""What causal convolutions remember of the frames before a chunk, one tensor for each, in order of use."""


def haar_matrix() -> Tensor:
    """Orthonormal Haar transform of 2×2×2 cubes, ``(8, 8)``: row = band, column = place in (t, h, w)."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2.0)
    return torch.kron(torch.kron(pair, pair), pair)


def haar(frames: Tensor, levels: int) -> Tensor:
    """Haar wavelet packets, ``levels`` times over time and space.

    Args:
        frames: ``(b, t, h, w, c)``, each of t, h, w a multiple of ``2**levels``.
    Returns:
        ``(b, t / 2**levels, h / 2**levels, w / 2**levels, c * 8**levels)``, of the same energy.
    """
    matrix = haar_matrix().to(frames)
    for _ in range(levels):
        cubes = rearrange(frames, "b (t pt) (h ph) (w pw) c -> b t h w c (pt ph pw)", pt=2, ph=2, pw=2)
        frames = rearrange(cubes @ matrix.T, "b t h w c band -> b t h w (c band)")
    return frames


def inverse_haar(bands: Tensor, levels: int) -> Tensor:
    """Inverse of `haar`: ``(b, t, h, w, c)`` to ``(b, t * 2**levels, h * 2**levels, w * 2**levels, c / 8**levels)``."""
    matrix = haar_matrix().to(bands)
    for _ in range(levels):
        cubes = rearrange(bands, "b t h w (c band) -> b t h w c band", band=8) @ matrix
        bands = rearrange(cubes, "b t h w c (pt ph pw) -> b (t pt) (h ph) (w pw) c", pt=2, ph=2, pw=2)
    return bands


class CausalConv3d(nn.Module):
    """3×3×3 convolution that sees this frame and the two before it; zeros stand before the first."""

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=(0, 1, 1), groups=groups)

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the last two frames before it (None at the start) to output and new history."""
        if history is None:
            history = x.new_zeros(x.shape[0], 2, *x.shape[2:])
        x = torch.cat([history, x], dim=1)
        y = self.conv(rearrange(x, "b t h w c -> b c t h w"))
        return rearrange(y, "b c t h w -> b t h w c"), x[:, -2:]


class RMSNorm(nn.Module):
    """Root-mean-square norm over channels, computed in fp32. Takes no statistics over time or space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=1e-6)


class FeedForward(nn.Module):
    """Position-wise two-layer network with GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Residual block at one scale: depthwise causal convolution, then a feed-forward layer."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.norm_conv = RMSNorm(channels)
        self.conv = CausalConv3d(channels, channels, groups=channels)
        self.norm_ff = RMSNorm(channels)
        self.ff = FeedForward(channels, int(channels * ratio))

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the convolution's history to the same shape and the new history."""
        y, history = self.conv(self.norm_conv(x), history)
        x = x + y
        return x + self.ff(self.norm_ff(x)), history


class ThinBlock(nn.Module):
    """Residual causal convolution over few channels at the wavelet's scale: mends the borders of patches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.conv = CausalConv3d(channels, channels)

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the convolution's history to the same shape and the new history."""
        y, history = self.conv(F.silu(self.norm(x)), history)
        return x + y, history


def run_blocks(blocks: nn.ModuleList, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Run blocks one after the other, each with its own part of ``state`` (None at the start of a clip)."""
    histories = state if state is not None else (None,) * len(blocks)
    new: list[Tensor] = []
    for block, history in zip(blocks, histories, strict=True):
        x, history = block(x, history)
        new.append(history)
    return x, tuple(new)
