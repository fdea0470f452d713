"""What our transformer computes, counted from its sizes and the lengths of the samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEVEL_FREQUENCIES = 256


@dataclass(frozen=True)
class Flops:
    """A multiplication and an addition are two. linear: of all linear layers. attention: of the two products of all
    attention. inputs: the part of ``linear`` whose input needs no gradient."""

    linear: int
    attention: int
    inputs: int

    @property
    def total(self) -> int:
        """Of a forward pass."""
        return self.linear + self.attention

    @property
    def training(self) -> int:
        """Of forward and backward: a product more for the gradient of each factor; nothing is computed twice."""
        return 3 * self.total - self.inputs


def forward_flops(config: Mapping[str, Any], tokens: Sequence[int], texts: Sequence[int], levels: int) -> Flops:
    """Of a forward pass over a pack.

    Args:
        config: that of a `video_dit.model.VideoDiT`.
        tokens, texts: of each sample; padding, where there is some, counts where it is given as a sample.
        levels: distinct ones.
    """
    assert len(tokens) == len(texts)
    d, layers, text_dim = config["hidden_size"], config["num_layers"], config["text_dim"]
    hidden, patch = int(d * config["ratio"]), config["in_channels"] * config["patch_size"] ** 2
    n, m = sum(tokens), sum(texts)
    self_attention, cross_attention = 4 * n * d * d, 2 * n * d * d + 2 * m * text_dim * d
    blocks = layers * (self_attention + cross_attention + 2 * n * d * hidden)
    table = levels * (LEVEL_FREQUENCIES * d + d * d + 6 * d * d + 2 * d * d)
    looked_at = sum(a * (a + b) for a, b in zip(tokens, texts, strict=True))
    return Flops(
        linear=2 * (2 * n * patch * d + blocks + table),
        attention=4 * layers * d * looked_at,
        inputs=2 * (n * patch * d + levels * LEVEL_FREQUENCIES * d),
    )
