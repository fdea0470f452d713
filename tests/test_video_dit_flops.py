"""FLOPs counted from sizes against those that PyTorch counts while a pack is run."""

from typing import Any

import pytest
import torch
from product_counter import product_counter
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedModel

from video_dit import VideoDiT
from video_dit.batch import Pack
from video_dit.engine import TrainConfig
from video_dit.flops import PackFlops, TextSize, peak_tflops, transformer_flops
from video_dit.text import TextConfig, byte_t5, tokenize
from video_dit.tokens import Segments

LENGTHS, TEXTS, LEVELS = [16, 16, 80, 144], [9, 9, 31, 24], 32


def counted(model: VideoDiT, text_grad: bool = True) -> int:
    """Forward and backward, as run on the CPU; attention, which is one operator to the counter, as plain products."""
    n, m = sum(LENGTHS), sum(TEXTS)
    with product_counter() as counter:
        output = model(
            torch.randn(n, 16),
            torch.rand(LEVELS),
            torch.zeros(n, dtype=torch.long),
            torch.randn(n, 3),
            torch.zeros(n, dtype=torch.bool),
            Segments.from_lengths(LENGTHS),
            torch.randn(m, 16, requires_grad=text_grad),
            Segments.from_lengths(TEXTS),
        )
        output.sum().backward()
    heads, head_dim = model.config.num_heads, model.config.hidden_size // model.config.num_heads
    with FlopCounterMode(display=False) as attention:
        for length, text in zip(LENGTHS, TEXTS, strict=True):
            for source in (length, text):
                q, k, v = (torch.randn(heads, n, head_dim, requires_grad=True) for n in (length, source, source))
                ((q @ k.mT).softmax(dim=-1) @ v).sum().backward()
    return int(counter.get_total_flops() + model.config.num_layers * attention.get_total_flops())


def wider(tiny_dit: VideoDiT, **sizes: Any) -> VideoDiT:
    with torch.random.fork_rng(devices=[]):
        return VideoDiT.from_config({**tiny_dit.config, **sizes})


@pytest.mark.parametrize("sizes", [{}, {"num_layers": 5, "hidden_size": 64, "ratio": 2.5}])
def test_a_transformer_computes_what_its_sizes_say(tiny_dit: VideoDiT, sizes: dict) -> None:
    model = wider(tiny_dit, **sizes)
    assert transformer_flops(model.config, LENGTHS, TEXTS, LEVELS) == pytest.approx(counted(model), rel=0.002)


def test_frozen_weights_have_no_gradients(tiny_dit: VideoDiT) -> None:
    """As far as the gradient goes back: here to a vector that is added to the tokens, and to the text."""
    model = wider(tiny_dit, num_layers=6).requires_grad_(False)
    model.one_frame_embed.requires_grad_(True)
    model.level_embed.up.bias.requires_grad_(True)
    expected = transformer_flops(model.config, LENGTHS, TEXTS, LEVELS, trained=False)
    assert expected == pytest.approx(counted(model), rel=0.002)
    assert expected < 0.8 * transformer_flops(model.config, LENGTHS, TEXTS, LEVELS)


def encoders() -> list[PreTrainedModel]:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    clip = CLIPTextConfig(vocab_size=50, num_attention_heads=2, max_position_embeddings=64, **sizes)
    found = [byte_t5(TextConfig(width=32, num_layers=3, num_heads=2, hidden=64))[1], CLIPTextModel(clip)]
    for encoder in found:
        encoder.set_attn_implementation("eager")  # the counter knows no fused kernel of a CPU
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["byte_t5", "clip"])
@pytest.mark.parametrize("trained", [True, False])
def test_a_text_encoder_computes_what_its_weights_say(number: int, trained: bool) -> None:
    encoder = encoders()[number].requires_grad_(trained)
    with FlopCounterMode(display=False) as counter:
        states = encoder(input_ids=torch.zeros(3, 20, dtype=torch.long)).last_hidden_state
        if trained:
            states.sum().backward()
    # the first layer's input, an embedding, has a gradient as well
    assert TextSize.of(encoder).flops([20] * 3) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("stored", [False, True])
def test_a_pack_is_its_samples_and_the_prompts_that_are_encoded(tiny_dit: VideoDiT, stored: bool) -> None:
    tokenizer, encoder = byte_t5(TextConfig(width=16, num_layers=1, num_heads=2, hidden=32))
    n, texts = sum(LENGTHS), ["a" * (length - 1) for length in TEXTS]
    pack = Pack(
        *(torch.zeros(n, 16), torch.zeros(n, 16), torch.zeros(LEVELS), torch.zeros(n, dtype=torch.long)),
        *(torch.zeros(n, 3), torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)),
        weight=torch.ones(n),
        segments=Segments.from_lengths(LENGTHS),
        prompts=tokenize(tokenizer, texts, [torch.zeros(length, 16) for length in TEXTS] if stored else []),
        clips=(0, 1, 2, 3),
        loss_elements=16 * n,
    )
    count = PackFlops(tiny_dit, encoder)
    assert count.of_transformer(pack) == transformer_flops(tiny_dit.config, LENGTHS, TEXTS, LEVELS)
    assert count.of_text(pack) == (0 if stored else TextSize.of(encoder).flops(TEXTS))
    assert count(pack) == count.of_transformer(pack) + count.of_text(pack)
    lower = PackFlops(wider(tiny_dit).requires_grad_(False), encoder)
    assert lower.of_transformer(pack) == transformer_flops(tiny_dit.config, LENGTHS, TEXTS, LEVELS, trained=False)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_peak_is_a_number(value: float) -> None:
    with pytest.raises(ValueError, match=rf"train\.peak_tflops={value} must be 0 or more"):
        TrainConfig(peak_tflops=value)


def test_a_peak_is_that_of_the_settings_or_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_tflops(torch.device("cpu"), 0) == 0
    assert peak_tflops(torch.device("cpu"), 1.5) == 1.5
    cuda = torch.device("cuda", 0)
    for name, peak in (("NVIDIA H100 80GB HBM3", 790), ("NVIDIA H200", 790), ("NVIDIA A100-SXM4-80GB", 312), ("X", 0)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(cuda, 0) == peak
        assert peak_tflops(cuda, 500) == 500
