"""Where a clip is cut into what is given and what is made, and which latent frames that takes."""

from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = ("forward", "backward", "connect", "loop")


@dataclass(frozen=True)
class Cut:
    """Which frames of a whole clip, in order of time, are made; the others are given.

    direction: one of `DIRECTIONS`. num_frames: of the whole clip. start, stop: the made ones are ``start`` to
    ``stop - 1``. Of a loop, the last frame runs into the first.
    """

    direction: str
    num_frames: int
    start: int
    stop: int

    @property
    def made(self) -> slice:
        """The frames that are made."""
        return slice(self.start, self.stop)

    @property
    def num_made(self) -> int:
        """How many are made."""
        return self.stop - self.start

    @property
    def num_given(self) -> int:
        """How many are given."""
        return self.num_frames - self.num_made

    @property
    def given(self) -> list[slice]:
        """The runs of given frames, in order."""
        runs = [slice(0, self.start), slice(self.stop, self.num_frames)]
        return [run for run in runs if run.stop > run.start]

    @property
    def joins(self) -> list[tuple[int, int]]:
        """Neighbours of which one is given and one made, the earlier first."""
        before = [(self.start - 1, self.start)] if self.start else []
        after = [(self.stop - 1, self.stop)] if self.stop < self.num_frames else []
        around = [(self.stop - 1, 0)] if self.direction == "loop" else []
        return before + after + around

    def farthest(self, count: int) -> slice:
        """The ``count`` made frames, or all if there are fewer, that are farthest from what is given: the last forward,
        the first backward, those in the middle between two joins."""
        count = min(count, self.num_made)
        between = len(self.joins) == 2
        first = self.start + (self.num_made - count) // 2 if between else self.stop - count if self.start else 0
        return slice(first, first + count)

    @property
    def has_truth(self) -> bool:
        """Whether a longer clip can tell what is right: a world that goes on does not come back to its start."""
        return self.direction != "loop"


@dataclass(frozen=True)
class Given:
    """Frames between which others are made, uint8 ``(t, h, w, 3)``: those before them, those after them, or both. Of a
    loop, all of the clip is both."""

    before: Tensor | None
    after: Tensor | None


def sides(known: int) -> tuple[int, int]:
    """Latent frames given before and after what is made between them, ``known`` in all: at least 2 and 1, since the
    first is a one-frame latent."""
    return max(2, (known + 1) // 2), max(1, known // 2)


def cut_clip(direction: str, total: int, known: int, r: int) -> Cut:
    """A clip of about ``total`` latent frames of which ``known`` are given.

    Forward, ``1 + r·(known - 1)`` frames are given. Backward it is r more: the latent of the first one stands for it
    alone, as none within a longer clip does, so it is left out. To connect, both halves of that. A loop is given
    ``1 + r·(known - 1)`` frames. With ``total`` of a window, all is made at once.
    """
    num_frames, (before, after) = 1 + r * (total - 1), sides(known)
    if direction == "forward":
        return Cut(direction, num_frames, 1 + r * (known - 1), num_frames)
    if direction == "backward":
        return Cut(direction, num_frames, 0, r * (total - 1 - known))
    made = r * (total - before - after) - 1
    start = 1 + r * (before - 1 if direction == "connect" else before + after - 1)
    return Cut(direction, num_frames if direction == "connect" else start + made, start, start + made)


def given_of(frames: Tensor, cut: Cut) -> Given:
    """What is given of a clip ``(t, h, w, 3)``, of which no more than the cut's frames count. Where it has fewer, its
    ends are given, and the gap between them is of another length than what is made; at least ``cut.num_given``."""
    before, after = cut.start, cut.num_frames - cut.stop
    frames = frames[: cut.num_frames]
    assert len(frames) >= before + after
    if cut.direction == "loop":
        return Given(frames[:before], frames[:before])
    return Given(frames[:before] if before else None, frames[len(frames) - after :] if after else None)


def assembled(given: Given, made: Tensor, cut: Cut) -> Tensor:
    """The whole clip ``(t, h, w, 3)``."""
    after = None if cut.direction == "loop" else given.after
    clip = torch.cat([part for part in (given.before, made, after) if part is not None])
    assert len(clip) == cut.num_frames
    return clip


def boundary_repeated(given: Given, cut: Cut) -> Tensor:
    """The whole clip with copies of the given frame that is nearest in time in place of what is made: what stands
    still."""
    first = None if given.before is None else given.before[-1]
    last = None if given.after is None else given.after[0]
    early = cut.num_made // 2 if first is not None and last is not None else cut.num_made * (first is not None)
    parts = [(first, early), (last, cut.num_made - early)]
    copies = [frame.expand(count, -1, -1, -1) for frame, count in parts if frame is not None]
    return assembled(given, torch.cat(copies), cut)
