"""Prompts to embeddings: any `transformers` encoder, packed without padding; and the small byte-level T5."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
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

MIN_GROUP, MAX_GROUPS = 16, 4  # of prompts of like length that are encoded together


@dataclass(frozen=True)
class TextConfig:
    """The text encoder.

    encoder: hub name or folder of a frozen `transformers` encoder (T5, umT5, CLIP), such as tools/train_text.py
    writes, or a model folder that has one; empty trains a byte-level T5 with the transformer. max_length: tokens of a
    prompt, of which the rest is cut off (CLIP reads 77). width, num_layers, num_heads, hidden: of the byte-level T5.

    Raises:
        ValueError: ``max_length`` is below 8, or a size below 1.
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
        for name in ("width", "num_layers", "num_heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"text.{name}={getattr(self, name)} must be at least 1")


def byte_t5(config: TextConfig) -> tuple[ByT5Tokenizer, T5EncoderModel]:
    """A T5 encoder with random weights that reads UTF-8 bytes (ByT5, Xue et al., 2021, arXiv:2105.13626)."""
    tokenizer = ByT5Tokenizer(extra_ids=0, model_max_length=config.max_length)
    return tokenizer, t5_encoder(config, len(tokenizer))


def t5_encoder(config: TextConfig, vocab_size: int) -> T5EncoderModel:
    """A T5 encoder with random weights, of the sizes in the config."""
    settings = T5Config(
        vocab_size=vocab_size,
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
    return T5EncoderModel(settings)


def load_text_encoder(config: TextConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The tokenizer and encoder that the config names: a new byte-level T5, or a frozen encoder by hub name or path.

    Raises:
        ValueError: there is nothing under that name, or it is no T5, umT5 or CLIP.
    """
    if not config.encoder:
        return byte_t5(config)
    of_model = (Path(config.encoder) / "model_index.json").is_file()
    encoder_folder, tokenizer_folder = ("text_encoder", "tokenizer") if of_model else ("", "")
    try:
        kind = AutoConfig.from_pretrained(config.encoder, subfolder=encoder_folder).model_type
    except (OSError, ValueError) as error:
        raise ValueError(_no_encoder(config.encoder, error)) from None
    if kind not in ENCODERS:
        raise ValueError(f"text.encoder={config.encoder} is a {kind}: use one of {', '.join(ENCODERS)}")
    try:
        cls: Any = ENCODERS[kind]
        encoder, info = cls.from_pretrained(config.encoder, subfolder=encoder_folder, output_loading_info=True)
        if missing := sorted(info["missing_keys"]):  # they would be left random
            raise ValueError(f"its weights lack {missing[0]}, {len(missing)} in all")
        places = getattr(encoder.config, "max_position_embeddings", config.max_length)  # T5 has no bound
        longest = min(config.max_length, places)
        tokenizer = AutoTokenizer.from_pretrained(config.encoder, subfolder=tokenizer_folder, model_max_length=longest)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(_no_encoder(config.encoder, error)) from None
    return tokenizer, encoder.requires_grad_(False).eval()


def _no_encoder(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"text.encoder={name} is no hub name or folder of an encoder: {reason}"


@dataclass(frozen=True)
class PromptTokens:
    """Prompts as an encoder takes them, with how its outputs are put end to end.

    ids, masks: ``(s, longest)`` int64 of each group of prompts that are still to be encoded, padded. encoded: tokens
    of each of these prompts. stored: ``(rows, d_text)``, the embeddings of the others. places: ``(m,)`` int64, which
    row each packed token is of all outputs, followed by ``stored``. segments: one a prompt.
    """

    ids: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    encoded: tuple[int, ...]
    stored: Tensor | None
    places: Tensor
    segments: Segments

    def to(self, device: torch.device | str) -> "PromptTokens":
        """The same on another device, which is not waited for where this one is pinned."""
        return PromptTokens(
            tuple(ids.to(device, non_blocking=True) for ids in self.ids),
            tuple(mask.to(device, non_blocking=True) for mask in self.masks),
            self.encoded,
            None if self.stored is None else self.stored.to(device, non_blocking=True),
            self.places.to(device, non_blocking=True),
            self.segments.to(device),
        )

    def pin_memory(self) -> "PromptTokens":
        """The same in memory that a GPU reads by itself."""
        return replace(
            self,
            ids=tuple(ids.pin_memory() for ids in self.ids),
            masks=tuple(mask.pin_memory() for mask in self.masks),
            stored=None if self.stored is None else self.stored.pin_memory(),
            places=self.places.pin_memory(),
        )


def text_groups(zero_stage: int) -> int:
    """Groups of prompts that an encoder is called with: one where a small model has a GPU wait for the host, which
    takes longer over a call than the GPU over padding; else `MAX_GROUPS`."""
    return 1 if zero_stage == 0 and torch.cuda.is_available() else MAX_GROUPS


def alike(lengths: Sequence[int], groups: int = MAX_GROUPS) -> list[list[int]]:
    """At most so many groups of at least `MIN_GROUP` numbers of prompts, as far as there are; by length."""
    places = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = max(MIN_GROUP, -(-len(places) // groups))
    return [places[first : first + size] for first in range(0, len(places), size)]


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    stored: Sequence[Tensor | None] = (),
    groups: int = MAX_GROUPS,
    all_groups: bool = True,
) -> PromptTokens:
    """Prompts to tokens on the host; longer ones are cut at ``tokenizer.model_max_length``.

    Prompts of like length are a group, so that few are padded to the length of the longest. The empty prompt has at
    least its end token, so no segment is empty; its embedding is the null text.

    Args:
        stored: for each prompt its embedding ``(length, d_text)`` if it was made before; nothing for all to be made.
        groups: at most so many. all_groups: just as many, those without prompts of one empty prompt that is not
            used. In training all ranks must call the encoder equally often: ZeRO's stage 3 gathers weights in each
            call.
    """
    rows = list(stored) or [None] * len(prompts)
    todo = [n for n, row in enumerate(rows) if row is None]
    grouped = [[todo[place] for place in group] for group in alike([len(prompts[n]) for n in todo], groups)]
    if all_groups:
        grouped += [[]] * (groups - len(grouped))
    spans: dict[int, Tensor] = {}  # of each prompt, the rows of all outputs that are its own
    ids: list[Tensor] = []
    masks: list[Tensor] = []
    before = 0
    for group in grouped:
        texts = [prompts[n] for n in group] or [""]
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        ids.append(batch["input_ids"])
        masks.append(batch["attention_mask"])
        longest = ids[-1].shape[1]
        lengths = masks[-1].sum(dim=1).tolist()
        for place, (n, length) in enumerate(zip(group, lengths, strict=False)):  # of no prompt is its filler
            spans[n] = torch.arange(length) + before + place * longest
        before += ids[-1].numel()
    for n, row in enumerate(rows):
        if row is not None:
            spans[n] = torch.arange(len(row)) + before
            before += len(row)
    given = [row for row in rows if row is not None]
    in_order = [spans[n] for n in range(len(rows))]
    return PromptTokens(
        tuple(ids),
        tuple(masks),
        tuple(len(spans[n]) for group in grouped for n in group),
        torch.cat(given) if given else None,
        torch.cat(in_order),
        Segments.from_lengths([len(span) for span in in_order]),
    )


def encode_tokens(encoder: PreTrainedModel, tokens: PromptTokens) -> Tensor:
    """Embeddings ``(m, d_text)``, end to end, of the encoder's type."""
    outputs: list[Tensor] = []
    for ids, mask in zip(tokens.ids, tokens.masks, strict=True):
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        outputs.append(rearrange(states, "s longest d -> (s longest) d"))
    if tokens.stored is not None:
        outputs.append(tokens.stored.to(encoder.dtype))
    return torch.cat(outputs).index_select(0, tokens.places)  # m d


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, prompts: Sequence[str]
) -> tuple[Tensor, Segments]:
    """Embeddings ``(m, d_text)`` of prompts, end to end, and their segments, on the encoder's device."""
    tokens = tokenize(tokenizer, prompts, all_groups=False).to(encoder.device)
    return encode_tokens(encoder, tokens), tokens.segments


def text_fingerprint(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> str:
    """A hash of what embeddings depend on: the weights, and how long a prompt may be."""
    digest = hashlib.blake2b(f"{type(encoder).__name__} {tokenizer.model_max_length}".encode(), digest_size=8)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def pack_embeds(embeds: Tensor, mask: Tensor | None, copies: int = 1) -> tuple[Tensor, Segments]:
    """Padded embeddings ``(b, m, d_text)``, of which ``mask (b, m)`` bool tells what is text, end to end, ``copies`` of
    each.

    Raises:
        ValueError: the shapes do not fit, or one has no text at all.
    """
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    if embeds.ndim != 3 or mask.shape != embeds.shape[:2]:
        shapes = f"{tuple(embeds.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"prompt_embeds and their mask of {shapes} must be (b, m, d_text) and (b, m)")
    if not embeds.shape[0] or not bool(mask.bool().any(dim=1).all()):
        raise ValueError("prompt_embeds have no text for one of the videos: the mask must leave a token of each")
    embeds, mask = (one.repeat_interleave(copies, dim=0) for one in (embeds, mask.bool()))
    return embeds[mask], Segments.from_lengths(mask.sum(dim=1).tolist(), embeds.device)


def pad_embeds(embeds: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Inverse of `pack_embeds`: ``(b, m, d_text)`` and the mask ``(b, m)`` bool."""
    parts = embeds.split(segments.lengths)
    places = torch.arange(segments.max_length, device=embeds.device)
    mask = places < segments.cu_seqlens.diff()[:, None]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), mask
