"""A decoded frame as players show it: RGB, upright, with square pixels, over black where it is transparent."""

import struct
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

# swscale's default conversion truncates: measured, it darkens by a level each way and costs 10 dB.
EXACT_COLOUR = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


def square_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """`(width, height)` of a stored picture with square pixels: the side that is too short grows.

    `pixel_aspect` is width / height of a stored pixel; beyond 4:1 it is taken for a mistake and left out.
    """
    if not pixel_aspect or not Fraction(1, 4) <= pixel_aspect <= 4:
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def picture(
    frame: VideoFrame,
    pixel_aspect: Fraction | None = None,
    short_side: int | None = None,
    reformatter: VideoReformatter | None = None,
) -> np.ndarray:
    """RGB `(h, w, 3)` uint8, turned and mirrored by quarter turns as the display matrix says.

    Where the file does not name its colour matrix, it is that of BT.601, as for FFmpeg and all that build on it. High
    dynamic range is not mapped to a smaller one. With ``short_side`` a larger picture is shrunk to that, by area. To
    make a ``reformatter`` takes a millisecond: one serves all frames of a video.
    """
    width, height = square_size(frame.width, frame.height, pixel_aspect)
    shrinks = short_side is not None and short_side < min(width, height)
    if short_side is not None and shrinks:
        scale = short_side / min(width, height)
        width, height = round(width * scale), round(height * scale)
    transparent = any(component.is_alpha for component in frame.format.components)
    # swscale converts to planes in half the time of packed colours, to the same levels
    array = (
        (reformatter or VideoReformatter())
        .reformat(
            frame,
            width=width,
            height=height,
            format="gbrap" if transparent else "gbrp",
            interpolation=Interpolation.AREA if shrinks else EXACT_COLOUR,
        )
        .to_ndarray()
    )
    if transparent:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return _upright(array, frame)


def is_turned(frame: VideoFrame) -> bool:
    """Whether `picture` swaps the frame's width and height."""
    return _upright(np.empty((1, 2, 3), np.uint8), frame).shape[0] == 2


def _upright(array: np.ndarray, frame: VideoFrame) -> np.ndarray:
    try:
        matrix = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]  # stub lacks it
    except KeyError:
        return array
    except ValueError:  # side data of a kind that PyAV does not know; the plain angle it can still tell
        return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)  # x' = a x + c y,  y' = b x + d y
    if abs(a) + abs(d) < abs(b) + abs(c):
        array = array.transpose(1, 0, 2)
        a, d = c, b
    if a < 0:
        array = array[:, ::-1]
    if d < 0:
        array = array[::-1]
    return np.ascontiguousarray(array)
