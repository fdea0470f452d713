"""Layers of the autoencoder. Inside, tensors are channels-last: ``(b, t, h, w, c)``.

That is the memory of a ``channels_last_3d`` convolution and of a ``Linear`` at once, so that neither copies.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

State = tuple[Tensor, ...]
"""What causal convolutions remember of the frames before a chunk, one tensor for each, in order of use."""


def haar_matrix(device: torch.device | None = None) -> Tensor:
    """Orthonormal Haar transform of 2×2×2 cubes, ``(8, 8)``: row = band, column = place in (t, h, w)."""
    pair = torch.full((2, 2), 1 / math.sqrt(2.0), device=device)
    pair[1, 1].neg_()
    return torch.kron(torch.kron(pair, pair), pair)


def haar(frames: Tensor, levels: int) -> Tensor:
    """Haar wavelet packets, ``levels`` times over time and space.

    Args:
        frames: ``(b, t, h, w, c)``, each of t, h, w a multiple of ``2**levels``.
    Returns:
        ``(b, t / 2**levels, h / 2**levels, w / 2**levels, c * 8**levels)``, of the same energy.
    """
    matrix = haar_matrix(frames.device).to(frames.dtype)
    for _ in range(levels):
        cubes = rearrange(frames, "b (t pt) (h ph) (w pw) c -> b t h w c (pt ph pw)", pt=2, ph=2, pw=2)
        frames = rearrange(cubes @ matrix.T, "b t h w c band -> b t h w (c band)")
    return frames


def inverse_haar(bands: Tensor, levels: int) -> Tensor:
    """Inverse of `haar`: ``(b, t, h, w, c)`` to ``(b, t * 2**levels, h * 2**levels, w * 2**levels, c / 8**levels)``."""
    matrix = haar_matrix(bands.device).to(bands.dtype)
    for _ in range(levels):
        cubes = rearrange(bands, "b t h w (c band) -> b t h w c band", band=8) @ matrix
        bands = rearrange(cubes, "b t h w c (pt ph pw) -> b (t pt) (h ph) (w pw) c", pt=2, ph=2, pw=2)
    return bands


class InverseHaarLinear(nn.Module):
    """Linear layer to the bands of colour frames, and `inverse_haar`, as one matrix.

    It computes in fp32 whatever the type of ``x`` (but for `torch.autocast`), so that pixels are not rounded to
    half grey levels, as bf16 would. It takes 11 ms for 20 frames of 256x256 on two CPU cores; one after the other they
    take 16 in bf16 and 18 in fp32.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.weight, self.bias = _random_parameters(3 * 8**levels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, t, h, w, channels)`` to fp32 frames ``(b, 3, t·p, h·p, w·p)`` with ``p = 2**levels``."""
        p = 2**self.levels
        bands = torch.cat([self.weight.T, self.bias[None]]).float()
        matrix = inverse_haar(rearrange(bands, "i band -> i 1 1 1 band"), self.levels)
        matrix = rearrange(matrix, "i pt ph pw c -> (c pt ph pw) i")
        frames = F.linear(x.float(), matrix[:, :-1], matrix[:, -1])
        return rearrange(frames, "b t h w (c pt ph pw) -> b c (t pt) (h ph) (w pw)", pt=p, ph=p, pw=p)


class CausalConv3d(nn.Module):
    """3×3×3 convolution that sees this frame and the two before it; zeros stand before the first.

    The weight is kept as a matrix ``(out, in · 27)``, which is what Muon orthogonalises.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight, self.bias = _random_parameters(out_channels, in_channels * 27)

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the last two frames before it (None at the start) to output and new history."""
        x = _after_history(x, history)
        weight = rearrange(self.weight, "o (i t h w) -> o i t h w", t=3, h=3, w=3)
        y = F.conv3d(rearrange(x, "b t h w c -> b c t h w"), weight, self.bias, padding=(0, 1, 1))
        return rearrange(y, "b c t h w -> b t h w c"), _last_two(x)


class CausalDepthwiseConv3d(nn.Module):
    """3×3×3 depthwise convolution that sees this frame and the two before it; zeros stand before the first.

    It runs as three depthwise convolutions over space, one for each frame seen: the same numbers, and on a CPU the
    backward pass of a 3D depthwise convolution is some thirty times slower (docs/vae.md). The weight is a matrix
    ``(channels, 27)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = _random_parameters(channels, 27)

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the last two frames before it (None at the start) to output and new history."""
        x = _after_history(x, history)
        b, frames, channels = x.shape[0], x.shape[1] - 2, x.shape[4]
        y: Tensor | None = None
        for tap, weight in enumerate(rearrange(self.weight, "c (t i h w) -> t c i h w", t=3, h=3, w=3)):
            flat = rearrange(x[:, tap : tap + frames], "b t h w c -> (b t) c h w")
            seen = F.conv2d(flat, weight, self.bias if tap == 0 else None, padding=1, groups=channels)
            y = seen if y is None else y + seen
        assert y is not None
        return rearrange(y, "(b t) c h w -> b t h w c", b=b), _last_two(x)


def _random_parameters(rows: int, columns: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias as torch's linear layers and convolutions draw them."""
    bound = 1 / math.sqrt(columns)
    return (
        nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound)),
        nn.Parameter(torch.empty(rows).uniform_(-bound, bound)),
    )


