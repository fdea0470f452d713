"""A folder of videos as a manifest: its shots, which of them are worth training on, and what they show."""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.manifest import COLUMNS
from data.sheet import replacing
from data.shots import Seen, Shot, find_shots

SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
HEADER = ("path", "text", "width", "height", "fps", "num_frames", "start", "end", "motion")


@dataclass(frozen=True)
class Rules:
    """What a shot must be. Levels are of 256; motion is the mean change of a pixel in an eighth of a second.

    Raises:
        ValueError: a value is below 0.
    """

    min_seconds: float = 1.0
    min_brightness: float = 12.0
    min_contrast: float = 6.0
    min_motion: float = 0.15

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
        if shot.motion < self.min_motion:
            return "still"
        return None


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


def find_videos(places: Iterable[Path]) -> list[Path]:
    """The files given, and all in the folders given whose suffix is that of a video, in order.

    Raises:
        ValueError: a place is not there, or there is no video.
    """
    places, found = list(places), []
    for place in places:
        if place.is_dir():
            found += [path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        elif place.is_file():
            found.append(place)
        else:
            raise ValueError(f"{place}: no such file or folder")
    if not found:
        raise ValueError(f"{', '.join(map(str, places))}: no file whose name ends as a video's does, such as .mp4")
    return sorted({path.resolve() for path in found})


def survey(path: Path, facts: Path) -> Source:
    """The shots of one file, from ``facts`` where an earlier run left them, else found and left there."""
    from data.video import VideoError, VideoReader

    stat = path.stat()
    kept = facts / f"{hashlib.blake2b(str(path).encode(), digest_size=12).hexdigest()}.json"
    if kept.is_file():
        source = _from_json(json.loads(kept.read_text(encoding="utf-8")))
        if (source.size, source.changed) == (stat.st_size, stat.st_mtime_ns):
            return source
    known = {"path": str(path), "size": stat.st_size, "changed": stat.st_mtime_ns}
    try:
        reader = VideoReader(path)
        info = reader.info()
        source = Source(
            **known, width=info.width, height=info.height, fps=info.frame_rate, shots=tuple(find_shots(reader))
        )
    except VideoError as error:
        source = Source(**known, error=f"{error.reason} (good frames: {error.good_frames})")
    with replacing(kept) as draft:
        draft.write_text(json.dumps(asdict(source)) + "\n", encoding="utf-8")
    return source


def _from_json(found: dict[str, Any]) -> Source:
    return Source(**{**found, "shots": tuple(Shot(**shot) for shot in found["shots"])})


def choose(sources: Sequence[Source], rules: Rules) -> tuple[list[tuple[Source, Shot]], list[tuple[str, float, float, str]]]:
    """The shots to train on, in order, and what is left out: path, start, end and why. Of shots that nearly look alike
    the first is kept."""
    kept: list[tuple[Source, Shot]] = []
    left_out: list[tuple[str, float, float, str]] = []
    seen = Seen()
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


def sidecar_caption(path: Path) -> str:
    """What a .txt or .json beside a video says of it: ``a.txt``, ``a.mp4.txt``, or the text, caption, prompt or
    description of ``a.json``; empty where there is none.

    Raises:
        ValueError: it is no UTF-8 text, or no JSON object.
    """
    for file in (path.with_suffix(".txt"), path.with_name(path.name + ".txt"), path.with_suffix(".json")):
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8-sig")
            if file.suffix == ".txt":
                return " ".join(text.split())
            found = json.loads(text)
            told = next((found[name] for name in COLUMNS["text"] if isinstance(found.get(name), str)), "")
            return " ".join(told.split())
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{file} is no {'UTF-8 text' if file.suffix == '.txt' else 'JSON object'}") from error
    return ""


def write_manifest(path: Path, clips: Sequence[tuple[Source, Shot, str]]) -> None:
    """A csv as `data.manifest.read_manifest` takes it; files are named from its folder."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for source, shot, text in clips:
            name = os.path.relpath(source.path, path.parent.resolve())
            size = (source.width, source.height, f"{source.fps:.6g}", shot.num_frames)
            writer.writerow([name, text, *size, shot.start, shot.end, shot.motion])


def write_left_out(path: Path, left_out: Sequence[tuple[str, float, float, str]]) -> Counter[str]:
    """What is not in the manifest, and why, as a csv; how many for each reason."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "start", "end", "reason"))
        writer.writerows(left_out)
    return Counter(reason for *_, reason in left_out)
