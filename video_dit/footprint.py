"""What a training step computes, and what a rank holds for it, told before anything is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean

import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.dataset import ClipSource
from data.packing import PackPlan, cost
from video_dit.attention import attention_flops
from video_dit.engine import TrainConfig, muon_optimizer, reduce_bucket_size
from video_dit.layers import fast_dtype
from video_dit.lora import copy_adapter
from video_dit.model import VideoDiT
from video_dit.preflight import count, first_epoch
from video_dit.text import MAX_GROUPS, alike, text_groups
from video_dit.tokens import Segments

FP32 = 4  # bytes


@dataclass(frozen=True)
class PackCost:
    """Of a pack, forward and backward. flops: a multiplication and an addition are two; nothing is computed twice.
    activations: bytes kept for the way back."""

    flops: int
    activations: int


def measure_pack(
    transformer: VideoDiT,
    text_encoder: PreTrainedModel,
    samples: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    checkpointing: bool = False,
    groups: int = MAX_GROUPS,
) -> PackCost:
    """Run forward and backward on the meta device, where tensors have no memory, and count.

    All blocks are alike: transformers of one and of two are run, and the difference counts for each further one.

    Args:
        samples: tokens, and tokens of the prompt, of each sample of the pack.
        dtype: of weights and activations. checkpointing: of each block its input is kept, and all of one at a time.
        groups: of prompts that are encoded together, at most.
    """
    one, two = (_run(transformer, text_encoder, samples, dtype, layers, groups) for layers in (1, 2))
    further = transformer.config.num_layers - 1
    flops, kept = (a + further * (b - a) for a, b in zip(one, two, strict=True))
    if checkpointing:
        inputs = sum(tokens for tokens, _ in samples) * transformer.config.hidden_size * dtype.itemsize
        kept = one[1] + further * inputs
    return PackCost(flops, kept)


def _run(
    transformer: VideoDiT,
    text_encoder: PreTrainedModel,
    samples: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    layers: int,
    groups: int,
) -> tuple[int, int]:
    """FLOPs, and bytes kept for the way back: of all storages that are not weights."""
    seen: dict[int, Tensor] = {}  # by storage; as long as a tensor is held no other storage has its address

    def keep(tensor: Tensor) -> Tensor:
        seen.setdefault(_storage(tensor), tensor)
        return tensor

    segments, texts = (Segments.from_lengths(lengths, "meta") for lengths in zip(*samples, strict=True))
    with torch.device("meta"), _attention_in_its_own_type(), FlopCounterMode(display=False) as counter:
        shallow = VideoDiT.from_config({**transformer.config, "num_layers": layers})
        copy_adapter(transformer, shallow)
        weights, weights_of_text = _weights(shallow, dtype), _weights(text_encoder, dtype)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            states = []
            for group in alike(texts.lengths, groups):  # as `video_dit.text.tokenize` puts them together
                ids = torch.zeros(len(group), max(texts.lengths[place] for place in group), dtype=torch.long)
                output = functional_call(text_encoder, weights_of_text, (), {"input_ids": ids})
                states.append(output.last_hidden_state.flatten(0, 1))  # (s m) d
            text = torch.cat(states).index_select(0, torch.empty(sum(texts.lengths), dtype=torch.long))  # m d
            loss = _loss(shallow, weights, segments, text, texts)
        loss.backward()
    of_weights = {_storage(tensor) for tensor in (*weights.values(), *weights_of_text.values())}
    kept = sum(tensor.untyped_storage().nbytes() for key, tensor in seen.items() if key not in of_weights)
    width = transformer.config.hidden_size
    attention = attention_flops(segments, segments, width) + attention_flops(segments, texts, width)  # in one operator
    return counter.get_total_flops() + 3 * layers * attention, kept


@contextmanager
def _attention_in_its_own_type() -> Iterator[None]:
    """Attention of the text encoder on the meta device is PyTorch's plain kernel, which would copy what is in 16 bits
    to fp32."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _weights(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """New tensors in place of the module's parameters and buffers."""
    tensors = {name: torch.empty(buffer.shape, dtype=buffer.dtype) for name, buffer in module.named_buffers()}
    for name, p in module.named_parameters():
        tensors[name] = torch.empty(p.shape, dtype=dtype, requires_grad=p.requires_grad)
    return tensors


def _loss(
    transformer: VideoDiT, weights: dict[str, Tensor], segments: Segments, text: Tensor, texts: Segments
) -> Tensor:
    """Of samples with two noise levels each; ``text (m, d)``."""
    n = sum(segments.lengths)
    prediction = functional_call(
        transformer,
        weights,
        (
            torch.empty(n, transformer.config.in_channels * transformer.config.patch_size**2),
            torch.empty(2 * segments.count),
            torch.empty(n, dtype=torch.long),
            torch.empty(n, 3),
            torch.empty(n, dtype=torch.bool),
            segments,
            text,
            texts,
        ),
    )
    made = torch.empty(n, dtype=torch.bool)
    return ((prediction.float() - torch.empty_like(prediction)).square() * made[:, None]).sum()


