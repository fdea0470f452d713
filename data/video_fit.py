"""Videos and pictures of any kind, cropped and resized to what a model takes; what was changed is told in a line."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from data.transforms import fit
from data.video import VideoError, VideoReader

MAX_PIXELS = 1 << 26  # of a picture, as of a video's frame
ASPECT_ERROR = 0.03  # of a mask, beside the video's
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


def fitted_video(path: Path, height: int, width: int, frame_rate: float) -> tuple[Tensor, str]:
    """The frames of a video at ``frame_rate``, uint8 `(t, height, width, 3)`, cropped about their centre and resized by
    area as they are read; and what that changed, or "".

    Raises:
        VideoError: the video cannot be read.
    """
    reader = VideoReader(path)
    info = reader.info()
    frames = torch.cat([fit(chunk, height, width) for chunk in reader.stream(frame_rate=frame_rate)])
    changes = _size_change(info.height, info.width, height, width)
    if info.variable_fps or abs(info.frame_rate - frame_rate) > 1e-3:
        changes.append(f"{info.frame_rate:g} to {frame_rate:g} frames a second")
    return frames, _told(path, changes)


def fitted_mask(
    path: Path, shape: tuple[int, int], num_frames: int, height: int, width: int, frame_rate: float
) -> Tensor:
    """A picture, or a video that lasts as long, as a mask, bool `(num_frames, height, width)`: true where something in
    it is rather white than black. It is cropped and resized as the video is that it belongs to, whose pictures are of
    ``shape``, (height, width), or larger or smaller alike.

    Raises:
        ValueError: it cannot be read, is of another shape or shorter than the video, or has nothing white.
    """
    chunks: Iterable[Tensor]
    if (reader := _moving(path)) is None:
        chunks = [read_picture(path)[None]]
        old_height, old_width = chunks[0].shape[1:3]
    else:
        chunks = reader.stream(frame_rate=frame_rate)
        old_height, old_width = reader.info().height, reader.info().width
    if abs(old_width / old_height * shape[0] / shape[1] - 1) > ASPECT_ERROR:
        shapes = f"{old_width}x{old_height} pixels, and the video {shape[1]}x{shape[0]}"
        raise ValueError(f"{path}: the mask has {shapes}: give one of the same shape")
    mask = torch.cat([_white(chunk, height, width) for chunk in chunks])
    if reader is None:
        mask = mask.expand(num_frames, -1, -1)
    if len(mask) < num_frames:
        lasts = f"{len(mask) / frame_rate:g} s, and the video {num_frames / frame_rate:g} s"
        raise ValueError(f"{path}: the mask lasts {lasts}: give one as long, or a picture for all frames")
    if not bool(mask[:num_frames].any()):
        raise ValueError(f"{path}: nothing in the mask is white: paint white what is to be made anew")
    return mask[:num_frames]


def _white(frames: Tensor, height: int, width: int) -> Tensor:
    """Which pixels of the new size any white one falls on."""
    white = (frames.float().mean(dim=3, keepdim=True) > 127.5).to(torch.uint8) * 255
    return fit(white, height, width)[..., 0] > 0


def _moving(path: Path) -> VideoReader | None:
    """A reader, if it is a video of several frames and no picture."""
    try:
        reader = VideoReader(path)
        return reader if reader.info().num_frames > 1 else None
    except VideoError:
        return None


def fitted_picture(path: Path, height: int, width: int) -> tuple[Tensor, str]:
    """A picture as `fitted_video` gives frames, uint8 `(height, width, 3)`.

    Raises:
        ValueError: it cannot be read.
    """
    picture = read_picture(path)
    old_height, old_width, _ = picture.shape
    changes = _size_change(old_height, old_width, height, width)
    return fit(picture[None], height, width)[0], _told(path, changes)


def read_picture(path: Path) -> Tensor:
    """A picture file as uint8 `(h, w, 3)`: upright, of an animation the first, over black where it is transparent.

    Raises:
        ValueError: the file is missing, damaged, no picture, or too large.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
            return torch.from_numpy(_pixels(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "no picture of a known kind" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{path}: cannot be read as a picture ({reason})") from None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in DEEP:  # which Pillow would clip at 255
        grey = (np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
    return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)


def _size_change(height: int, width: int, new_height: int, new_width: int) -> list[str]:
    if (height, width) == (new_height, new_width):
        return []
    cropped = " (cropped about its centre)" if width * new_height != height * new_width else ""
    return [f"{width}x{height} to {new_width}x{new_height} pixels{cropped}"]


def _told(path: Path, changes: list[str]) -> str:
    return f"{path.name}: resampled from {', '.join(changes)}" if changes else ""
