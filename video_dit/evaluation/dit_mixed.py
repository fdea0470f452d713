"""What a training step of a config reaches on this machine: tokens a second and the share of the processor's peak.

The step is that of train.py: its engine over transformer and text encoder, its plan of packs and captions of
its clips. Latents are random numbers, so nothing is rendered, read or encoded, and packs are built and pinned before.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.dataset import ClipShape, ClipSource
from data.packing import PackPlan
from data.seeding import keyed_generator
from vae3d import LatentCodec
from video_dit.batch import Pack, build_pack
from video_dit.config import RunConfig, load_config
from video_dit.denoiser import Denoiser, build_denoiser
from video_dit.ema import EMA
from video_dit.engine import initialize, process_group, set_learning_rate
from video_dit.evaluation.speed import clock
from video_dit.flops import PackFlops
from video_dit.sources import pack_plan, training_clips
from video_dit.tally import StepTally
from video_dit.text import text_groups

CAPTIONS = 64
"""Captions that the clips share: to find a scene of the world takes 50 ms."""
CLIPS = 4000
"""Clips that are planned with, at most."""


@dataclass(frozen=True)
class MixedOptions:
    """steps: timed, after so many warm_up. threads: of the CPU."""

    device: str
    threads: int
    warm_up: int
    steps: int


@dataclass(frozen=True)
class Mixed:
    """What was measured of a config on one rank.

    parameters, text_parameters: of the transformer and of the text encoder. settings: what the figures depend on.
    shapes, texts: (least, mean, most) tokens of a sample and of a prompt. tokens, flops, text_flops, seconds: of
    each timed step; FLOPs forward and backward, of the transformer and of the text encoder, but not what is computed
    again. peak_bytes: of tensors on the GPU.
    """

    config: str
    parameters: int
    text_parameters: int
    settings: dict[str, Any]
    shapes: tuple[int, float, int]
    texts: tuple[int, float, int]
    tokens: list[int]
    flops: list[int]
    text_flops: list[int]
    seconds: list[float]
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Over all timed steps; packs have no padding."""
        return sum(self.tokens) / sum(self.seconds)

    @property
    def flops_per_second(self) -> float:
        """Of the transformer, over all timed steps."""
        return sum(self.flops) / sum(self.seconds)

    @property
    def all_flops_per_second(self) -> float:
        """Of the text encoder as well."""
        return sum(self.flops + self.text_flops) / sum(self.seconds)


def split_config(config: str) -> tuple[str, list[str]]:
    """The file and the overrides of "FILE section.key=value …"."""
    file, *overrides = re.split(r"\s+(?=[\w.]+=)", config.strip())
    return file, overrides


def measure_mixed(config: str, options: MixedOptions) -> Mixed:
    """Train on one rank and time each step; call it through `video_dit.evaluation.speed.in_own_process`.

    Raises:
        ValueError: the config is no good, or DeepSpeed takes another device.
    """
    if options.device != ("cuda" if torch.cuda.is_available() else "cpu"):
        raise ValueError(f"--device {options.device}: DeepSpeed takes a GPU where there is one, and only there")
    torch.set_num_threads(options.threads)
    file, overrides = split_config(config)
    run = load_config(RunConfig, file, overrides)
    run = replace(run, data=replace(run.data, num_clips=min(run.data.num_clips, CLIPS)))
    codec = LatentCodec.from_pretrained(run.vae.path, dtype=torch.bfloat16)
    source = training_clips(run, codec)
    count = (options.warm_up + options.steps) * run.train.accumulation
    module = build_denoiser(run, codec)
    packs = synthetic_packs(run, codec, source, pack_plan(run, codec, source), module.tokenizer, count)
    packs = [pack.pin_memory() for pack in packs] if options.device == "cuda" else packs
    with process_group():
        return _train(config, run, module, packs, options)


