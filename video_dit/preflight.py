"""What a run will be trained on, told before it begins: which clips, which not and why, and how they fill packs."""

from collections.abc import Sequence
from statistics import mean, median

from data.dataset import ClipShape, ClipSource
from data.manifest_clips import LeftOut, ManifestClips, by_reason
from data.packing import PackPlan, View, cost, imbalance
from data.shards import Shards
from video_dit.config import RunConfig

EXAMPLES = 3  # rows named for each reason
SHAPES_TOLD = 10  # of them the most frequent


def data_report(config: RunConfig, source: ClipSource, plan: PackPlan, groups: int = 1, degree: int = 1) -> list[str]:
    """The lines of a report on the clips and packs of a run on so many groups of ``degree`` ranks that share a pack.
    Nothing is opened."""
    return [*clip_lines(config, source), *pack_lines(plan, groups, degree)]


def clip_lines(config: RunConfig, source: ClipSource) -> list[str]:
    """How many clips there are, why others are left out, and what shapes and durations they have."""
    lines = [f"clips: {len(source):,} {_origin(config, source)}"]
    if isinstance(source, ManifestClips):
        lines += [f"  left out: {_left_out(reason, rows)}" for reason, rows in by_reason(source.left_out)]
    shapes = [source.shape(index) for index in range(len(source))]
    seconds = [shape.num_frames / shape.frame_rate for shape in shapes]
    lines += _shape_lines(shapes)
    lines.append(
        f"durations: {sum(seconds):,.1f} s in all; a clip {min(seconds):.1f} to {max(seconds):.1f} s, "
        f"half of them up to {median(seconds):.1f} s"
    )
    return lines


def pack_lines(plan: PackPlan, groups: int, degree: int = 1) -> list[str]:
    """How the first epoch's packs are filled, and how evenly the groups of ``degree`` ranks share a step's work."""
    packs = first_epoch(plan)
    fills = [sum(view.tokens for view in pack) / plan.token_budget for pack in packs]
    views = [len(pack) for pack in packs]
    in_step = plan.packs_per_step
    apart = []
    for first in range(0, max(len(packs) - in_step, 0) + 1, in_step):
        step = [cost(plan.pack(position), plan.attention_cost) for position in range(first, first + in_step)]
        apart.append(imbalance([sum(step[group::groups]) for group in range(groups)]))
    sharing = count(groups, "rank") if degree == 1 else f"{count(groups, 'group')} of {count(degree, 'rank')}"
    return [
        f"packs: {len(packs):,} an epoch of up to {plan.token_budget:,} tokens, {mean(fills):.1%} filled on average, "
        f"{min(fills):.1%} at least; {mean(views):.1f} views each ({min(views)} to {max(views)})",
        f"steps: {len(packs) / in_step:,.1f} an epoch, of {count(in_step, 'pack')} on {sharing}; "
        f"the costliest takes {mean(apart):.1%} above the mean, {max(apart):.1%} at most",
    ]


def first_epoch(plan: PackPlan) -> list[list[View]]:
    """The packs in which each clip is met for the first time."""
    packs: list[list[View]] = []
    views = 0
    while views < len(plan.shapes):
        packs.append(plan.pack(len(packs)))
        views += len(packs[-1])
    return packs


def count(number: int, noun: str) -> str:
    """As in "1 pack" and "2 packs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _origin(config: RunConfig, source: ClipSource) -> str:
    if isinstance(source, ManifestClips):
        used = source.num_rows - len(source.left_out)
        return f"from {used:,} of the {count(source.num_rows, 'row')} of data.manifest={config.data.manifest}"
    if isinstance(source, Shards):
        return f"in the shards of data.latents={source.folder}"
    return "scenes of the world"


def _left_out(reason: str, rows: Sequence[LeftOut]) -> str:
    examples = ", ".join(f"row {one.row} ({one.path.name}, from {one.start:g} s)" for one in rows[:EXAMPLES])
    return f"{count(len(rows), 'row')}, {reason}: {examples}{', …' if len(rows) > EXAMPLES else ''}"


def _shape_lines(shapes: Sequence[ClipShape]) -> list[str]:
    frames: dict[str, list[int]] = {}
    for shape in shapes:
        frames.setdefault(f"{shape.width}x{shape.height} at {shape.frame_rate:g} fps", []).append(shape.num_frames)
    ordered = sorted(frames.items(), key=lambda shape: -len(shape[1]))
    lines = [
        f"  {name}, {_range(counts)} frames: {count(len(counts), 'clip')}" for name, counts in ordered[:SHAPES_TOLD]
    ]
    others = ordered[SHAPES_TOLD:]
    if others:
        lines.append(f"  {len(others):,} more: {count(sum(len(counts) for _, counts in others), 'clip')}")
    return ["shapes:", *lines]


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
