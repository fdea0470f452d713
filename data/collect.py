"""A folder of videos as a manifest: its shots, which of them are worth training on, and what they show."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.sheet import replacing
from data.shots import Seen, Shot
from data.survey import Source

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2"),
    *(".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".mxf", ".dv", ".divx", ".rm", ".rmvb", ".y4m", ".nut"),
)
BESIDE = (".txt", ".json")  # captions
HEADER = ("path", "text", "width", "height", "fps", "num_frames", "start", "end", "motion")


@dataclass(frozen=True)
class Rules:
    """What a shot must be, in seconds and in levels of 256 (see `data.shots.Shot`); ``min_motion`` is for the part of
    the picture that moves most. 0 keeps all.

    Raises:
        ValueError: a value is below 0.
    """

    min_seconds: float = 1.0
    min_brightness: float = 6.0
    min_contrast: float = 2.0
    min_motion: float = 0.3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ValueError(f"{name}={value} must be at least 0")

    def objection(self, shot: Shot) -> str | None:
        """Why the shot is left out, or None."""
        if shot.end - shot.start < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        if shot.brightness < self.min_brightness:
            return "black"
        if shot.contrast < self.min_contrast:
            return "of one colour"
        if shot.liveliest < self.min_motion:
            return "still"
        return None


def find_videos(places: Iterable[Path]) -> tuple[list[Path], int]:
    """The files given, and all in the folders given and below whose suffix is that of a video, in order; and how many
    files there have another name, captions not counted. Links are followed, and keep their names.

    Raises:
        ValueError: a place is not there, a folder cannot be read, or there is no video.
    """
    places = list(places)
    found: list[Path] = []
    others = 0
    for place in places:
        if place.is_dir():
            for path in files_below(place):
                is_video = path.suffix.lower() in SUFFIXES
                found += [path] if is_video else []
                others += not is_video and path.suffix.lower() not in BESIDE
        elif place.is_file():
            found.append(place)
        else:
            raise ValueError(f"{place}: no such file or folder")
    if not found:
        raise ValueError(f"{', '.join(map(str, places))}: no file whose name ends as a video's does, such as .mp4")
    return sorted({path.parent.resolve() / path.name for path in found}), others


def files_below(folder: Path) -> Iterator[Path]:
    """All files, behind links as well; a folder that is met a second time, as in a circle of links, is left alone.
    ValueError where one cannot be read."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}): mend its permissions, or move it away")

    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for name in names if (path := Path(place, name)).is_file())


def choose(
    sources: Iterable[Source], rules: Rules, nearness: float
) -> tuple[list[tuple[Source, Shot]], list[tuple[str, float, float, str]]]:
    """The shots to train on, in order, and what is left out: path, start, end and why. Of shots that look nearly the
    same (see `data.shots.Seen`) the first is kept."""
    kept: list[tuple[Source, Shot]] = []
    left_out: list[tuple[str, float, float, str]] = []
    seen = Seen(nearness)
    for source in sorted(sources, key=lambda source: source.path):
        if source.error:
            left_out.append((source.path, 0.0, 0.0, source.error))
        for shot in source.shots:
            reason = rules.objection(shot)
            if reason is None and seen.twin(shot.thumbnail):
                reason = "nearly the same as one before"
            if reason:
                left_out.append((source.path, shot.start, shot.end, reason))
            else:
                kept.append((source, shot))
    return kept, left_out


def write_manifest(path: Path, clips: Sequence[tuple[Source, Shot, str]]) -> None:
    """A csv as `data.manifest.read_manifest` takes it; files are named from its folder."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for source, shot, text in clips:
            name = os.path.relpath(source.path, path.parent.resolve())
            name = f"./{name}" if name[0].isspace() else name  # whoever reads a manifest strips what is around a name
            size = (source.width, source.height, f"{source.fps:.6g}", shot.num_frames)
            writer.writerow([name, text, *size, shot.start, shot.end, shot.motion])


def write_left_out(path: Path, left_out: Sequence[tuple[str, float, float, str]]) -> None:
    """What is not in the manifest, and why, as a csv."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "start", "end", "reason"))
        writer.writerows(left_out)
