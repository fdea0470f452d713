"""Floating-point operations of a training step, counted from sizes alone, and what a device can do in a second.

Model FLOPs: what the mathematics asks for, forward and backward; a multiplication and an addition are two. What is
computed again under activation checkpointing, padding, norms and other element-wise work do not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from video_dit.batch import Pack
from video_dit.model import VideoDiT

DENSE_BF16_TFLOPS = {"H100": 790.0, "H200": 790.0, "A100": 312.0}
"""By what the name of a device has in it. H100 and H200 as measured in large matrix products, A100 as published."""
LEVEL_FEATURES = 256  # sinusoids of a level, see `video_dit.layers.LevelEmbedding`


def transformer_flops(
    config: Mapping[str, Any],
    lengths: Sequence[int],
    text_lengths: Sequence[int],
    levels: int,
    trained: bool = True,
) -> int:
    """Of `VideoDiT`, forward and backward, over one pack.

    Args:
        config: the model's.
        lengths, text_lengths: tokens of each sample, and of its prompt.
        levels: rows of the table of noise levels.
        trained: whether its weights have gradients; with an adapter on frozen ones there are those of the activations
            alone. The adapter's own, thousandths of the rest, are left out.
    """
    d, text, patch = config["hidden_size"], config["text_dim"], config["in_channels"] * config["patch_size"] ** 2
    n, m = sum(lengths), sum(text_lengths)
    hidden = int(d * config["ratio"])
    first = n * patch * d + levels * LEVEL_FEATURES * d  # inputs that need no gradient
    of_levels = levels * (d * d + 8 * d * d)
    of_block = n * (6 * d * d + 2 * d * hidden) + 2 * m * text * d
    products = first * (2 if trained else 1)
    products += (of_levels + config["num_layers"] * of_block + n * d * patch) * (3 if trained else 2)
    pairs = sum(a * (a + b) for a, b in zip(lengths, text_lengths, strict=True))
    attention = 2 * pairs * d * config["num_layers"] * 3  # scores, and the sums of values
    return 2 * (products + attention)


@dataclass(frozen=True)
class TextSize:
    """What a text encoder computes. products: multiplications a token, of its matrices. attention: of its width and
    layers, for each pair of tokens. trained: whether there is a way back."""

    products: int
    attention: int
    trained: bool

    @classmethod
    def of(cls, encoder: PreTrainedModel) -> "TextSize":
        """Of an encoder whose weights are whole, as they are before ZeRO's stage 3 cuts them up."""
        parameters = list(encoder.parameters())
        embeddings = {id(module.weight) for module in encoder.modules() if isinstance(module, torch.nn.Embedding)}
        return cls(
            products=sum(p.numel() for p in parameters if p.ndim == 2 and id(p) not in embeddings),
            attention=2 * encoder.config.hidden_size * encoder.config.num_hidden_layers,
            trained=any(p.requires_grad for p in parameters),
        )

    def flops(self, lengths: Sequence[int]) -> int:
        """Over prompts of so many tokens: forward, and backward where it is trained."""
        pairs = sum(length * length for length in lengths)
        return 2 * (self.products * sum(lengths) + self.attention * pairs) * (3 if self.trained else 1)


class PackFlops:
    """Counts the FLOPs of packs, on the host; made before ZeRO's stage 3 cuts the weights up."""

    def __init__(self, transformer: VideoDiT, text_encoder: PreTrainedModel) -> None:
        self.config = transformer.config
        self.trained = all(p.requires_grad for p in transformer.parameters())
        self.text = TextSize.of(text_encoder)

    def __call__(self, pack: Pack) -> int:
        """Of a pack on the host, forward and backward."""
        return self.of_transformer(pack) + self.of_text(pack)

    def of_transformer(self, pack: Pack) -> int:
        """Of the transformer."""
        lengths, texts = pack.segments.lengths, pack.prompts.segments.lengths
        return transformer_flops(self.config, lengths, texts, len(pack.levels), self.trained)

    def of_text(self, pack: Pack) -> int:
        """Of the text encoder, over the prompts whose embeddings are not stored."""
        return self.text.flops(pack.prompts.encoded)


def peak_tflops(device: torch.device, setting: float) -> float:
    """Dense bf16 TFLOP/s that utilisation is measured against: ``setting``, or, where that is 0, what is known of the
    device; 0 where nothing is."""
    if setting or device.type != "cuda":
        return setting
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in DENSE_BF16_TFLOPS.items() if key in name), 0.0)
