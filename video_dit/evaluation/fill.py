"""How full batches of clips of many shapes are: our packs, padding to the longest, and buckets of equal shapes.

Clips are resampled to `FRAME_RATE`, of which at most `LONGEST` frames are taken (longer files give several clips), and
scaled to about `PIXELS`; a token stands for `PATCH` x `PATCH` pixels, and a latent frame for `TIME_FACTOR` frames, but
the first for one. `LONGEST` is such that two of the longest square clips fill the usual budget: the best case for the
other two ways.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any, TypeVar

import torch

from data.dataset import ClipShape
from data.manifest import ClipRecord
from data.packing import LatentShape, PackPlan, View, cost, imbalance, pack_views
from data.seeding import draw_integer, keyed_generator
from data.transforms import nearest_size
from video_dit.context import ContextConfig
from video_dit.evaluation.requirements import Requirement

T = TypeVar("T")

FRAME_RATE, LONGEST, PIXELS = 16.0, 125, 256 * 256
PATCH, TIME_FACTOR = 16, 4
ATTENTION_COST = 1 / (6 * 768)
"""As `data.packing.cost` has it, for a transformer of width 768."""
EPOCHS = 3
ASPECTS = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)
DURATIONS = (4, 8, 16, 21, 32)
"""Latent frames of the buckets: 16, 8, 4, 3 and 2 square clips of them fill the usual budget."""
FILLED, UNEVEN = 0.97, 0.05
"""What packs must reach: a share of the budget, and by how much the dearest rank of a step exceeds the mean."""
COLUMNS = ("batches", "filled %", "padding %", "empty %", "uneven %", "most", "cropped %", "cut %", "later %")
HEADING = "".join(f"{name:>11}" for name in COLUMNS) + "  way"


@dataclass(frozen=True)
class FillOptions:
    """What is simulated: how many clips, tokens of a batch of one rank, ranks that wait for each other, the seed."""

    clips: int
    token_budget: int
    ranks: int
    seed: int


@dataclass(frozen=True)
class Fitted:
    """A clip as a way takes it: the shape in tokens, and the shares of picture and frames that are left."""

    shape: LatentShape
    space: float
    time: float


@dataclass(frozen=True)
class FillRow:
    """One way.

    filled, padding: shares of the budgets of all batches. uneven, most: by how much the dearest rank of a step costs
    more than the mean, on average and at most. cut, cropped: shares of the clips' pixels x seconds that fitting takes
    away in time, and in space of what that leaves. later: share of what was fitted that only other epochs see.
    """

    name: str
    batches: int
    filled: float
    padding: float
    uneven: float
    most: float
    cropped: float
    cut: float
    later: float

    def line(self) -> str:
        """A line under `HEADING`."""
        empty = 1 - self.filled - self.padding
        shares = (self.filled, self.padding, empty, self.uneven, self.most, self.cropped, self.cut, self.later)
        return f"{self.batches:11}" + "".join(f"{100 * abs(share):11.1f}" for share in shares) + f"  {self.name}"


@dataclass(frozen=True)
class Filling:
    """All ways, ours first, and what share of our packs whole clips in place of random views would fill."""

    rows: list[FillRow]
    whole: float

    def requirements(self) -> list[Requirement]:
        """Whether our packs are full and even enough."""
        ours = self.rows[0]
        full = f"packs are at least {100 * FILLED:g} % full; %"
        even = f"the dearest rank of a step is on average at most {100 * UNEVEN:g} % above the mean; %"
        filled = Requirement(full, 100 * ours.filled, ours.filled >= FILLED)
        return [filled, Requirement(even, 100 * ours.uneven, ours.uneven <= UNEVEN)]

    def as_json(self) -> dict[str, Any]:
        """Shares of 1."""
        return {"ways": [asdict(row) for row in self.rows], "filled_by_whole_clips": self.whole}


def draw_clips(records: Sequence[ClipRecord], options: FillOptions) -> list[ClipShape]:
    """Shapes of clips, drawn with replacement from the rows that tell theirs and are long enough to train on.

    Raises:
        ValueError: no row is.
    """
    least = 1 + TIME_FACTOR
    known = [clip for record in records if (clip := source_clip(record)) and clip.num_frames >= least]
    if not known:
        raise ValueError(f"no row has width, height, fps, num_frames and {least} frames at {FRAME_RATE:g} fps")
    generator = keyed_generator(options.seed, "clips")
    return [known[draw_integer(len(known), generator)] for _ in range(options.clips)]


def source_clip(record: ClipRecord) -> ClipShape | None:
    """What a row says of its clip, None where it does not say enough."""
    if not (record.width and record.height and record.fps and record.num_frames):
        return None
    end = record.num_frames / record.fps if record.end is None else record.end
    frames = math.floor((end - record.start) * FRAME_RATE + 0.1)
    return ClipShape(min(frames, LONGEST), record.height, record.width, FRAME_RATE)


def latent_frames(clip: ClipShape) -> int:
    """Of the longest 1 + 4k frames."""
    return 1 + (clip.num_frames - 1) // TIME_FACTOR


def duration(clip: ClipShape) -> int:
    """The longest of `DURATIONS` that a clip fills; 0, which is to leave it out, where it fills none."""
    return max((d for d in DURATIONS if d <= latent_frames(clip)), default=0)


def near_size(clip: ClipShape) -> tuple[int, int]:
    """The (height, width) that keeps the clip's aspect but for less than a token."""
    return nearest_size(clip.height, clip.width, PIXELS, PATCH)


