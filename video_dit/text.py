"""Prompts to embeddings: any `transformers` encoder, packed without padding; and the small byte-level T5."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    ByT5Tokenizer,
    CLIPTextModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    UMT5EncoderModel,
)

from video_dit.tokens import Segments

ENCODERS: dict[str, type[PreTrainedModel]] = {
    "t5": T5EncoderModel,
    "umt5": UMT5EncoderModel,
    "clip": CLIPTextModel,
    "clip_text_model": CLIPTextModel,
}


@dataclass(frozen=True)
class TextConfig:
    """The text encoder.

    encoder: hub name or folder of a frozen `transformers` encoder (T5, umT5, CLIP); empty trains a byte-level T5
    with the transformer. max_length: tokens of a prompt, of which the rest is cut off (CLIP reads 77).
    width, num_layers, num_heads, hidden: of the byte-level T5.

    Raises:
        ValueError: ``max_length`` is below 8.
    """

    encoder: str = ""
    max_length: int = 256
    width: int = 192
    num_layers: int = 4
    num_heads: int = 4
    hidden: int = 512

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ValueError(f"text.max_length={self.max_length} must be at least 8")


def byte_t5(config: TextConfig) -> tuple[ByT5Tokenizer, T5EncoderModel]:
    """A T5 encoder with random weights that reads UTF-8 bytes (ByT5, Xue et al., 2021, arXiv:2105.13626)."""
    tokenizer = ByT5Tokenizer(extra_ids=0, model_max_length=config.max_length)
    settings = T5Config(
        vocab_size=len(tokenizer),
        d_model=config.width,
        d_kv=config.width // config.num_heads,
        d_ff=config.hidden,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return tokenizer, T5EncoderModel(settings)


def load_text_encoder(config: TextConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The tokenizer and encoder that the config names: a new byte-level T5, or a frozen encoder by hub name or path.

    Raises:
        ValueError: there is nothing under that name, or it is no T5, umT5 or CLIP.
    """
    if not config.encoder:
        return byte_t5(config)
    try:
        kind = AutoConfig.from_pretrained(config.encoder).model_type
    except (OSError, ValueError) as error:
        raise ValueError(_no_encoder(config.encoder, error)) from None
    if kind not in ENCODERS:
        raise ValueError(f"text.encoder={config.encoder} is a {kind}: use one of {', '.join(ENCODERS)}")
    try:
        encoder = ENCODERS[kind].from_pretrained(config.encoder)
        places = getattr(encoder.config, "max_position_embeddings", config.max_length)  # T5 has no bound
        longest = min(config.max_length, places)
        tokenizer = AutoTokenizer.from_pretrained(config.encoder, model_max_length=longest)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(_no_encoder(config.encoder, error)) from None
    return tokenizer, encoder.requires_grad_(False).eval()


def _no_encoder(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"text.encoder={name} is no hub name or folder of an encoder: {reason}"


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    prompts: Sequence[str],
    stored: Sequence[Tensor | None] = (),
) -> tuple[Tensor, Segments]:
    """Embeddings of prompts, end to end; longer ones are cut at ``tokenizer.model_max_length`` tokens.

    The empty prompt has at least its end token, so no segment is empty; its embedding is the null text.

    Args:
        stored: for each prompt its embedding ``(length, d_text)`` if it was made before; nothing for all to be made.
    Returns:
        ``(m, d_text)`` and the segments, one a prompt.
    """
    rows = list(stored) or [None] * len(prompts)
    places = [place for place, row in enumerate(rows) if row is None]
    if places:
        batch = tokenizer([prompts[place] for place in places], padding=True, truncation=True, return_tensors="pt")
        ids, mask = batch["input_ids"].to(encoder.device), batch["attention_mask"].to(encoder.device)
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # b length d
        for place, row, length in zip(places, states, batch["attention_mask"].sum(dim=1).tolist(), strict=True):
            rows[place] = row[:length]
    made = [row.to(encoder.device, encoder.dtype) for row in rows if row is not None]
    return torch.cat(made), Segments.from_lengths([len(row) for row in made], encoder.device)  # m d


def text_fingerprint(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> str:
    """A hash of what embeddings depend on: the weights, and how long a prompt may be."""
    digest = hashlib.blake2b(f"{type(encoder).__name__} {tokenizer.model_max_length}".encode(), digest_size=8)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
