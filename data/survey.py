"""What is in each of many video files: size, rate and shots, found once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.journal import Journal
from data.manifest import is_whole
from data.shots import Shot, find_shots
from data.workers import by_processes, by_ray

VERSION = 1
"""Raise it when another version finds other shots or figures, so that old and new ones do not mix."""


@dataclass(frozen=True)
class Source:
    """What was found in one file: its shots, or why it cannot be read. size, changed: of the file, in bytes and
    nanoseconds, by which a later run knows that it is the same. version: of what found it."""

    path: str
    size: int
    changed: int
    width: int = 0
    height: int = 0
    fps: float = 0.0
    shots: tuple[Shot, ...] = ()
    error: str = ""
    version: int = VERSION


def survey(path: Path) -> Source:
    """The shots of one file, or why it cannot be read."""
    from data.video import VideoError, VideoReader

    known = identity(path)
    if not nameable(str(path)):
        return Source(**known, error="its name cannot stand in a manifest: rename it")
    try:
        reader = VideoReader(path)
        info = reader.info()
        shots = tuple(find_shots(reader))
        return Source(**known, width=info.width, height=info.height, fps=info.frame_rate, shots=shots)
    except VideoError as error:
        return Source(**known, error=error.reason)
    except OSError as error:
        return Source(**known, error=f"cannot be read ({error.strerror})")


def nameable(path: str) -> bool:
    """Whether a text file can hold it in a line; bytes that are no UTF-8 it cannot."""
    return is_whole(path) and not set(path) & {"\n", "\r", "\0"}


def identity(path: Path) -> dict[str, Any]:
    """What tells a file from what it was: path, size and time of change; 0 for one that is gone."""
    try:
        stat = path.stat()
    except OSError:
        return {"path": str(path), "size": 0, "changed": 0}
    return {"path": str(path), "size": stat.st_size, "changed": stat.st_mtime_ns}


def known_source(journal: Journal, path: Path) -> Source | None:
    """What an earlier run of this version found in this file, if it has not changed since. One that could not be read
    may be sound by now."""
    fact = journal.facts.get(str(path))
    known = {**identity(path), "version": VERSION, "error": ""}
    if fact is None or any(fact.get(name) != value for name, value in known.items()):
        return None
    return Source(**{**fact, "shots": tuple(Shot(**shot) for shot in fact["shots"])})


def survey_all(paths: Sequence[Path], known: Path, engine: str, workers: int) -> list[Source]:
    """What is in all files, in order.

    Args:
        known: a `Journal` of earlier runs; what is new is added.
        engine: "local", with so many ``workers``, or "ray" (see `data.workers`).
    """
    journal = Journal(known)
    sources = {path: source for path in paths if (source := known_source(journal, path))}
    new = [path for path in paths if path not in sources]
    found = by_ray(lambda: survey, new, 1) if engine == "ray" else by_processes(survey, new, workers)
    with tqdm(initial=len(sources), total=len(paths), desc="shots", unit="file", disable=None) as bar:
        for path, source in found:
            sources[path] = source or Source(**identity(path), error="reading it ends the process")
            journal.put(str(path), asdict(sources[path]))
            bar.update()
    journal.settle()
    return [sources[path] for path in paths]
