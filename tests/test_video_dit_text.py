"""Prompts to packed embeddings, by the byte-level T5 and by encoders of others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_engine import launch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from video_dit.text import (
    MAX_GROUPS,
    MIN_GROUP,
    TextConfig,
    byte_t5,
    encode_prompts,
    encode_tokens,
    load_text_encoder,
    pack_embeds,
    pad_embeds,
    text_fingerprint,
    tokenize,
)

SMALL = TextConfig(max_length=24, width=16, num_layers=2, num_heads=2, hidden=32)
PROMPTS = ["a red ball", "", "étoile ★", "a long text " * 9, "b"]


@pytest.fixture
def small() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = byte_t5(SMALL)
    return tokenizer, encoder.eval()


SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


def save_t5(folder: Path) -> str:
    """A tiny T5 that reads bytes, so that it needs no vocabulary file."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_umt5(folder: Path) -> str:
    """A tiny umT5 whose words are letters."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    words = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    UMT5EncoderModel(UMT5Config(vocab_size=len(pieces), **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_clip(folder: Path) -> str:
    """A tiny CLIP text encoder of 12 places whose words are letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def test_packed_equals_one_by_one(small: tuple[PreTrainedTokenizerBase, PreTrainedModel]) -> None:
    packed, segments = encode_prompts(*small, PROMPTS)
    assert segments.count == len(PROMPTS)
    alone = [encode_prompts(*small, [prompt])[0] for prompt in PROMPTS]
    assert segments.cu_seqlens.diff().tolist() == [len(part) for part in alone]
    assert float((packed - torch.cat(alone)).abs().max()) <= 1e-5
    assert packed.shape[1] == SMALL.width


@torch.no_grad()
def test_lengths_are_bytes_and_the_end(small: tuple[PreTrainedTokenizerBase, PreTrainedModel]) -> None:
    lengths = encode_prompts(*small, PROMPTS)[1].cu_seqlens.diff().tolist()
    expected = [min(SMALL.max_length, len(prompt.encode()) + 1) for prompt in PROMPTS]
    assert lengths == expected
    assert lengths[1] == 1  # the empty prompt is the end alone


@torch.no_grad()
def test_long_prompts_are_cut(small: tuple[PreTrainedTokenizerBase, PreTrainedModel]) -> None:
    head = "x" * (SMALL.max_length - 1)
    a, b = (encode_prompts(*small, [head + tail])[0] for tail in ("yyy", "zzz"))
    assert len(a) == SMALL.max_length
    assert torch.equal(a, b)
    shorter = encode_prompts(*small, [head[:-1] + "y"])[0]
    assert not torch.equal(a, shorter)


def test_the_byte_t5_is_trained_and_gradients_reach_it() -> None:
    tokenizer, encoder = load_text_encoder(SMALL)
    assert all(p.requires_grad for p in encoder.parameters())
    assert encoder.config.hidden_size == SMALL.width
    encode_prompts(tokenizer, encoder, PROMPTS)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("save", "longest"), [(save_t5, 20), (save_umt5, 20), (save_clip, 12)])
def test_encoders_of_others_are_loaded_frozen(save: Callable[[Path], str], longest: int, tmp_path: Path) -> None:
    tokenizer, encoder = load_text_encoder(TextConfig(encoder=save(tmp_path), max_length=20))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.training
    prompts = ["red ball", "", "green cube " * 10]
    packed, segments = encode_prompts(tokenizer, encoder, prompts)
    lengths = segments.cu_seqlens.diff().tolist()
    assert min(lengths) >= 1
    assert lengths[2] == longest  # the CLIP has no more places than that
    alone = torch.cat([encode_prompts(tokenizer, encoder, [prompt])[0] for prompt in prompts])
    assert float((packed - alone).abs().max()) <= 1e-5
    assert packed.shape == (sum(lengths), encoder.config.hidden_size)
    assert packed.isfinite().all()


