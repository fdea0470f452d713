"""Clips to train on: the procedural world, or the rows of a manifest. Index in, frames and text out."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from data.manifest import ClipRecord, read_manifest
from data.seeding import draw_integer, keyed_generator
from data.transforms import fit
from data.world import sample_scene
from data.world.scene import Scene

logger = logging.getLogger(__name__)

WORLD_VERSION = 2
"""Raise it when a scene looks, moves or is described differently, so that no cache serves old clips."""

STYLES_IN_TWENTY = {"exhaustive": 14, "detailed": 3, "short": 2, "terse": 1}
"""How many of twenty captions are in each style: most state everything, which pays most (PRX: FID 18 against 37)."""


@dataclass(frozen=True)
class Clip:
    """frames: uint8 ``(t, h, w, 3)``; frame_rate in frames a second."""

    frames: Tensor
    frame_rate: float


@dataclass(frozen=True)
class ClipShape:
    """What is known of a clip before it is read."""

    num_frames: int
    height: int
    width: int
    frame_rate: float


class ClipSource(Protocol):
    """Clips by index. ``key`` names a clip's exact content for the cache; ``text`` is its caption, which may be put
    differently in each epoch."""

    def __len__(self) -> int: ...
    def shape(self, index: int) -> ClipShape: ...
    def key(self, index: int) -> str: ...
    def load(self, index: int) -> Clip: ...
    def text(self, index: int, epoch: int) -> str: ...


class WorldClips:
    """Renders of the world: clip ``index`` is scene ``(split, seed = index)`` at a size and rate drawn from a list.

    Args:
        split: "train", "val", "test" or "all" (see `data.world.sample_scene`).
        count: number of clips.
        num_frames: frames of each.
        sizes: (height, width) to draw from; name one twice to draw it twice as often.
        frame_rates: rates to draw from.
    """

    def __init__(
        self,
        split: str,
        count: int,
        num_frames: int,
        sizes: Sequence[Sequence[int]],
        frame_rates: Sequence[float],
    ) -> None:
        self.split, self.count, self.num_frames = split, count, num_frames
        self.sizes, self.frame_rates = [(h, w) for h, w in sizes], list(frame_rates)
        self._scenes: dict[int, Scene] = {}  # of the clips met so far: to find one takes 50 ms

    def __len__(self) -> int:
        return self.count

    def shape(self, index: int) -> ClipShape:
        """Size and rate of clip ``index``."""
        generator = keyed_generator(self.split, index, "shape")
        height, width = self.sizes[draw_integer(len(self.sizes), generator)]
        rate = self.frame_rates[draw_integer(len(self.frame_rates), generator)]
        return ClipShape(self.num_frames, height, width, rate)

    def key(self, index: int) -> str:
        """The world's version, split, seed, size, frames and rate."""
        s = self.shape(index)
        return f"world-{WORLD_VERSION}-{self.split}-{index}-{s.num_frames}x{s.height}x{s.width}-{s.frame_rate:g}fps"

    def style(self, index: int, epoch: int = 0) -> str:
        """The caption style of clip ``index``, drawn from `STYLES_IN_TWENTY`."""
        styles = [style for style, count in STYLES_IN_TWENTY.items() for _ in range(count)]
        later = [epoch] if epoch else []
        return styles[draw_integer(len(styles), keyed_generator(self.split, index, "style", *later))]

    def text(self, index: int, epoch: int) -> str:
        """A caption of clip ``index``, in another `style` and other words in each epoch: a text encoder that is trained
        would else learn the captions of a few thousand clips by heart."""
        return self._scene(index).caption(self.style(index, epoch), wording=epoch)

    def load(self, index: int) -> Clip:
        """Render clip ``index``."""
        s = self.shape(index)
        return Clip(self._scene(index).render(s.num_frames, s.height, s.width, s.frame_rate), s.frame_rate)

    def _scene(self, index: int) -> Scene:
        if index not in self._scenes:
            self._scenes[index] = sample_scene(self.split, index)
        return self._scenes[index]


