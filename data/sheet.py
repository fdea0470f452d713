"""Contact sheets: a clip's frames as one PNG; and what all writers of files share: checks, and whole files or none."""

import math
import secrets
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GIVEN_COLOUR, MADE_COLOUR = (40, 180, 70), (240, 140, 20)


def write_contact_sheet(
    path: str | Path,
    frames: Tensor | np.ndarray,
    frame_rate: float,
    columns: int = 5,
    known: Tensor | np.ndarray | None = None,
    max_frames: int = 20,
    numbers: np.ndarray | None = None,
    shown: Sequence[int] = (),
) -> None:
    """Write a .png grid of up to `max_frames` evenly spaced frames of uint8 `(t, h, w, 3)`, each labelled
    with its time in seconds; small frames are enlarged to a short side of 128 or more.

    With `known (t,)` bool, frames that were given have a green border and those that were made an orange one. With
    `numbers (t,)`, rising, `frames` are those frames of a longer video: the nearest to even spacing are shown. Those
    that `shown` names are in any case, each in place of the nearest.
    """
    path = checked_target(path, ".png")
    array = checked_frames(frames)
    t, h, w, _ = array.shape
    if columns < 1 or max_frames < 1:
        raise ValueError(f"columns={columns} and max_frames={max_frames} must be at least 1")
    if known is not None and tuple(known.shape) != (t,):
        raise ValueError(f"known has shape {tuple(known.shape)} and must be ({t},): one flag a frame")
    places = np.arange(t) if numbers is None else numbers
    if places.shape != (t,):
        raise ValueError(f"numbers have shape {places.shape} and must be ({t},): one a frame")
    even = np.linspace(places[0], places[-1], min(t, max_frames)).round()
    picked = np.abs(places - even[:, None]).argmin(axis=1)
    free = np.ones(len(picked), dtype=bool)
    for number in shown[: len(picked)]:
        nearest = np.where(free, np.abs(even - number), np.inf).argmin()
        picked[nearest], free[nearest] = np.searchsorted(places, number), False
    picked = np.unique(picked)
    scale = max(1, math.ceil(128 / min(h, w)))
    border, label, gap = (4 if known is not None else 0), 20, 4
    cell_w, cell_h = w * scale + 2 * border + gap, h * scale + 2 * border + label + gap
    columns = min(columns, len(picked))
    sheet = Image.new("RGB", (columns * cell_w + gap, math.ceil(len(picked) / columns) * cell_h + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for i, number in enumerate(picked):
        x, y = gap + i % columns * cell_w, gap + i // columns * cell_h
        draw.text((x + border, y + 1), f"{places[number] / frame_rate:.2f} s", fill="black", font=font)
        y += label
        if known is not None:
            colour = GIVEN_COLOUR if known[number] else MADE_COLOUR
            draw.rectangle((x, y, x + w * scale + 2 * border - 1, y + h * scale + 2 * border - 1), colour)
        picture = Image.fromarray(np.ascontiguousarray(array[number]))
        picture = picture.resize((w * scale, h * scale), Image.Resampling.BICUBIC)
        sheet.paste(picture, (x + border, y + border))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def write_rows(path: str | Path, rows: Sequence[tuple[str, Tensor | np.ndarray]], columns: int = 6) -> None:
    """Write a .png with a row for each clip: its label, in two lines at most, above `columns` evenly spaced frames
    of uint8 `(t, h, w, 3)`. Clips may differ in size; small frames are enlarged to a short side of 96 or more."""
    path = checked_target(path, ".png")
    clips = [(label, checked_frames(frames)) for label, frames in rows]
    if not clips:
        raise ValueError(f"no clips to write to {path}: give at least one")
    gap, line = 4, 15
    scales = [max(1, math.ceil(96 / min(array.shape[1:3]))) for _, array in clips]
    heights = [array.shape[1] * scale + 2 * line + 2 * gap for (_, array), scale in zip(clips, scales, strict=True)]
    widths = [columns * (array.shape[2] * scale + gap) for (_, array), scale in zip(clips, scales, strict=True)]
    sheet = Image.new("RGB", (max(widths) + gap, sum(heights) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    letters = max(10, sheet.width // 6)  # in a line
    y = gap
    for (label, array), scale, height in zip(clips, scales, heights, strict=True):
        _, h, w, _ = array.shape
        for number, part in enumerate(textwrap.wrap(label, letters, max_lines=2, placeholder=" …")):
            draw.text((gap, y + number * line), part, fill="black", font=font)
        for column, number in enumerate(np.linspace(0, len(array) - 1, columns).round().astype(int)):
            picture = Image.fromarray(np.ascontiguousarray(array[number]))
            picture = picture.resize((w * scale, h * scale), Image.Resampling.BICUBIC)
            sheet.paste(picture, (gap + column * (w * scale + gap), y + 2 * line))
        y += height
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def checked_target(path: str | Path, *suffixes: str) -> Path:
    """`path`, if it ends in one of `suffixes` (any, if none is given) and its folder exists; otherwise ValueError."""
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: folder {path.parent} does not exist: make it first")
    return path


def checked_folder(given: str, folder: Path) -> None:
    """Raises ValueError where it, or one that it would lie in, is a file; ``given`` is how it was asked for."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if there.exists() and not there.is_dir():
        raise ValueError(f"{given}: {there} is a file: give a folder")


def checked_frames(frames: Tensor | np.ndarray) -> np.ndarray:
    """The frames as an array, if they are uint8 (t, h, w, 3) and not empty; otherwise ValueError."""
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else frames
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.size == 0:
        raise ValueError(
            f"frames are {array.dtype} {array.shape} and must be uint8 (t, h, w, 3), not empty: "
            "convert floats with data.transforms.to_uint8"
        )
    return array


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside it, for a file or a folder; renamed to `path` at the end, removed if anything fails."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
