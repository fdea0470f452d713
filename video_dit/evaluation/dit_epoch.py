"""Training on clips of many shapes in three ways: our packs, batches padded to their longest, buckets of equal shapes.

The ways are those of `video_dit.evaluation.fill`; the transformer and its step are the same for all. What counts is
useful tokens a second: padding takes time and counts for nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from data.dataset import ClipShape
from data.packing import View, pack_views
from data.seeding import draw_integer, keyed_generator
from video_dit.batch import LEVELS_MULTIPLE
from video_dit.evaluation.dit_candidates import PATCH, Size, Work, blocks_of, our_candidate
from video_dit.evaluation.dit_speed import DiTSpeedOptions, computing
from video_dit.evaluation.fill import (
    FRAME_RATE,
    LONGEST,
    PIXELS,
    FillOptions,
    Fitted,
    bucket_batches,
    duration,
    fit_clip,
    latent_frames,
    listed_size,
    near_size,
    our_packs,
    padded_batches,
    shuffled,
    whole_views,
)
from video_dit.evaluation.requirements import Requirement
from video_dit.evaluation.speed import clock
from video_dit.flops import transformer_flops
from video_dit.tokens import Segments

USUAL_BUDGET = 16384
"""For pictures of `PIXELS`; a smaller budget stands for smaller pictures in proportion."""
PACKED, OF_WHOLE_CLIPS, PADDED, BUCKETS = (
    "our packs",
    "our packs, but of whole clips alone",
    "padded to the longest of a batch",
    "25 buckets of 5 aspects and 5 durations",
)
OVER_PADDED, OVER_BUCKETS = 1.3, 1.0
"""How many times the useful tokens a second of the other ways our packs must reach."""
COLUMNS = ("batches", "timed", "filled %", "padding %", "ms a batch", "MFLOP/token", "tokens/s", "+- %")
HEADING = "".join(f"{name:>13}" for name in COLUMNS) + "  way"


@dataclass(frozen=True)
class EpochOptions:
    """size: of the transformer. work: whose channels and texts they have. dtype: of weights. batches: of each way that
    are timed. compiled: its blocks, for lengths of any kind."""

    size: Size
    work: Work
    dtype: torch.dtype
    token_budget: int
    batches: int
    seed: int
    compiled: bool


@dataclass(frozen=True)
class Batch:
    """Tokens of each sample as the transformer has them, and how many of all are useful."""

    lengths: tuple[int, ...]
    useful: int


@dataclass(frozen=True)
class Way:
    """What was measured of one way. batches: all. flops: of each, forward and backward, those of padding as well.
    seconds: of each of the first of them, which were timed."""

    name: str
    batches: list[Batch]
    flops: list[int]
    seconds: list[float]

    @property
    def tokens_per_second(self) -> float:
        """Useful ones, over all batches: those that were not timed take as long by the FLOP as those that were."""
        seconds = sum(self.flops) * sum(self.seconds) / sum(self._timed)
        return sum(batch.useful for batch in self.batches) / seconds

    @property
    def relative_error(self) -> float:
        """Standard error of the seconds a FLOP, and so of the tokens a second, over their value; of one batch NaN."""
        count = len(self.seconds)
        if count < 2:
            return math.nan
        rate = sum(self.seconds) / sum(self._timed)
        squares = sum((time - rate * flops) ** 2 for time, flops in zip(self.seconds, self._timed, strict=True))
        return math.sqrt(squares * count / (count - 1)) / sum(self.seconds)

    @property
    def _timed(self) -> list[int]:
        return self.flops[: len(self.seconds)]

    def line(self, token_budget: int) -> str:
        """A line under `HEADING`."""
        budget = len(self.batches) * token_budget
        filled = sum(batch.useful for batch in self.batches) / budget
        padding = sum(sum(batch.lengths) for batch in self.batches) / budget - filled
        cells = [
            f"{len(self.batches)}",
            f"{len(self.seconds)}",
            f"{100 * filled:.1f}",
            f"{100 * abs(padding):.1f}",
            f"{1e3 * sum(self.seconds) / len(self.seconds):.1f}",
            f"{sum(self.flops) / sum(batch.useful for batch in self.batches) / 1e6:.1f}",
            f"{self.tokens_per_second:,.0f}",
            "-" if math.isnan(self.relative_error) else f"{100 * self.relative_error:.1f}",
        ]
        return "".join(f"{cell:>13}" for cell in cells) + f"  {self.name}"


def draw_shapes(count: int, seed: int) -> list[ClipShape]:
    """Clips as a collection of many sources has them: seven aspects, landscape more often, and durations from half a
    second to 16 s, short ones as often as ones of twice their length."""
    aspects = (16 / 9, 16 / 9, 4 / 3, 1.0, 9 / 16, 2.39, 3 / 4, 3 / 2)
    found = []
    for index in range(count):
        generator = keyed_generator(seed, index, "shape of a clip")
        aspect = aspects[draw_integer(len(aspects), generator)]
        seconds = 0.5 * 32 ** float(torch.rand((), generator=generator))
        frames = min(LONGEST, max(5, int(seconds * FRAME_RATE)))
        found.append(ClipShape(frames, 720, round(720 * aspect), FRAME_RATE))
    return found


def batches_of(clips: Sequence[ClipShape], options: EpochOptions) -> dict[str, list[Batch]]:
    """All batches of each way.

    Raises:
        ValueError: the longest view does not fit the budget.
    """
    fill = FillOptions(len(clips), options.token_budget, 1, options.seed)

    def fitted(size: Callable[[ClipShape], tuple[int, int]], latents: Callable[[ClipShape], int]) -> list[Fitted]:
        return [_scaled(fit_clip(clip, size(clip), latents(clip)), options.token_budget) for clip in clips]

    near, buckets = fitted(near_size, latent_frames), fitted(listed_size, duration)
    most = max((f.shape.frames + 1) * f.shape.tokens_per_frame for f in near)
    if most > options.token_budget:
        raise ValueError(f"--token-budget {options.token_budget} must hold the longest view: use at least {most}")
    whole = pack_views(whole_views(near), options.token_budget, keyed_generator(options.seed, "whole"))
    views = {
        PACKED: (near, our_packs(near, fill)),
        OF_WHOLE_CLIPS: (near, whole),
        PADDED: (near, padded_batches(near, fill)),
        BUCKETS: (buckets, bucket_batches(buckets, fill)),
    }
    return {
        name: shuffled([_batch(batch, of) for batch in batches], options.seed, name)
        for name, (of, batches) in views.items()
    }


def _scaled(fitted: Fitted, token_budget: int) -> Fitted:
    per_frame = max(1, fitted.shape.tokens_per_frame * token_budget // USUAL_BUDGET)
    return replace(fitted, shape=replace(fitted.shape, tokens_per_frame=per_frame))


def _batch(views: Sequence[View], fitted: Sequence[Fitted]) -> Batch:
    useful = sum((view.length + view.keyframe) * fitted[view.index].shape.tokens_per_frame for view in views)
    return Batch(tuple(view.tokens for view in views), useful)


def measure_epoch(
    clips: Sequence[ClipShape], options: EpochOptions, speed: DiTSpeedOptions, say: Callable[[str], None]
) -> tuple[list[Way], list[Requirement]]:
    """Train one transformer a while in all ways in turn, a batch of each after the other.

    Raises:
        ValueError: the longest view does not fit the budget, or the heads do not divide the width.
    """
    every = batches_of(clips, options)
    batches = {name: found[: options.batches] for name, found in every.items()}
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    with computing(speed):
        step = training_step(options, speed.device)
        for found in batches.values():  # a GPU's memory and kernels want each shape once
            for batch in found if speed.device == "cuda" else found[:1]:
                step(inputs_of(batch, options, speed.device))
        for place in range(options.batches):
            for name, found in batches.items():
                if place < len(found):
                    inputs = inputs_of(found[place], options, speed.device)
                    start = clock(speed.device)
                    step(inputs)
                    seconds[name].append(clock(speed.device) - start)
    scale = round((PIXELS * options.token_budget / USUAL_BUDGET) ** 0.5)
    say(f"{len(clips)} clips of at most {LONGEST} frames at {FRAME_RATE:g} fps, scaled to about {scale}x{scale} pixels")
    say(f"batches of {options.token_budget} tokens, {str(options.dtype).removeprefix('torch.')}, AdamW")
    say(HEADING)
    ways = [Way(name, found, _flops(found, options), seconds[name]) for name, found in every.items()]
    for way in ways:
        say(way.line(options.token_budget))
    return ways, epoch_requirements(ways)


def _flops(batches: Sequence[Batch], options: EpochOptions) -> list[int]:
    """Of each. Longer samples are dearer by the token, for they have more to attend to."""
    config: Any = our_candidate(options.size, options.work).build(device="meta").config
    texts = options.work.text_length
    every = [(batch.lengths, [texts] * len(batch.lengths)) for batch in batches]
    return [transformer_flops(config, lengths, of_text, len(lengths)) for lengths, of_text in every]


def epoch_requirements(ways: Sequence[Way]) -> list[Requirement]:
    """Our packs, with views as in training, beside the other ways; and of whole clips, as the padded batches are."""
    rates = {way.name: way.tokens_per_second for way in ways}
    found = []
    for own, name, times in (
        (PACKED, PADDED, OVER_PADDED),
        (OF_WHOLE_CLIPS, PADDED, OVER_PADDED),
        (PACKED, BUCKETS, OVER_BUCKETS),
    ):
        ratio = rates[own] / rates[name]
        text = f"{own}: {times:g} times the useful tokens a second of {name}; times"
        found.append(Requirement(text, ratio, ratio >= times))
    return found


def inputs_of(batch: Batch, options: EpochOptions, device: str) -> dict[str, Any]:
    """Random tokens, one noise level a sample, and a target; what a token stands for takes no time."""
    n, samples = sum(batch.lengths), len(batch.lengths)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(batch.lengths)
    patch = options.work.channels * PATCH**2
    levels = torch.rand(math.ceil(samples / LEVELS_MULTIPLE) * LEVELS_MULTIPLE, generator=generator)
    texts = torch.randn(samples, options.work.text_length, options.work.text_width, generator=generator)
    tensors = {
        "hidden_states": torch.randn(n, patch, generator=generator),
        "levels": levels,
        "level_index": torch.arange(samples).repeat_interleave(lengths),
        "coords": 8 * torch.rand(n, 3, generator=generator),
        "one_frame": torch.zeros(n, dtype=torch.bool),
        "prompt_embeds": rearrange(texts, "s m d -> (s m) d"),
        "target": torch.randn(n, patch, generator=generator),
    }
    segments = {
        "segments": Segments.from_lengths(batch.lengths, device),
        "prompt_segments": Segments.from_lengths([options.work.text_length] * samples, device),
    }
    return {name: value.to(device) for name, value in tensors.items()} | segments


def training_step(options: EpochOptions, device: str) -> Callable[[dict[str, Any]], None]:
    """Forward, mean-square error, the way back and AdamW, of one transformer that all calls share."""
    module = our_candidate(options.size, options.work).build(options.dtype, device)
    if options.compiled:
        for block in blocks_of(module):
            block.compile(dynamic=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step(inputs: dict[str, Any]) -> None:
        arguments = {name: value for name, value in inputs.items() if name != "target"}
        prediction: Tensor = module(**arguments)
        nn.functional.mse_loss(prediction.float(), inputs["target"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
