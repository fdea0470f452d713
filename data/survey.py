"""What is in each of many video files: size, rate and shots, found once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.journal import Journal
from data.shots import Shot, find_shots
from data.workers import by_processes, by_ray


@dataclass(frozen=True)
class Source:
    """What was found in one file: its shots, or why it cannot be read. size, changed: of the file, in bytes and
    nanoseconds, by which a later run knows that it is the same."""

    path: str
    size: int
    changed: int
    width: int = 0
    height: int = 0
    fps: float = 0.0
    shots: tuple[Shot, ...] = ()
    error: str = ""


def survey(path: Path) -> Source:
    """The shots of one file, or why it cannot be read."""
    from data.video import VideoError, VideoReader

    known = identity(path)
    if not str(path).isprintable():  # nor is what stands for bytes that are no UTF-8
        return Source(**known, error="its name cannot stand in a manifest: rename it")
    try:
        reader = VideoReader(path)
        info = reader.info()
        shots = tuple(find_shots(reader))
        return Source(**known, width=info.width, height=info.height, fps=info.frame_rate, shots=shots)
    except VideoError as error:
        return Source(**known, error=error.reason)


def identity(path: Path) -> dict[str, Any]:
    """What tells a file from what it was: path, size and time of change."""
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "changed": stat.st_mtime_ns}


def known_source(journal: Journal, path: Path) -> Source | None:
    """What an earlier run found in this file, if it has not changed since."""
    fact = journal.facts.get(str(path))
    if fact is None or any(fact.get(name) != value for name, value in identity(path).items()):
        return None
    try:
        return Source(**{**fact, "shots": tuple(Shot(**shot) for shot in fact["shots"])})
    except TypeError:  # it was found by another version
        return None


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
