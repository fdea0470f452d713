"""How long short reads of clips take by our reader, and by decord beside it in the same process.

decord hangs on some files, so what measures is a child process that can be ended and started anew.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.manifest import ClipRecord
from data.seeding import draw_integer, keyed_generator
from video_dit.evaluation.requirements import Requirement

Read = Callable[[], Any]

FRAMES = 17
"""Of a read; of a shorter clip all."""
LIMIT = 30.0
"""Seconds that all reads of a clip may take; a child that takes longer is ended."""
APART = 8.0
"""Levels from which on decord's frames are other ones: its conversion to RGB, less exact, alone makes 1 or 2."""
ALLOWED = 1.10
"""How many times as long as by decord ours may take."""
CELLS = "{:>7}{:>9}{:>11}{:>8}{:>8}  {:11}{:12}{}"
HEADING = CELLS.format("ratio", "ours ms", "decord ms", "levels", "frames", "picture", "codec", "file")


class OtherFramesError(ValueError):
    """decord gives frames, but not those that ours gives."""


@dataclass(frozen=True)
class ReadTask:
    """A clip that is read ``reads`` times, at places that ``seed`` and its row decide, by ``decord`` as well or not."""

    record: ClipRecord
    reads: int
    seed: int
    decord: bool


@dataclass(frozen=True)
class ReadTimes:
    """What was measured of a clip.

    ours_seconds, decord_seconds: of each read; decord's are empty where it was not measured. levels: by how much the
    pixels of both differ, on average over the read where it is most, out of 255.
    """

    width: int
    height: int
    num_frames: int
    codec: str
    ours_seconds: list[float]
    decord_seconds: list[float]
    levels: float


@dataclass(frozen=True)
class ReadRow:
    """A clip's times, None where ours failed; ``reason`` says why it is not compared, None where it is."""

    name: str
    times: ReadTimes | None
    reason: str | None

    @property
    def ratio(self) -> float | None:
        """Our time over that of decord."""
        t = self.times
        return sum(t.ours_seconds) / sum(t.decord_seconds) if t and t.decord_seconds else None

    def line(self) -> str:
        """A line under `HEADING`."""
        file = self.name + (f": not compared, {self.reason}" if self.reason else "")
        if not (t := self.times):
            return CELLS.format(*"-------", file)
        ours, theirs = (f"{1e3 * sum(s) / len(s):.1f}" if s else "-" for s in (t.ours_seconds, t.decord_seconds))
        ratio, levels = ("-", "-") if self.ratio is None else (f"{self.ratio:.2f}", f"{t.levels:.1f}")
        return CELLS.format(ratio, ours, theirs, levels, t.num_frames, f"{t.width}x{t.height}", t.codec, file)


@dataclass(frozen=True)
class Reading:
    """All clips; ``missing`` says why decord is not there, None where it is."""

    rows: list[ReadRow]
    missing: str | None

    def totals(self) -> tuple[float, float]:
        """Seconds of all reads, ours and decord's: of the clips that both read, or where there is none of all."""
        times = [row.times for row in self.rows if row.times]
        times = [t for t in times if t.decord_seconds] or times
        return sum(sum(t.ours_seconds) for t in times), sum(sum(t.decord_seconds) for t in times)

    def line(self) -> str:
        """The sum, for people to read."""
        (ours, theirs), ratios = self.totals(), [row.ratio for row in self.rows if row.ratio is not None]
        if not ratios:
            return f"total ours {ours:.2f} s"
        total = f"total ours {ours:.2f} s, decord {theirs:.2f} s, ratio {ours / theirs:.2f}"
        return f"{total}; median of the ratios of {len(ratios)} clips {median(ratios):.2f}"

    def requirement(self) -> Requirement:
        """Whether ours takes little more time than decord, in all."""
        ours, theirs = self.totals()
        ratio = ours / theirs if theirs else None
        text = f"reads take at most {ALLOWED:.2f} times as long as by decord alone; times"
        return Requirement(text, ratio, None if ratio is None else ratio <= ALLOWED)

    def as_json(self) -> dict[str, Any]:
        """Figures with their units."""
        ours, theirs = self.totals()
        clips = [asdict(row) | {"ratio": row.ratio} for row in self.rows]
        return {"decord_missing": self.missing, "ours_seconds": ours, "decord_seconds": theirs, "clips": clips}


def measure_reading(
    records: Sequence[ClipRecord], folder: Path, reads: int, seed: int, say: Callable[[str], None]
) -> Reading:
    """Read `FRAMES` frames at ``reads`` random places of each clip, by ours and, where it is installed, decord in turn.

    Both open the file anew for each read and give the same frames as RGB; the file was read once before.

    Args:
        records: rows of a manifest. folder: that files are named from. say: takes each line as soon as it is there.
    """
    with closing(ReadProcess()) as process:
        if process.missing:
            say(f"decord {process.missing}, so ours is read alone: pip install 'video-dit[decord]'")
        say(HEADING)
        rows = []
        for r in tqdm(records, desc="reading", leave=False, disable=None):
            name = r.path.relative_to(folder).as_posix() if r.path.is_relative_to(folder) else str(r.path)
            rows.append(measure_clip(process, ReadTask(r, reads, seed, not process.missing), name))
            say(rows[-1].line())
        found = Reading(rows, process.missing)
    say(found.line())
    return found