def listed_size(clip: ClipShape) -> tuple[int, int]:
    """The (height, width) of one of `ASPECTS` nearest in aspect, as `data.manifest_clips.ManifestClips` chooses."""
    sizes = [nearest_size(1000, round(1000 * aspect), PIXELS, PATCH) for aspect in ASPECTS]
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0] * clip.height / clip.width)))


def fit_clip(clip: ClipShape, size: tuple[int, int], latents: int) -> Fitted:
    """Crop to the aspect of a (height, width), as `data.transforms.fit` does, and cut to so many latent frames."""
    height, width = size
    change = width / height * clip.height / clip.width
    shape = LatentShape(latents, height * width // PATCH**2)
    return Fitted(shape, min(change, 1 / change), max(0, 1 + TIME_FACTOR * (latents - 1)) / clip.num_frames)


def whole_views(fitted: Sequence[Fitted]) -> list[View]:
    """All of each clip that is left at all."""
    shapes = [f.shape for f in fitted]
    return [View(n, 0, 0, s.frames, False, s.frames * s.tokens_per_frame) for n, s in enumerate(shapes) if s.frames]


def our_packs(fitted: Sequence[Fitted], options: FillOptions) -> list[list[View]]:
    """The packs of `data.packing.PackPlan`, whose views are as random as in training: no padding."""
    window = 1 + (LONGEST - 1) // TIME_FACTOR
    shapes = [f.shape for f in fitted]
    plan = PackPlan(
        shapes,
        window,
        options.token_budget,
        ContextConfig().keyframe,
        options.seed,
        options.ranks,
        attention_cost=ATTENTION_COST,
    )
    batches: list[list[View]] = []
    while sum(map(len, batches)) < EPOCHS * len(fitted):
        batches.append(plan.pack(len(batches)))
    return batches


def padded_batches(fitted: Sequence[Fitted], options: FillOptions) -> list[list[View]]:
    """Whole clips in random order; a batch takes the next one as long as all of it, padded to the tokens of its
    longest, keeps the budget. Attention runs over the padding as well."""
    batches = []
    for epoch in range(EPOCHS):
        held: list[View] = []
        for view in shuffled(whole_views(fitted), options.seed, epoch, "padded"):
            longest = max(view.tokens for view in [*held, view])
            if held and (len(held) + 1) * longest > options.token_budget:
                batches.append(padded(held))
                held = []
            held.append(view)
        batches.append(padded(held))
    return batches


def padded(views: Sequence[View]) -> list[View]:
    """All as long as the longest."""
    longest = max(view.tokens for view in views)
    return [replace(view, tokens=longest) for view in views]


def bucket_batches(fitted: Sequence[Fitted], options: FillOptions) -> list[list[View]]:
    """Clips of equal shape in random order, as many as the budget holds, the last batch of each shape and epoch what is
    left; batches in random order."""
    batches = []
    for epoch in range(EPOCHS):
        buckets: dict[LatentShape, list[View]] = {}
        for view in shuffled(whole_views(fitted), options.seed, epoch, "buckets"):
            buckets.setdefault(fitted[view.index].shape, []).append(view)
        found = []
        for views in buckets.values():
            size = options.token_budget // views[0].tokens
            found += [views[first : first + size] for first in range(0, len(views), size)]
        batches += shuffled(found, options.seed, epoch, "bucket order")
    return batches


def shuffled(items: Sequence[T], *key: int | str) -> list[T]:
    """In an order that ``key`` decides."""
    return [items[n] for n in torch.randperm(len(items), generator=keyed_generator(*key)).tolist()]


def summary(
    name: str, clips: Sequence[ClipShape], fitted: Sequence[Fitted], batches: list[list[View]], options: FillOptions
) -> FillRow:
    """The figures of a way; a step is ``options.ranks`` batches that follow each other.

    Raises:
        ValueError: the batches make no step.
    """
    ranks = options.ranks
    if len(batches) < ranks:
        raise ValueError(f"--ranks {ranks}: {len(batches)} batches make no step: use fewer or more --clips")
    costs = [cost(batch, ATTENTION_COST) for batch in batches[: len(batches) // ranks * ranks]]
    steps = [costs[first : first + ranks] for first in range(0, len(costs), ranks)]
    uneven = [imbalance(step) for step in steps]
    budget = len(batches) * options.token_budget
    views = [view for batch in batches for view in batch]
    per_frame = [f.shape.tokens_per_frame for f in fitted]
    filled = sum((view.length + view.keyframe) * per_frame[view.index] for view in views) / budget
    seconds = sum(clip.num_frames for clip in clips)
    pairs = list(zip(clips, fitted, strict=True))
    return FillRow(
        name,
        len(batches),
        filled=filled,
        padding=sum(view.tokens for view in views) / budget - filled,
        uneven=mean(uneven),
        most=max(uneven),
        cropped=sum(clip.num_frames * f.time * (1 - f.space) for clip, f in pairs) / seconds,
        cut=sum(clip.num_frames * (1 - f.time) for clip, f in pairs) / seconds,
        later=1
        - sum(v.length * per_frame[v.index] for v in views) / EPOCHS / sum(v.tokens for v in whole_views(fitted)),
    )


def measure_fill(records: Sequence[ClipRecord], options: FillOptions, say: Callable[[str], None]) -> Filling:
    """Simulate `EPOCHS` epochs of each way.

    Raises:
        ValueError: no row can be used, the longest view does not fit the budget, or there are fewer batches than ranks.
    """
    clips = draw_clips(records, options)
    near = [fit_clip(clip, near_size(clip), latent_frames(clip)) for clip in clips]
    listed = [fit_clip(clip, listed_size(clip), latent_frames(clip)) for clip in clips]
    buckets = [fit_clip(clip, listed_size(clip), duration(clip)) for clip in clips]
    most = max((f.shape.frames + 1) * f.shape.tokens_per_frame for f in [*near, *listed])
    if options.token_budget < most:
        raise ValueError(f"--token-budget {options.token_budget} must hold the longest view: use at least {most}")
    ways = (
        ("our packs, a size near each aspect", near, our_packs),
        ("our packs, 5 listed sizes", listed, our_packs),
        ("padded to the longest of a batch", near, padded_batches),
        ("25 buckets of 5 aspects and 5 durations", buckets, bucket_batches),
    )
    say(f"{len(clips)} clips of at most {LONGEST} frames at {FRAME_RATE:g} fps, scaled to about {PIXELS} pixels")
    say(f"{EPOCHS} epochs of batches of {options.token_budget} tokens, {options.ranks} in a step")
    say(HEADING)
    rows = []
    for name, fitted, batches in ways:
        rows.append(summary(name, clips, fitted, batches(fitted, options), options))
        say(rows[-1].line())
    views = whole_views(near)
    packs = pack_views(views, options.token_budget, keyed_generator(options.seed, "whole"))
    whole = sum(view.tokens for view in views) / (len(packs) * options.token_budget)
    say(f"views of whole clips alone would fill {100 * whole:.1f} % of our packs")
    return Filling(rows, whole)
