"""Layers of the diffusion transformer. Tokens of all samples of a pack stand end to end: ``(n, d)``."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_dit.attention import segment_attention
from video_dit.level_table import LevelIndex, add_scaled, of_level
from video_dit.linear import Linear
from video_dit.rope import RotatedNorm
from video_dit.sequence_parallel import split_attention
from video_dit.tokens import Segments

KeysValues = tuple[Tensor, Tensor]
"""What attention looks at: keys and values, each ``(m, heads, head_dim)``."""


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it, else fp32: a CPU without the instructions is many times slower in bf16."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.bfloat16


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA if it is there. ValueError where it is not."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return place


def sinusoid(values: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of ``values (l,)`` at geometric frequencies, ``(l, channels)`` fp32; channels even."""
    exponents = torch.arange(channels // 2, dtype=torch.float32, device=values.device) / (channels // 2)
    angles = values[:, None].float() * max_period**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, levels: LevelIndex) -> Tensor:
    """Layer norm of ``x (n, d)``, scaled and shifted by the row of the ``(l, d)`` tables that its level names."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return add_scaled(of_level(shift, levels), x, 1 + scale, levels)


class LevelEmbedding(nn.Module):
    """Noise levels ``(l,)`` in [0, 1] to embeddings ``(l, d)``."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.up = Linear(frequencies, width)
        self.down = Linear(width, width)

    def forward(self, levels: Tensor) -> Tensor:
        features = sinusoid(levels * 1000, self.frequencies).to(self.up.weight.dtype)
        return self.down(F.silu(self.up(features)))


class Attention(nn.Module):
    """Multi-head attention within segments, with RMS norm on queries and keys and separate projections.

    Args:
        width: channels of the queries' tokens. source_width: of the keys' and values' tokens.
        num_heads: divides ``width``.
    """

    def __init__(self, width: int, source_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = Linear(width, width)
        self.to_k = Linear(source_width, width)
        self.to_v = Linear(source_width, width)
        self.to_out = Linear(width, width)
        self.norm_q = RotatedNorm(width // num_heads)
        self.norm_k = RotatedNorm(width // num_heads)

    def forward(
        self,
        hidden_states: Tensor,
        source: Tensor | KeysValues,
        segments: Segments,
        source_segments: Segments,
        rope: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Tokens ``(n, d)`` look at ``source (m, d_source)``, or at what `keys_values` made of it; ``rope`` turns both,
        for self-attention."""
        q = self.norm_q(rearrange(self.to_q(hidden_states), "n (heads d) -> n heads d", heads=self.num_heads), rope)
        k, v = source if isinstance(source, tuple) else self.keys_values(source, rope)
        if segments.split is not None and source_segments is segments:
            out = split_attention(q, k, v, segments.split)
        else:
            out = segment_attention(q, k, v, segments, source_segments)
        return self.to_out(rearrange(out, "n heads d -> n (heads d)"))

    def keys_values(self, source: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> KeysValues:
        """Of ``source (m, d_source)``, which ``rope`` turns: both ``(m, heads, head_dim)``."""
        k, v = (
            rearrange(x, "m (heads d) -> m heads d", heads=self.num_heads)
            for x in (self.to_k(source), self.to_v(source))
        )
        return self.norm_k(k, rope), v


class FeedForward(nn.Module):
    """Two-layer network with GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if isinstance(self.up, Linear):
            return self.down(self.up(hidden_states, gelu=True))
        return self.down(F.gelu(self.up(hidden_states)))  # an adapter adds to what the layer makes


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward.

    Scale, shift and gate come from one table for all blocks plus an offset of this block's own (adaLN-single of
    PixArt-α, Chen et al., 2023, arXiv:2310.00426). All residual branches begin at zero.
    """

    def __init__(self, width: int, text_width: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, width, num_heads)
        self.norm_text = nn.LayerNorm(width, eps=1e-6)
        self.cross_attn = Attention(width, text_width, num_heads)
        self.ff = FeedForward(width, int(width * ratio))
        self.offset = nn.Parameter(torch.zeros(6, width))

    def forward(
        self,
        hidden_states: Tensor,
        modulation: Tensor,
        levels: LevelIndex,
        rope: tuple[Tensor, Tensor],
        segments: Segments,
        text: Tensor | KeysValues,
        text_segments: Segments,
    ) -> Tensor:
        """Tokens ``(n, d)`` to tokens; ``modulation (l, 6, d)`` has a row a distinct level; ``text (m, d_text)``, or
        its keys and values here."""
        table = modulation + self.offset
        shift, scale, gate, shift_ff, scale_ff, gate_ff = table.unbind(dim=1)  # each (l, d)
        x = modulate(hidden_states, shift, scale, levels)
        x = self.attn(x, x, segments, segments, rope)
        hidden_states = add_scaled(hidden_states, x, gate, levels)
        x = self.cross_attn(self.norm_text(hidden_states), text, segments, text_segments, None)
        hidden_states = hidden_states + x
        x = self.ff(modulate(hidden_states, shift_ff, scale_ff, levels))
        return add_scaled(hidden_states, x, gate_ff, levels)
