"""FLOPs, activations and memory of a rank as foretold, against what a step on the CPU and DeepSpeed then take."""

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from product_counter import product_counter
from tiny_engine import STAGES
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import CLIPTextConfig, CLIPTextModel

from data.dataset import WorldClips
from data.packing import LatentShape, PackPlan
from video_dit import VideoDiT
from video_dit.ema import EMA
from video_dit.engine import TrainConfig, initialize
from video_dit.footprint import RankMemory, footprint_lines, measure_pack, rank_memory
from video_dit.layers import fast_dtype
from video_dit.text import TextConfig, byte_t5, encode_prompts
from video_dit.tokens import Segments

SAMPLES = [(16, 9), (16, 31), (32, 1), (80, 30), (80, 20), (144, 24), (144, 24), (160, 12)]


@pytest.fixture
def deep_dit(tiny_dit: VideoDiT) -> VideoDiT:
    """Five blocks, so that those beyond the second count."""
    config = {**tiny_dit.config, "num_layers": 5}
    with torch.random.fork_rng(devices=[]):
        return VideoDiT.from_config(config)


def of_a_step(transformer: VideoDiT, samples: list[tuple[int, int]]) -> tuple[int, int]:
    """FLOPs and bytes kept for backward of a pack that is run on the CPU, with a byte-level text encoder."""
    tokenizer, encoder = byte_t5(TextConfig(max_length=32, width=16, num_layers=1, num_heads=2, hidden=32))
    weights = {p.untyped_storage().data_ptr() for m in (transformer, encoder) for p in m.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    lengths = [tokens for tokens, _ in samples]
    n = sum(lengths)
    level_index = torch.arange(len(samples)).repeat_interleave(torch.tensor(lengths))
    with product_counter() as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            text, text_segments = encode_prompts(tokenizer, encoder, ["a" * (length - 1) for _, length in samples])
            prediction = transformer(
                torch.randn(n, 16),
                torch.rand(2 * len(samples)),
                level_index,
                torch.randn(n, 3),
                torch.zeros(n, dtype=torch.bool),
                Segments.from_lengths(lengths),
                text,
                text_segments,
            )
            loss = ((prediction.float() - torch.randn(n, 16)).square() * torch.ones(n, 1, dtype=torch.bool)).sum()
        loss.backward()
    bytes_kept = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    width, layers = transformer.config.hidden_size, transformer.config.num_layers
    attention = 12 * width * layers * sum(n * (n + text) for n, text in samples)  # one operator, which is not counted
    return counter.get_total_flops() + attention, bytes_kept


@pytest.mark.parametrize("samples", [SAMPLES, [(16, 1 + 7 * number % 32) for number in range(40)]], ids=["8", "40"])
def test_a_pack_is_measured_as_a_step_takes_it(deep_dit: VideoDiT, samples: list[tuple[int, int]]) -> None:
    """40 prompts are encoded in groups of like length."""
    _, encoder = byte_t5(TextConfig(max_length=32, width=16, num_layers=1, num_heads=2, hidden=32))
    measured = measure_pack(deep_dit, encoder, samples, torch.float32)
    flops, kept = of_a_step(deep_dit, samples)
    assert measured.flops == pytest.approx(flops, rel=0.01)
    assert measured.activations == pytest.approx(kept, rel=0.01)
    assert all(p.grad is None for p in encoder.parameters())
    assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()


def test_scores_of_attention_are_not_kept(deep_dit: VideoDiT) -> None:
    _, encoder = byte_t5(TextConfig(max_length=32, width=16, num_layers=1, num_heads=2, hidden=32))
    short, long = (measure_pack(deep_dit, encoder, [(n, 8)] * 2, torch.bfloat16) for n in (64, 256))
    assert long.activations == pytest.approx(4 * short.activations, rel=0.1)
    assert long.flops > 4 * short.flops
    wide = measure_pack(deep_dit, encoder, [(64, 8)] * 2, torch.float32)
    assert wide.flops == short.flops
    assert 1.5 < wide.activations / short.activations <= 2


def test_checkpointing_keeps_the_inputs_of_blocks(deep_dit: VideoDiT) -> None:
    _, encoder = byte_t5(TextConfig(max_length=32, width=16, num_layers=1, num_heads=2, hidden=32))
    whole, cut = (measure_pack(deep_dit, encoder, SAMPLES, torch.float32, each) for each in (False, True))
    assert cut.flops == whole.flops
    assert cut.activations < 0.45 * whole.activations
    inputs: dict[int, int] = {}
    deep_dit.enable_gradient_checkpointing()
    for number, block in enumerate(deep_dit.blocks):
        block.register_forward_pre_hook(lambda _, given, number=number: inputs.update({number: given[0].nbytes}))
    of_a_step(deep_dit, SAMPLES)
    single = VideoDiT.from_config({**deep_dit.config, "num_layers": 1})
    of_one = measure_pack(single, encoder, SAMPLES, torch.float32).activations
    assert cut.activations == of_one + sum(inputs.values()) - inputs[0]


def test_a_frozen_encoder_keeps_nothing(deep_dit: VideoDiT) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    clip = CLIPTextModel(CLIPTextConfig(vocab_size=50, num_attention_heads=2, max_position_embeddings=64, **sizes))
    trained, frozen = (
        measure_pack(deep_dit, clip.requires_grad_(trains), SAMPLES, torch.float32) for trains in (True, False)
    )
    assert frozen.activations < trained.activations
    assert frozen.flops < trained.flops


def held() -> dict[int, Tensor]:
    """A tensor of each storage on the CPU, by its address."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, Tensor) and thing.device.type == "cpu"]
    return {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}


@pytest.fixture
def before(one_rank: None) -> dict[int, Tensor]:
    """What this process holds before there is an engine, and holds on to, so that no address is used again."""
    return held()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.filterwarnings("ignore")  # of other tests' tensors, as all that there is is looked at
def test_memory_of_one_rank_is_what_deepspeed_holds(before: dict[int, Tensor], stage: int, optimizer: str) -> None:
    module = nn.Sequential(nn.Embedding(600, 100), nn.Linear(100, 500), nn.Linear(500, 500, bias=False))
    module[1].weight.requires_grad_(False)
    config = TrainConfig(zero_stage=stage, optimizer=optimizer)
    dtype = fast_dtype(torch.device("cpu"))
    foretold = rank_memory(module, config, stage, 1, dtype)
    engine = initialize(module, config)
    ema = EMA(engine, config.ema_decay)
    for step in range(2):  # there is no moment before the first
        loss = engine(torch.arange(4)).float().square().mean()
        engine.backward(loss)
        if step == 0:
            engine.step()
            ema.update(engine, step)
    total = sum(tensor.untyped_storage().nbytes() for key, tensor in held().items() if key not in before)
    expected = foretold.weights + foretold.gradients + foretold.optimizer + foretold.average
    bucket = foretold.bucket if stage == 3 else 0  # the others make it while they reduce
    assert total == pytest.approx(expected + bucket, rel=0.02)
    assert sum(part.numel() * 4 for _, part in ema.slices.values()) == foretold.average


def test_ranks_share_what_a_stage_cuts_up(tiny_dit: VideoDiT) -> None:
    """The figures of eight ranks by those of one, in bf16; bytes a parameter, as the ZeRO paper has them."""
    n = sum(p.numel() for p in tiny_dit.parameters())
    config = TrainConfig()
    shared = {1: (2, 2), 2: (2, 2 / 8), 3: (2 + 2 / 8, 2 / 8)}
    for stage, (weights, gradients) in shared.items():
        found = rank_memory(tiny_dit, config, stage, 8, torch.bfloat16)
        expected = RankMemory(
            *(round(n * each) for each in (weights, gradients, 12 / 8, 4 / 8)), (4 if stage == 3 else 2) * n
        )
        for name, value in vars(expected).items():
            assert getattr(found, name) == pytest.approx(value, rel=1e-3), (stage, name)
    muon = rank_memory(tiny_dit, replace(config, optimizer="muon"), 2, 8, torch.bfloat16)
    assert muon.optimizer < rank_memory(tiny_dit, config, 2, 8, torch.bfloat16).optimizer


def test_the_report_has_the_parameters_and_marks_the_stage(tiny_dit: VideoDiT) -> None:
    tokenizer, encoder = byte_t5(TextConfig(max_length=32, width=16, num_layers=1, num_heads=2, hidden=32))
    source = WorldClips("train", 4, 9, [[32, 32]], [8.0])
    plan = PackPlan([LatentShape(3, 4)] * 4, 3, 48, 0.0, 0, packs_per_step=2)
    config = TrainConfig(zero_stage=2)
    report = footprint_lines(config, tiny_dit, tokenizer, encoder.requires_grad_(False), source, plan, 2)
    ours, texts = (sum(p.numel() for p in m.parameters()) for m in (tiny_dit, encoder))
    assert report[0] == (
        f"parameters: {ours:,} of the transformer, {texts:,} of the text encoder; {ours:,} trained, {texts:,} frozen"
    )
    assert "2 ranks, adamw" in "\n".join(report)
    rows = report[-3:]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert [row.endswith("<- train.zero_stage") for row in rows] == [False, True, False]
    alone = footprint_lines(TrainConfig(zero_stage=0), tiny_dit, tokenizer, encoder, source, plan, 1)[-4:]
    assert [row.split()[0] for row in alone] == ["0", "1", "2", "3"]
    assert [row.endswith("<- train.zero_stage") for row in alone] == [True, False, False, False]
