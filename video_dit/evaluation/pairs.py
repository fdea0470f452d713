"""Clips beside what an autoencoder makes of them, to look at: a picture and a video."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.sheet import write_rows

COLUMNS = 4
GAP = 4  # pixels between original and reconstruction; even, as H.264 needs
STRIP = 20  # pixels, for the label
LEAST_SECONDS = 2.0  # that a clip is in the video: a shorter one is played again


@dataclass(frozen=True)
class Pair:
    """A clip and its reconstruction, both uint8 ``(t, h, w, 3)``; ``frame_rate`` in frames a second."""

    label: str
    original: Tensor
    decoded: Tensor
    frame_rate: float


def write_picture(path: Path, pairs: Sequence[Pair]) -> None:
    """A .png with a row for each clip, frames of the original above those of the reconstruction."""
    rows = []
    for pair in pairs:
        white = torch.full_like(pair.original[:, :GAP], 255)
        rows.append(
            (
                f"{pair.label}: original above, reconstruction below",
                torch.cat([pair.original, white, pair.decoded], dim=1),
            )
        )
    write_rows(path, rows, COLUMNS)


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """An .mp4 of the clips one after the other, the original on the left, the reconstruction on the right.

    Each is played at its own rate, and again until it has been on for `LEAST_SECONDS`. Smaller clips are enlarged by
    whole factors where that fits. Raises ValueError if there are no clips, or the name or folder is no good.
    """
    from data.video import write_video  # PyAV may be missing where nothing is written

    if not pairs:
        raise ValueError(f"no clips to write to {path}: give at least one")
    height = max(pair.original.shape[1] for pair in pairs)
    width = max(2 * pair.original.shape[2] + GAP for pair in pairs)
    rate = max(pair.frame_rate for pair in pairs)
    write_video(path, (frame for pair in pairs for frame in _canvases(pair, height, width, rate)), rate)


def _canvases(pair: Pair, height: int, width: int, rate: float) -> Iterator[np.ndarray]:
    """The frames of a pair at ``rate``, one at a time, uint8 ``(1, STRIP + height, width, 3)``, rounded up to even."""
    t, h, w, _ = pair.original.shape
    scale = min(height // h, (width - GAP) // (2 * w))
    canvas = Image.new("RGB", (width + width % 2, height + STRIP + height % 2), "black")
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 2), f"{pair.label}: original, reconstruction", fill="white", font=ImageFont.load_default(size=13))
    x, y = (width - GAP) // 2 - w * scale, STRIP + (height - h * scale) // 2
    times = max(1, math.ceil(LEAST_SECONDS * pair.frame_rate / t))
    for number in range(round(times * t * rate / pair.frame_rate)):
        now = min(int((number + 0.5) * pair.frame_rate / rate), times * t - 1) % t
        for left, frames in ((x, pair.original), (x + w * scale + GAP, pair.decoded)):
            picture = Image.fromarray(frames[now].numpy())
            canvas.paste(picture.resize((w * scale, h * scale), Image.Resampling.NEAREST), (left, y))
        yield np.asarray(canvas)[None]