def _last_two(x: Tensor) -> Tensor:
    """Of ``(b, t, h, w, c)``; a copy, since a view would keep the whole chunk in memory."""
    return x[:, -2:].clone()


def _after_history(x: Tensor, history: Tensor | None) -> Tensor:
    """``(b, t, h, w, c)`` behind the two frames before it, which are zeros at the start of a clip."""
    if history is None:
        history = x.new_zeros(x.shape[0], 2, *x.shape[2:])
    return torch.cat([history, x], dim=1)


class _RMSNorm(torch.autograd.Function):
    """Keeps the output and the scale for the backward pass; several times faster on a CPU than `F.rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square().div(x.shape[-1]).add(1e-6).rsqrt().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (gradient * y).mean(-1, keepdim=True)
        return torch.addcmul(gradient, y, along, value=-1) * scale


def rms_norm(x: Tensor) -> Tensor:
    """Divide ``(…, c)`` by its root mean square over channels; the sum of squares is in fp32, the rest in the type of
    ``x``. It has no weight: a linear layer follows, whose own can hold it. Takes no statistics over time or space."""
    return _RMSNorm.apply(x)


class FeedForward(nn.Module):
    """Position-wise two-layer network with SiLU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


class Block(nn.Module):
    """Residual block at one scale: depthwise causal convolution, norm, feed-forward layer (the order of ConvNeXt, Liu
    et al., 2022). A residual around each of the two lost 0.5 to 0.8 dB in a trial (docs/vae.md)."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.conv = CausalDepthwiseConv3d(channels)
        self.ff = FeedForward(channels, int(channels * ratio))

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the convolution's history to the same shape and the new history."""
        y, history = self.conv(x, history)
        return x + self.ff(rms_norm(y)), history


class ThinBlock(nn.Module):
    """Residual causal convolution over few channels at the wavelet's scale: mends the borders of patches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels)

    def forward(self, x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(b, t, h, w, c)`` and the convolution's history to the same shape and the new history."""
        y, history = self.conv(F.silu(rms_norm(x)), history)
        return x + y, history


def run_blocks(blocks: nn.ModuleList, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Run blocks one after the other, each with its own part of ``state`` (None at the start of a clip)."""
    histories = state if state is not None else (None,) * len(blocks)
    new: list[Tensor] = []
    for block, history in zip(blocks, histories, strict=True):
        x, history = block(x, history)
        new.append(history)
    return x, tuple(new)