def _train(config: str, run: RunConfig, module: Denoiser, packs: Sequence[Pack], options: MixedOptions) -> Mixed:
    settings = run.train
    parameters = module.transformer.num_parameters(), module.text_encoder.num_parameters()
    flops = PackFlops(module.transformer, module.text_encoder)
    if settings.checkpointing:
        module.transformer.enable_gradient_checkpointing()
    if settings.compile and options.device == "cuda" and settings.zero_stage < 3:
        module.transformer.compile_repeated_blocks(dynamic=True)
    engine = initialize(module, settings)
    ema = EMA(engine, settings.ema_decay)
    seconds: list[float] = []
    for step in range(options.warm_up + options.steps):
        if step == options.warm_up and options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = packs[step * settings.accumulation : (step + 1) * settings.accumulation]
        began = clock(options.device)
        set_learning_rate(engine, settings, step)
        tally = StepTally(taken, {}, {}, engine.device)
        for number, pack in enumerate(taken, start=1):
            placed = pack.to(engine.device)
            errors = engine(placed)  # n
            tally.add(placed, errors)
            engine.backward(errors.sum() * tally.scale)
            if number == len(taken) and tally.totals().not_finite:
                raise RuntimeError(f"{config}: the loss is not finite at step {step}")
            engine.step()
        ema.update(engine, step)
        seconds.append(clock(options.device) - began)
    timed = packs[options.warm_up * settings.accumulation :]
    steps = [timed[n : n + settings.accumulation] for n in range(0, len(timed), settings.accumulation)]
    weights = next(module.transformer.parameters()).dtype
    return Mixed(
        config,
        *parameters,
        {
            "token_budget": run.data.token_budget,
            "accumulation": settings.accumulation,
            "zero_stage": settings.zero_stage,
            "optimizer": settings.optimizer,
            "compile": settings.compile,
            "checkpointing": settings.checkpointing,
            "weights": str(weights).removeprefix("torch."),
            "sizes": [list(size) for size in run.data.sizes],
            "window_frames": run.data.window_frames,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads",
        },
        _spread([n for pack in timed for n in pack.segments.lengths]),
        _spread([n for pack in timed for n in pack.prompts.segments.lengths]),
        [sum(len(pack.made) for pack in step) for step in steps],
        [sum(map(flops.of_transformer, step)) for step in steps],
        [sum(map(flops.of_text, step)) for step in steps],
        seconds[options.warm_up :],
        torch.cuda.max_memory_allocated() if options.device == "cuda" else 0,
    )


def synthetic_packs(
    run: RunConfig,
    codec: LatentCodec,
    source: ClipSource,
    plan: PackPlan,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
) -> list[Pack]:
    """The first packs of a run, with latents of random numbers and the captions of its first clips."""
    captions = [source.text(index, 0) for index in range(min(CAPTIONS, len(source)))]
    packs = []
    for position in range(count):
        views = [
            (
                view,
                synthetic_latents(codec, source.shape(view.index), keyed_generator(run.seed, view.index, "synthetic")),
                captions[view.index % len(captions)],
            )
            for view in plan.pack(position)
        ]
        packs.append(
            build_pack(
                views,
                position,
                run.seed,
                codec.frame_rule[0],
                run.model.patch_size,
                run.model.base_tokens,
                run.context,
                run.noise,
                tokenizer,
                text_groups(run.train.zero_stage),
            )
        )
    return packs


def synthetic_latents(codec: LatentCodec, clip: ClipShape, generator: torch.Generator) -> dict[str, Tensor]:
    """As `video_dit.batch.encode_clip` gives them, of random numbers."""
    frames = codec.num_latent_frames(clip.num_frames)
    shape = codec.latent_channels, frames, clip.height // codec.grid, clip.width // codec.grid
    latents = torch.randn(shape, generator=generator).bfloat16()
    return {
        "latents": latents,
        "keyframe": latents[:, :1],
        "keyframe_frame": torch.tensor(0),
        "cold": latents,
        "cold_start": torch.tensor(0),
        "frame_rate": torch.tensor(clip.frame_rate),
    }


def _spread(numbers: Sequence[int]) -> tuple[int, float, int]:
    return min(numbers), sum(numbers) / len(numbers), max(numbers)
