"""Clips to train on from the rows of a manifest, and why rows give none."""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.dataset import Clip, ClipShape
from data.last_reader import LastReader
from data.manifest import ClipRecord, is_file, read_manifest
from data.transforms import fit
from data.video_limits import DEFAULT_LIMITS, ReadLimits, VideoError

logger = logging.getLogger(__name__)

TOO_SHORT, MISSING, UNREADABLE = "too short for", "no such file", "cannot be read"
FIXES = {
    TOO_SHORT: "give longer clips",
    MISSING: "mend the paths, which count from the manifest's folder",
    UNREADABLE: "mend the files, or take them out",
}
REASONS_TOLD = 4  # of them the most frequent


@dataclass(frozen=True)
class LeftOut:
    """A row that gives no clip. start: seconds within its file. reason: the same words for all rows it holds for."""

    row: int
    path: Path
    start: float
    reason: str


def by_reason(left_out: Sequence[LeftOut]) -> list[tuple[str, list[LeftOut]]]:
    """Each reason with its rows, the most frequent first."""
    rows: dict[str, list[LeftOut]] = {}
    for one in left_out:
        rows.setdefault(one.reason, []).append(one)
    return sorted(rows.items(), key=lambda reason: -len(reason[1]))


class ManifestClips:
    """Clips of a manifest's rows, resampled to one frame rate and fitted to the listed size of nearest aspect.

    A ``frame_rate`` of None leaves each row at its own.

    A row longer than ``num_frames`` gives several clips, one after the other; what is left over at its end is
    not used, and a shorter row is cut to the longest ``1 + frame_multiple·k``, k at least 1. With a ``frame_multiple``
    of 1 all rows are taken, those of one frame too.

    Rows that are too short, whose file is not there, or whose file must be opened for what they do not say, and cannot
    be, are kept in ``left_out``, of ``num_rows`` in all; one warning sums them up.

    Raises:
        ValueError: the manifest cannot be read, or no row gives a clip.
    """

    def __init__(
        self,
        manifest: str | Path,
        split: str,
        num_frames: int,
        sizes: Sequence[Sequence[int]],
        frame_rate: float | None,
        frame_multiple: int,
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> None:
        self.reader = LastReader(limits)
        self.frame_rate = frame_rate
        self.sizes = [(h, w) for h, w in sizes]
        self.parts: list[tuple[ClipRecord, int, int]] = []  # row, first frame, frames
        self.left_out: list[LeftOut] = []
        rows = read_manifest(manifest, split=split)
        self.num_rows = len(rows)
        there = {path: is_file(path) for path in {row.path for row in rows}}
        for row in rows:
            reason = self._add(row, num_frames, frame_multiple) if there[row.path] else MISSING
            if reason:
                self.left_out.append(LeftOut(row.row, row.path, row.start, reason))
        if not self.parts:
            fix = next(fix for kind, fix in FIXES.items() if by_reason(self.left_out)[0][0].startswith(kind))
            raise ValueError(f"data.manifest={manifest}: no clip of split {split!r}: {self._summary()}: {fix}")
        if self.left_out:
            share = f"{len(self.left_out):,} of {self.num_rows:,} rows"
            logger.warning("data.manifest=%s: %s are left out: %s", manifest, share, self._summary())

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
            f"{record.path.resolve()}-{stat.st_size}-{stat.st_mtime_ns}-{record.start!r}-{first}"
            f"-{s.num_frames}x{s.height}x{s.width}-{s.frame_rate:g}fps"
        )

    def text(self, index: int, epoch: int) -> str:
        """The row's caption, in every epoch."""
        return self.parts[index][0].text

    def load(self, index: int) -> Clip:
        """Read clip ``index``; raises `data.video.VideoError` when its file is damaged."""
        record, first, frames = self.parts[index]
        s = self.shape(index)
        start, seconds = record.start + first / s.frame_rate, frames / s.frame_rate
        clip = self.reader(record.path).read(start, seconds, s.frame_rate)
        if len(clip.frames) < frames:
            reason = f"has {len(clip.frames)} of {frames} frames wanted: mend its manifest row"
            raise VideoError(record.path, reason)
        return Clip(fit(clip.frames[:frames], s.height, s.width), s.frame_rate)

    def single(self, index: int) -> "ManifestClips":
        """The data set of this clip alone, for another process to read."""
        one = copy.copy(self)
        one.parts, one.left_out, one.num_rows = [self.parts[index]], [], 1
        return one

    def _rate(self, record: ClipRecord) -> float:
        rate = self.frame_rate or record.fps
        assert rate is not None
        return rate

    def _add(self, row: ClipRecord, num_frames: int, multiple: int) -> str:
        """Take the clips of a row whose file is there; returns why there is none, or nothing."""
        record = _completed(row, self.frame_rate is None, self.reader)
        if isinstance(record, str):
            return record
        least = min(num_frames, 1 if multiple == 1 else 1 + multiple)
        total = _frames_at(record, self._rate(record))
        for first in range(0, total, num_frames):
            usable = min(num_frames, total - first)
            usable -= (usable - 1) % multiple
            if usable == num_frames or (first == 0 and usable >= least):
                self.parts.append((record, first, usable))
        if total >= least:
            return ""
        rate = f"{self.frame_rate:g} fps" if self.frame_rate else "its own rate"
        return f"{TOO_SHORT} {least} frame{'s' if least > 1 else ''} at {rate}"

    def _summary(self) -> str:
        reasons = by_reason(self.left_out)
        told = [
            f"{len(rows):,} {reason} (row {rows[0].row}, {rows[0].path.name}{', …' if len(rows) > 1 else ''})"
            for reason, rows in reasons[:REASONS_TOLD]
        ]
        others = sum(len(rows) for _, rows in reasons[REASONS_TOLD:])
        return "; ".join([*told, *([f"{others:,} for other reasons"] if others else [])])


def _completed(record: ClipRecord, rate_needed: bool, reader: LastReader) -> ClipRecord | str:
    """The row with what the manifest leaves out read from the file, its size, the time at which it ends, its rate; or
    why it cannot be."""
    end = record.stop
    if end is None or record.width is None or record.height is None or (rate_needed and record.fps is None):
        try:
            info = reader(record.path).info()
        except VideoError as error:
            return f"{UNREADABLE}: {error.reason}"
        return replace(
            record,
            width=info.width,
            height=info.height,
            fps=record.fps or info.frame_rate,
            end=info.duration if end is None else min(end, info.duration),
        )
    return replace(record, end=end)


def _frames_at(record: ClipRecord, frame_rate: float) -> int:
    """Frames that a completed row gives at ``frame_rate``; a tenth of one may be missing at its end."""
    assert record.end is not None
    return max(0, math.floor((record.end - record.start) * frame_rate + 0.1))