class ManifestClips:
    """Clips of a manifest's rows, resampled to one frame rate and fitted to the listed size of nearest aspect.

    A ``frame_rate`` of None leaves each row at its own.

    A row longer than ``num_frames`` gives several clips, one after the other; what is left over at its end is
    not used, and a shorter row is cut to the longest ``1 + frame_multiple·k``, k at least 1. With a ``frame_multiple``
    of 1 all rows are taken, those of one frame too.
    Files that must be opened for what their rows do not say, and cannot be, are left out with a warning.

    Raises:
        ValueError: the manifest cannot be read, or no row is long enough.
    """

    def __init__(
        self,
        manifest: str | Path,
        split: str,
        num_frames: int,
        sizes: Sequence[Sequence[int]],
        frame_rate: float | None,
        frame_multiple: int,
    ) -> None:
        self.frame_rate = frame_rate
        self.sizes = [(h, w) for h, w in sizes]
        self.parts: list[tuple[ClipRecord, int, int]] = []  # row, first frame, frames
        least = 1 if frame_multiple == 1 else 1 + frame_multiple
        for row in read_manifest(manifest, split=split):
            try:
                record = _completed(row, rate_needed=frame_rate is None)
            except ValueError as error:  # `data.video.VideoError`
                logger.warning("left out: %s", error)
                continue
            total = _frames_at(record, self._rate(record))
            for first in range(0, total, num_frames):
                usable = min(num_frames, total - first)
                usable -= (usable - 1) % frame_multiple
                if usable == num_frames or (first == 0 and usable >= least):
                    self.parts.append((record, first, usable))
        if not self.parts:
            raise ValueError(
                f"data.manifest={manifest}: no clip of split {split!r} has {least} frames "
                f"at {f'{frame_rate:g} fps' if frame_rate else 'its own rate'}: add longer clips"
            )

    def __len__(self) -> int:
        return len(self.parts)

    def shape(self, index: int) -> ClipShape:
        """Size after fitting, frames, and rate."""
        record, _, frames = self.parts[index]
        assert record.width and record.height
        aspect = record.width / record.height
        height, width = min(self.sizes, key=lambda size: abs(math.log(size[1] / size[0] / aspect)))
        return ClipShape(frames, height, width, self._rate(record))

    def key(self, index: int) -> str:
        """Path, size and time of change of the file, and what is taken of it."""
        record, first, _ = self.parts[index]
        stat, s = record.path.stat(), self.shape(index)
        return (
            f"{record.path.resolve()}-{stat.st_size}-{stat.st_mtime_ns}-{record.start:g}-{first}"
            f"-{s.num_frames}x{s.height}x{s.width}-{s.frame_rate:g}fps"
        )

    def text(self, index: int, epoch: int) -> str:
        """The row's caption, in every epoch."""
        return self.parts[index][0].text

    def load(self, index: int) -> Clip:
        """Read clip ``index``; raises `data.video.VideoError` when its file is damaged."""
        # PyAV is not installed where only the world is trained on
        from data.video import VideoError, read_video

        record, first, frames = self.parts[index]
        s = self.shape(index)
        clip = read_video(
            record.path,
            start=record.start + first / s.frame_rate,
            seconds=frames / s.frame_rate,
            frame_rate=s.frame_rate,
        )
        if len(clip.frames) < frames:
            reason = f"has {len(clip.frames)} of {frames} frames wanted: mend its manifest row"
            raise VideoError(record.path, reason)
        return Clip(fit(clip.frames[:frames], s.height, s.width), s.frame_rate)

    def _rate(self, record: ClipRecord) -> float:
        rate = self.frame_rate or record.fps
        assert rate is not None
        return rate


def _completed(record: ClipRecord, rate_needed: bool) -> ClipRecord:
    """The row with what the manifest leaves out read from the file: its size, the time at which it ends, its rate."""
    end = record.end
    if end is None and record.num_frames is not None and record.fps is not None:
        end = record.num_frames / record.fps
    if end is None or record.width is None or record.height is None or (rate_needed and record.fps is None):
        from data.video import probe_video  # see `ManifestClips.load`

        info = probe_video(record.path)
        return replace(
            record,
            width=info.width,
            height=info.height,
            fps=record.fps or info.frame_rate,
            end=end if end is not None else info.duration,
        )
    return replace(record, end=end)


def _frames_at(record: ClipRecord, frame_rate: float) -> int:
    """Frames that a completed row gives at ``frame_rate``; a tenth of one may be missing at its end."""
    assert record.end is not None
    return max(0, math.floor((record.end - record.start) * frame_rate + 0.1))
