"""Size, range and rate of frames: pure functions on uint8 `(t, h, w, c)` tensors."""

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

CHUNK = 16  # frames resized at a time, so that the float copy of a long clip is never whole in memory


def axis_weights(size: int, new_size: int) -> Tensor:
    """Weights `(new_size, size)` that resize one axis; each row sums to 1.

    Shrinking takes the mean over the exact area that an output pixel covers (fractions of pixels count as
    fractions), so it never aliases and never shifts. Growing interpolates linearly between pixel centres.
    """
    scale = size / new_size
    edges = torch.arange(new_size + 1, dtype=torch.float64) * scale
    pixels = torch.arange(size, dtype=torch.float64)
    if new_size <= size:
        right = torch.minimum(edges[1:, None], pixels[None] + 1)
        left = torch.maximum(edges[:-1, None], pixels[None])
        return ((right - left).clamp(min=0) / scale).float()
    centres = ((edges[:-1] + edges[1:]) / 2 - 0.5).clamp(0, size - 1)
    return (1 - (centres[:, None] - pixels[None]).abs()).clamp(min=0).float()


def resize_area(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 `(t, h, w, c)` to `(t, height, width, c)`, by area where it shrinks, linearly where it
    grows. The aspect is not kept: `fit` does that."""
    check_frames(frames)
    if height < 1 or width < 1:
        raise ValueError(f"size {width}x{height} must be at least 1x1: choose a larger size")
    t, h, w, _ = frames.shape
    if (h, w) == (height, width):
        return frames
    rows = axis_weights(h, height)
    columns = axis_weights(w, width)
    resized = frames.new_empty(t, height, width, frames.shape[3])
    for i in range(0, t, CHUNK):
        chunk = rearrange(frames[i : i + CHUNK].float(), "t h w c -> t c h w")
        chunk = rows @ chunk @ columns.T
        resized[i : i + CHUNK] = rearrange(chunk.round().clamp(0, 255), "t c h w -> t h w c").to(torch.uint8)
    return resized


def center_crop_to_aspect(frames: Tensor, aspect: float) -> Tensor:
    """The largest centred part of `(t, h, w, c)` whose width / height is `aspect`, to the nearest pixel."""
    check_frames(frames)
    if not (math.isfinite(aspect) and aspect > 0):
        raise ValueError(f"aspect={aspect} must be a positive number: give width / height, such as 1.778")
    _, h, w, _ = frames.shape
    new_h = min(h, max(1, round(w / aspect)))
    new_w = min(w, max(1, round(h * aspect)))
    top = (h - new_h) // 2
    left = (w - new_w) // 2
    return frames[:, top : top + new_h, left : left + new_w]


def fit(frames: Tensor, height: int, width: int) -> Tensor:
    """Crop uint8 `(t, h, w, c)` about its centre to the aspect of the target, then resize to
    `(t, height, width, c)`: the target is covered, nothing is stretched."""
    return resize_area(center_crop_to_aspect(frames, width / height), height, width)


def to_float(frames: Tensor) -> Tensor:
    """uint8 `(t, h, w, c)` to float32 `(c, t, h, w)` in [-1, 1]; likewise a batch of them, `(b, t, h, w, c)`."""
    check_frames(frames, batch=frames.ndim == 5)
    return rearrange(frames, "... t h w c -> ... c t h w").float() / 127.5 - 1


def to_uint8(frames: Tensor) -> Tensor:
    """Float `(c, t, h, w)` in [-1, 1] to uint8 `(t, h, w, c)`, or a batch; values outside are clipped. The exact
    inverse of `to_float`."""
    levels = ((frames.float() + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "... c t h w -> ... t h w c").to(torch.uint8)


def contained_size(height: int, width: int, most_height: int, most_width: int) -> tuple[int, int]:
    """`(height, width)` of the largest picture of the shape of `height` x `width` that is at most so large."""
    scale = min(most_height / height, most_width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def nearest_size(height: int, width: int, pixels: int, grid: int) -> tuple[int, int]:
    """`(height, width)`, multiples of `grid`, of about `pixels` pixels, shaped like `height` x `width`.

    Of the sizes on the grid around the ideal one, that with the smallest error of log area plus log aspect is
    taken.
    """
    if min(height, width, pixels, grid) < 1:
        raise ValueError(f"height={height}, width={width}, pixels={pixels} and grid={grid} must all be at least 1")
    aspect = width / height
    ideal = math.sqrt(pixels / aspect)
    sizes = [
        (max(1, row) * grid, max(1, column) * grid)
        for row in (math.floor(ideal / grid), math.ceil(ideal / grid))
        for column in (math.floor(ideal * aspect / grid), math.ceil(ideal * aspect / grid))
    ]
    return min(sizes, key=lambda s: abs(math.log(s[0] * s[1] / pixels)) + abs(math.log(s[1] / s[0] / aspect)))


def stamp_tolerance(times: np.ndarray, end: float) -> float:
    """Seconds by which a stamp may be late and still count as on time: a tenth of the usual frame interval.
    Containers round stamps (Matroska to 1 ms), and 67 ms must still be frame 2 of 30 a second."""
    return 0.1 * float(np.median(np.diff(np.append(times, end))))


def resample_indices(times: np.ndarray, end: float, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """Which frames a player shows at `start + i / frame_rate`, up to `end`: indices `(n,)`, never falling.

    `times (m,)` are the frames' rising stamps in seconds, `end` the time at which the last one leaves the
    screen. Each sample takes the last frame whose stamp is not after it, within `stamp_tolerance`; so
    resampling to the clip's own rate gives each frame once.
    """
    count = max(1, math.ceil((end - start) * frame_rate - 0.1))
    samples = start + np.arange(count) / frame_rate + stamp_tolerance(times, end)
    return np.maximum(np.searchsorted(times, samples, side="right") - 1, 0)


def check_frames(frames: Tensor, batch: bool = False) -> None:
    """Raise `ValueError` unless `frames` is uint8 `(t, h, w, c)`, or a `batch` of such, and not empty."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 + batch or frames.numel() == 0:
        raise ValueError(
            f"frames are {frames.dtype} {tuple(frames.shape)} and must be uint8 (t, h, w, c), not empty: "
            "convert floats with data.transforms.to_uint8"
        )