@dataclass(frozen=True)
class RankMemory:
    """Bytes that a rank holds in the backward pass, but for activations.

    weights: as the model computes with them. gradients: at the end of the pass. optimizer: fp32 master weights, Adam's
    moments or Muon's momentum. average: the rank's slices of `video_dit.ema.EMA`. bucket: in which DeepSpeed collects
    gradients to reduce them.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    bucket: int


def rank_memory(module: nn.Module, config: TrainConfig, stage: int, ranks: int, dtype: torch.dtype) -> RankMemory:
    """What a rank of so many holds with ZeRO ``stage``, as DeepSpeed 0.19 was seen to; in stage 0 the one rank alone.

    In stage 0 weights in fp32 are their own masters. Stage 3 cuts the weights up, but on several ranks keeps up to 10⁹
    of them whole between forward and backward. Muon in stages 1 and 2 holds its momentum twice, in the weights' own
    type, and its updates beside their gradients.
    """
    every = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    by_muon = _muon_parameters(module, config)
    settings = DeepSpeedZeroConfig(stage=stage)
    size, part = dtype.itemsize, -(-trained // ranks)
    weights, gradients, momentum = size * every, size * (trained if stage < 2 else part), FP32 * by_muon // ranks
    if stage == 3:
        whole = min(every, settings.max_live_parameters) if ranks > 1 else 0
        weights = size * (-(-every // ranks) + whole)
    elif by_muon and stage > 0:
        gradients += size * by_muon // ranks
        momentum = 2 * size * by_muon // ranks
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=(FP32 * part if stage or size < FP32 else 0) + 2 * FP32 * (trained - by_muon) // ranks + momentum,
        average=FP32 * part,
        bucket=(FP32 if stage == 3 else size) * reduce_bucket_size(module) if stage else 0,
    )


def _muon_parameters(module: nn.Module, config: TrainConfig) -> int:
    if config.optimizer != "muon":
        return 0
    groups = muon_optimizer(module, config).param_groups
    return sum(p.numel() for group in groups if group["use_muon"] for p in group["params"])


def footprint_lines(
    config: TrainConfig,
    transformer: VideoDiT,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    source: ClipSource,
    plan: PackPlan,
    ranks: int,
) -> list[str]:
    """Parameters; tokens and FLOPs a step; memory of a rank for each ZeRO stage. Sums are for the device at hand."""
    module = nn.ModuleList([transformer, text_encoder])
    cuda = torch.cuda.is_available()
    dtype = fast_dtype(torch.device("cuda" if cuda else "cpu"))
    packs = first_epoch(plan)
    costs = [cost(pack, plan.attention_cost) for pack in packs]
    costliest = max(range(len(packs)), key=lambda number: costs[number])
    texts = [source.text(view.index, view.epoch) for view in packs[costliest]]
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
    tokens = [view.tokens for view in packs[costliest]]
    samples = list(zip(tokens, lengths, strict=True))
    groups = text_groups(config.zero_stage)
    measured = measure_pack(transformer, text_encoder, samples, dtype, config.checkpointing, groups)
    flops = measured.flops * mean(costs) / max(costs) * plan.packs_per_step
    step_tokens = mean(sum(view.tokens for view in pack) for pack in packs) * plan.packs_per_step
    activations = measured.activations // config.sequence_parallel
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters()) - trained
    lines = [
        f"parameters: {transformer.num_parameters():,} of the transformer, {text_encoder.num_parameters():,} of the "
        f"text encoder; {trained:,} trained, {frozen:,} frozen",
        f"a step: {step_tokens:,.0f} tokens and {flops / 1e12:,.3g} TFLOP on average, forward and backward",
        f"activations: {_bytes(activations)} kept for backward by a rank for the costliest pack",
        "  (both of the costliest pack as run on the meta device; FLOPs of the others in proportion to their cost)",
        f"memory of a rank on {count(ranks, 'rank')}, {config.optimizer}, {str(dtype).removeprefix('torch.')}"
        f"{', optimizer and average on the host' if config.offload_optimizer else ''}:",
        f"  {'ZeRO':6}" + "".join(f"{name:>13}" for name in (*RankMemory.__annotations__, "activations", "sum")),
    ]
    for stage in (0, 1, 2, 3) if ranks == 1 else (1, 2, 3):
        held = rank_memory(module, config, stage, ranks, dtype)
        row = [held.weights, held.gradients, held.optimizer, held.average, held.bucket, activations]
        on_host = held.optimizer + held.average if config.offload_optimizer and cuda else 0
        cells = "".join(f"{_bytes(number):>13}" for number in (*row, sum(row) - on_host))
        lines.append(f"  {stage:<6}{cells}{'  <- train.zero_stage' if stage == config.zero_stage else ''}")
    return lines


def _bytes(number: int) -> str:
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
