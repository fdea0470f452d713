"""A manifest lists the clips of a data set: which file, what it shows, and what is known of it."""

import csv
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = {
    "path": ("path", "video", "video_path", "file_name", "filename", "file_path", "file", "media_path"),
    "text": ("text", "caption", "prompt", "description"),
    "width": ("width",),
    "height": ("height",),
    "fps": ("fps", "frame_rate", "framerate"),
    "num_frames": ("num_frames", "frames", "frame"),
    "start": ("start", "start_time", "start_sec"),
    "end": ("end", "end_time", "end_sec"),
    "seconds": ("seconds", "duration"),
    "split": ("split",),
}
"""What a column may be called, as Open-Sora, OpenVid, Hugging Face's video folders and trainers of CogVideoX, LTX and
Wan have it; the first that is there counts. ``seconds`` is the length of what is taken, if neither ``end`` nor
``num_frames`` with ``fps`` tells it."""


@dataclass(frozen=True)
class ClipRecord:
    """One row. `start` and `end` are seconds within the file (`end=None`: to its end). `width`, `height`,
    `fps` and `num_frames` are what the manifest says, None where it says nothing, or 0. `row` counts as a
    spreadsheet does: the header of a csv is row 1; in a jsonl it is the line, in a parquet the first row is row 1."""

    path: Path
    text: str
    row: int
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    start: float = 0.0
    end: float | None = None
    split: str | None = None

    @property
    def stop(self) -> float | None:
        """Seconds within the file at which what is taken ends, where the manifest says it."""
        if self.end is None and self.num_frames is not None and self.fps is not None:
            return self.start + self.num_frames / self.fps
        return self.end


def read_manifest(path: str | Path, split: str | None = None) -> list[ClipRecord]:
    """Read a `.csv`, `.jsonl` or `.parquet` manifest: a path and a text for each clip and, where known, its `width`,
    `height`, `fps`, `num_frames`, `start`, `end` and `split`, under any of the names in `COLUMNS`. Other columns are
    left alone.

    Relative paths are relative to the manifest's folder. Files are not opened here. With `split`, only rows
    of that split are read, if the manifest has splits at all; so rows of `test` are never trained on.

    Raises:
        ValueError: the file is missing or of another kind, a column is missing, a row is wrong (named
            by file and row), or no row is left.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"manifest {path} has no rows: list at least one clip in it")
    chosen = rows if split is None else _of_split(path, rows, split)
    return [_record(path, number, row) for number, row in chosen]


def has_split(path: str | Path, split: str) -> bool:
    """Whether a manifest tells splits apart and has rows of this one; raises ValueError as `read_manifest`."""
    return any(row.get("split") == split for _, row in _rows(Path(path)))


def is_file(path: Path) -> bool:
    """Whether it is one; not so where the path is too long, as of a caption that took its place, or may not be seen."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_whole(text: str) -> bool:
    """Whether UTF-8 can hold it; not so where it has half a character, as JSON may, or a byte that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbers of the rows, and what is in them by our names for the columns."""
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    read_rows = readers.get(path.suffix.lower())
    if read_rows is None:
        raise ValueError(f"manifest {path} ends in {path.suffix or 'nothing'!r}: use a .csv, .jsonl or .parquet file")
    if not path.is_file():
        raise ValueError(f"manifest {path} does not exist: check its path")
    try:
        for number, row in read_rows(path):
            yield number, _renamed(row)
    except UnicodeDecodeError as error:
        raise ValueError(f"manifest {path} is not UTF-8 text: save it as UTF-8") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        number = 1
        try:
            names = reader.fieldnames or []
            _check_columns(path, names)
            for number, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path.name} row {number}: {'more' if None in row else 'fewer'} fields than the "
                        f"header's {len(names)}: quote fields that hold commas"
                    )
                yield number, row
        except csv.Error as error:
            raise ValueError(f"{path.name} row {number + 1}: {error}: mend its quotes") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name} row {number}: not JSON ({error.msg}): mend the line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path.name} row {number}: must be one JSON object in braces: mend the line")
            yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            known = [name for name in file.schema_arrow.names if any(name in names for names in COLUMNS.values())]
            number = 0
            for batch in file.iter_batches(columns=known):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"manifest {path} is no parquet file ({str(error).splitlines()[0]}): write it anew") from error


def _check_columns(path: Path, present: Collection[str]) -> None:
    for name in ("path", "text"):
        if not any(alias in present for alias in COLUMNS[name]):
            others = ", ".join(COLUMNS[name][1:])
            raise ValueError(f"{path.name} row 1: column {name!r} is missing (or one of {others}): add it")


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """The row by our names for its columns."""
    found = {name: next((alias for alias in aliases if alias in row), None) for name, aliases in COLUMNS.items()}
    values = {name: row[alias] for name, alias in found.items() if alias is not None}
    empty = [name for name, value in values.items() if isinstance(value, float) and math.isnan(value)]  # to pandas
    return values | dict.fromkeys(empty)


def _of_split(path: Path, rows: list[tuple[int, dict[str, Any]]], split: str) -> list[tuple[int, dict[str, Any]]]:
    if not any(row.get("split") for _, row in rows):
        return rows
    for number, row in rows:
        if not row.get("split"):
            raise ValueError(f"{path.name} row {number}: split is empty, but other rows have one: fill it in")
    chosen = [(number, row) for number, row in rows if row["split"] == split]
    if not chosen:
        present = ", ".join(sorted({str(row["split"]) for _, row in rows}))
        raise ValueError(f"{path.name} has no row with split {split!r}: it has {present}")
    return chosen


def _record(path: Path, number: int, row: dict[str, Any]) -> ClipRecord:
    where = f"{path.name} row {number}"
    for name in ("path", "text"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{where}: {name} is missing or not text: fill it in")
        if not is_whole(row[name]):
            raise ValueError(f"{where}: {name}={row[name]!a:.80} has half a character, such as of an emoji: mend it")
    if not row["path"].strip():
        raise ValueError(f"{where}: path is empty: name the clip's file")
    start = _number(where, row, "start", minimum=0.0) or 0.0
    end = _number(where, row, "end", minimum=0.0)
    seconds = _number(where, row, "seconds", minimum=0.0)
    if end is None and seconds and not (row.get("fps") and row.get("num_frames")):
        end = start + seconds
    if end is not None and end <= start:
        raise ValueError(f"{where}: end={end:g} must come after start={start:g} (seconds): change either")
    return ClipRecord(
        path=path.parent / row["path"].strip(),
        text=row["text"].strip(),
        row=number,
        width=_whole(where, row, "width"),
        height=_whole(where, row, "height"),
        fps=_number(where, row, "fps", minimum=0) or None,
        num_frames=_whole(where, row, "num_frames"),
        start=start,
        end=end,
        split=str(row["split"]) if row.get("split") else None,
    )


def _number(where: str, row: dict[str, Any], name: str, minimum: float) -> float | None:
    """The number in column `name`, None where it is empty or absent. "1200+" counts as 1200."""
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value.strip().removesuffix("+") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= minimum):
        raise ValueError(
            f"{where}: {name}={value!r} must be a number of at least {minimum:g}: mend it or leave it empty"
        )
    return number


def _whole(where: str, row: dict[str, Any], name: str) -> int | None:
    number = _number(where, row, name, minimum=0)
    if number is not None and number != int(number):
        raise ValueError(f"{where}: {name}={row[name]!r} must be a whole number: mend it or leave it empty")
    return int(number) if number else None