def measure_clip(process: "ReadProcess", task: ReadTask, name: str) -> ReadRow:
    """By both; by ours alone where decord cannot."""
    found = process.measure(task)
    if isinstance(found, ReadTimes):
        return ReadRow(name, found, None)
    alone = process.measure(replace(task, decord=False)) if task.decord else found
    return ReadRow(name, None, f"ours {alone}") if isinstance(alone, str) else ReadRow(name, alone, f"decord {found}")


class ReadProcess:
    """A process that measures one clip after the other; one that takes more than `LIMIT` for a clip is replaced.

    ``missing`` says why decord cannot be imported, None where it can be.
    """

    def __init__(self) -> None:
        self._start()

    def measure(self, task: ReadTask) -> ReadTimes | str:
        """The clip's times, or why there are none."""
        try:
            self._connection.send(task)
            if self._connection.poll(LIMIT):
                found: ReadTimes | str = self._connection.recv()
                return found
            reason = f"takes more than {LIMIT:g} s"
        except (EOFError, ConnectionError):
            reason = "ends the process"
        self.close()
        self._start()
        return reason

    def _start(self) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imports torch and diffusers once for all
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.missing: str | None = self._connection.recv()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def serve(connection: Connection) -> None:
    """What the child does: say whether decord is missing, then answer each task until it is ended."""
    connection.send(decord_missing())
    while True:
        task: ReadTask = connection.recv()
        try:
            connection.send(read_times(task))
        except OtherFramesError as error:
            connection.send(str(error))
        except Exception as error:  # decord's are of many kinds
            connection.send(f"fails ({reason(error)})")


def decord_missing() -> str | None:
    """Why decord cannot be imported, None where it can."""
    try:
        import decord
    except (ImportError, OSError) as error:
        return "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
    decord.logging.set_level(decord.logging.QUIET)
    return None


def reason(error: Exception) -> str:
    """The first line of what an error says, without the place in decord's source and the path."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[\d:]+\] \S+?:\d+: (\[.*?\] )?", "", line)


def read_times(task: ReadTask) -> ReadTimes:
    """Measure one clip here; raises what either reader raises, and OtherFramesError where the two disagree."""
    from data.video import VideoReader, read_video  # see `data.last_reader.LastReader`

    reader, record = VideoReader(task.record.path), task.record
    info, times = reader.info(), [*reader.index.times.tolist(), reader.index.end]
    first = int(np.searchsorted(times[:-1], record.start + 1e-6, side="right")) - 1
    last = len(times) - 1 if record.end is None else int(np.searchsorted(times[:-1], record.end - 1e-6))
    generator = keyed_generator(task.seed, record.row, "reads")
    found = ReadTimes(info.width, info.height, info.num_frames, info.codec, [], [], 0.0)
    for number in range(task.reads):
        begin = first + draw_integer(max(1, last - first - FRAMES + 1), generator)
        stop = min(begin + FRAMES, last)
        ours = partial(read_video, record.path, start=times[begin], seconds=times[stop] - times[begin])
        theirs = partial(read_by_decord, record.path, begin, stop)
        turns: list[tuple[Read, list[float]]] = [(ours, found.ours_seconds), (theirs, found.decord_seconds)]
        turns = turns[: 1 + task.decord]
        frames: dict[Read, Any] = {}
        for read, seconds in turns if (number + record.row) % 2 else turns[::-1]:
            began = time.perf_counter()
            frames[read] = read()
            seconds.append(time.perf_counter() - began)
        if task.decord:
            apart = mean_levels(frames[ours].frames, torch.from_numpy(frames[theirs]))
            found = replace(found, levels=max(found.levels, apart))
    return found


def read_by_decord(path: Path, begin: int, stop: int) -> np.ndarray:
    """Frames ``begin`` to ``stop`` as RGB ``(t, h, w, 3)`` uint8, the file opened anew."""
    import decord  # optional

    frames: np.ndarray = decord.VideoReader(str(path), num_threads=0).get_batch(range(begin, stop)).asnumpy()
    return frames


def mean_levels(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """By how many levels frames differ on average; raises OtherFramesError where they are other ones."""
    if ours.shape != theirs.shape:
        shapes = ["x".join(map(str, frames.shape)) for frames in (theirs, ours)]
        raise OtherFramesError(f"gives frames of {shapes[0]} in place of {shapes[1]}")
    apart = [float((a.short() - b.short()).abs().float().mean()) for a, b in zip(ours, theirs, strict=True)]
    levels = sum(apart) / len(apart)
    if levels >= APART:
        raise OtherFramesError(f"gives other frames, {levels:.0f} levels from ours on average")
    return levels