def test_what_is_no_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "bert").mkdir()
    BertConfig().save_pretrained(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    for name, rule in (
        ("bert", "is a bert: use one of t5, umt5, clip"),
        ("empty", "is no hub name or folder of an encoder"),
        ("none", "is no hub name or folder of an encoder"),
    ):
        with pytest.raises(ValueError) as error:
            load_text_encoder(TextConfig(encoder=str(tmp_path / name)))
        message = str(error.value)
        assert f"text.encoder={tmp_path / name}" in message
        assert rule in message
        assert "\n" not in message


def test_the_encoder_of_a_model_folder_is_found(
    small: tuple[PreTrainedTokenizerBase, PreTrainedModel], tmp_path: Path
) -> None:
    tokenizer, encoder = small
    encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "model_index.json").write_text("{}")
    found = load_text_encoder(TextConfig(encoder=str(tmp_path), max_length=tokenizer.model_max_length))
    assert text_fingerprint(*found) == text_fingerprint(tokenizer, encoder)
    assert not any(p.requires_grad for p in found[1].parameters())


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    save_t5(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is no hub name or folder of an encoder") as error:
        load_text_encoder(TextConfig(encoder=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    save_t5(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("SelfAttention.k.weight"))
    save_file(
        {other: w for other, w in weights.items() if other != name}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"its weights lack {name}, 1 in all"):
        load_text_encoder(TextConfig(encoder=str(tmp_path)))


def test_a_tokenizer_that_is_missing_is_named(tmp_path: Path) -> None:
    save_umt5(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="is no hub name or folder of an encoder") as error:
        load_text_encoder(TextConfig(encoder=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_sizes_below_one_and_short_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text.max_length=7 must be at least 8"):
        TextConfig(max_length=7)
    with pytest.raises(ValueError, match=r"text.num_heads=0 must be at least 1"):
        TextConfig(num_heads=0)


@torch.no_grad()
def test_stored_embeddings_take_the_place_of_the_encoder(
    small: tuple[PreTrainedTokenizerBase, PreTrainedModel],
) -> None:
    whole, segments = encode_prompts(*small, PROMPTS)
    rows = list(whole.split(segments.cu_seqlens.diff().tolist()))
    stored = [row if number % 2 else None for number, row in enumerate(rows)]
    tokenizer, encoder = small
    some = tokenize(tokenizer, PROMPTS, stored)
    assert sorted(some.encoded) == sorted(len(row) for row, kept in zip(rows, stored, strict=True) if kept is None)
    assert torch.allclose(encode_tokens(encoder, some), whole, atol=1e-5)
    assert torch.equal(some.segments.cu_seqlens, segments.cu_seqlens)
    every = tokenize(tokenizer, ["anything"] * len(PROMPTS), [row + 1 for row in rows])
    assert torch.equal(encode_tokens(encoder, every), whole + 1)


def test_fingerprints_tell_encoders_and_lengths_apart(small: tuple[PreTrainedTokenizerBase, PreTrainedModel]) -> None:
    tokenizer, encoder = small
    ours = text_fingerprint(tokenizer, encoder)
    assert text_fingerprint(tokenizer, encoder) == ours
    tokenizer.model_max_length += 1
    assert text_fingerprint(tokenizer, encoder) != ours
    tokenizer.model_max_length -= 1
    with torch.no_grad():
        next(encoder.parameters()).add_(0.1)
    assert text_fingerprint(tokenizer, encoder) != ours


@torch.no_grad()
def test_prompts_of_like_length_are_encoded_together(small: tuple[PreTrainedTokenizerBase, PreTrainedModel]) -> None:
    tokenizer, encoder = small
    prompts = ["ab" * (n % 11) for n in range(3 * MIN_GROUP)]
    tokens = tokenize(tokenizer, prompts, all_groups=False)
    longest = [ids.shape[1] for ids in tokens.ids]
    assert len(longest) == 3
    assert longest == sorted(longest)
    assert longest[0] < longest[-1]
    one_by_one = torch.cat([encode_tokens(encoder, tokenize(tokenizer, [prompt])) for prompt in prompts])
    assert torch.allclose(encode_tokens(encoder, tokens), one_by_one, atol=1e-5)
    assert len(tokenize(tokenizer, prompts * 10).ids) == MAX_GROUPS
    together = tokenize(tokenizer, prompts * 10, groups=1)
    assert len(together.ids) == 1
    assert torch.allclose(encode_tokens(encoder, together), one_by_one.repeat(10, 1), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, MIN_GROUP + 1, 10 * MIN_GROUP])
def test_the_encoder_is_called_as_often_whatever_the_prompts(
    small: tuple[PreTrainedTokenizerBase, PreTrainedModel], count: int
) -> None:
    """Empty prompts in place of missing groups are not seen: neither in what is packed, nor in what is counted."""
    tokenizer, encoder = small
    prompts = ["ab" * (n % 11) for n in range(count)]
    filled, plain = tokenize(tokenizer, prompts), tokenize(tokenizer, prompts, all_groups=False)
    assert len(filled.ids) == len(filled.masks) == MAX_GROUPS
    assert filled.encoded == plain.encoded
    assert sorted(filled.encoded) == sorted(filled.segments.lengths)
    assert torch.equal(encode_tokens(encoder, filled), encode_tokens(encoder, plain))
    assert len(tokenize(tokenizer, prompts, [torch.zeros(3, 16)] * count).ids) == MAX_GROUPS


ON_RANKS = """
import torch
from torch import nn
from video_dit.engine import TrainConfig, initialize, process_group
from video_dit.layers import fast_dtype
from video_dit.text import TextConfig, byte_t5, encode_tokens, tokenize

CONFIG = TextConfig(max_length=24, width=16, num_layers=2, num_heads=2, hidden=32)


class Encoded(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens):
        return encode_tokens(self.encoder, tokens)


with process_group():
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    tokenizer, encoder = byte_t5(CONFIG)
    engine = initialize(Encoded(encoder), TrainConfig(zero_stage=3))
    for count, stored in ((10, False), (40, False), (10, True)):
        if rank == 1:
            count = 50 - count
        prompts = [f"{number} " * (number % 7) for number in range(count)]
        rows = [torch.ones(3, CONFIG.width)] * count if stored and rank else []
        tokens = tokenize(tokenizer, prompts, rows)
        embeds = engine(tokens.to(engine.device))
        assert len(embeds) == sum(tokens.segments.lengths)
        engine.backward(embeds.float().square().mean())
        engine.step()
    torch.distributed.barrier()
"""


@pytest.mark.slow
def test_ranks_of_stage_3_may_have_prompts_of_other_numbers(tmp_path: Path) -> None:
    """They gather weights together, so that one that calls the encoder once more waits for ever: 10 prompts against
    40, and prompts against stored embeddings alone."""
    launch(ON_RANKS, tmp_path, 2)


@torch.no_grad()
def test_embeddings_are_padded_and_packed_again(small: tuple[PreTrainedTokenizerBase, PreTrainedModel]) -> None:
    embeds, segments = encode_prompts(*small, PROMPTS)
    padded, mask = pad_embeds(embeds, segments)
    assert padded.shape[:2] == mask.shape == (len(PROMPTS), segments.max_length)
    assert mask.sum(dim=1).tolist() == segments.lengths
    again, same = pack_embeds(padded, mask)
    assert torch.equal(again, embeds)
    assert same.lengths == segments.lengths
    twice, pairs = pack_embeds(padded, mask, copies=2)
    assert pairs.lengths == [length for length in segments.lengths for _ in range(2)]
    first, second = twice.split([segments.lengths[0]] * 2 + [len(twice) - 2 * segments.lengths[0]])[:2]
    assert torch.equal(first, second)
    assert pack_embeds(padded, None)[1].lengths == [segments.max_length] * len(PROMPTS)
    with pytest.raises(ValueError, match=r"must be \(b, m, d_text\) and \(b, m\)"):
        pack_embeds(padded, mask[:, 1:])
