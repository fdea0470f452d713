"""Writing frames as a video, an animation or a folder of pictures: whole files, or none."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from torch import Tensor

from data.sheet import checked_frames, checked_target, replacing
from data.video_picture import EXACT_COLOUR

Frames = Tensor | np.ndarray | Iterable[Tensor | np.ndarray]
SUFFIXES = (".mp4", ".webm", ".gif", ".webp")
COMMENTED = (".mp4", ".webm")


def write_video(
    path: str | Path,
    frames: Frames,
    frame_rate: float,
    *,
    crf: float = 12,
    preset: str = "medium",
    reproducible: bool = False,
    comment: str | None = None,
) -> None:
    """Write uint8 `(t, h, w, 3)` frames, or an iterable of such chunks, as the suffix says: .mp4 (H.264), .webm (VP9),
    both yuv420p and tagged bt709, or .gif or .webp (animations that start anew at their end).

    Chunks of .mp4 and .webm are encoded as they come, so memory does not grow with the duration; animations are held
    until the end. `crf` is the quality of .mp4 and .webm: 0 is best, 51 and 63 are worst. The file appears only when it
    is complete. x264 cuts pictures by the number of cores and rounds as the processor does, and a .webm has a random
    number; with `reproducible` they do nothing of this, so that the same frames give the same bytes. `preset` is
    x264's as well. `comment`, of .mp4 and .webm, is text that stands in the file: `data.video_comment` reads it.

    Raises:
        ValueError: the suffix, folder, rate or frames do not fit; the size of an .mp4 is odd; there are no frames; a
            `comment` for an animation.
    """
    path = checked_target(path, *SUFFIXES)
    if comment is not None and path.suffix.lower() not in COMMENTED:
        raise ValueError(f"cannot write a comment into {path}: only {' and '.join(COMMENTED)} have one")
    if not (math.isfinite(frame_rate) and frame_rate > 0):
        raise ValueError(f"frame_rate={frame_rate} must be more than 0: give frames a second")
    arrays = _arrays(path, frames)
    suffix = path.suffix.lower()
    with replacing(path) as draft:
        if suffix in (".gif", ".webp"):
            _write_animation(draft, suffix, arrays, frame_rate)
            return
        rate = Fraction(frame_rate).limit_denominator(1001)
        if suffix == ".mp4":
            codec, muxing, options = "libx264", {"movflags": "+faststart"}, {"crf": str(crf), "preset": preset}
            if reproducible:
                options["x264-params"] = "threads=1:cpu-independent=1"
        else:
            codec, muxing = "libvpx-vp9", ({"fflags": "+bitexact"} if reproducible else {})
            options = {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        # absolute: of a name such as a:b.mp4 FFmpeg takes what is before the colon for a protocol
        with av.open(draft.absolute(), "w", format=suffix[1:], options=muxing) as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            assert isinstance(stream, VideoStream)
            if comment is not None:
                container.metadata["comment"] = comment
            _encode(container, stream, arrays, rate)


def write_pictures(folder: str | Path, frames: Frames) -> None:
    """Write each frame, as `write_video` takes them, as a PNG into a new folder: 000000.png, 000001.png, …

    Raises:
        ValueError: the folder is there, or its parent is not; the frames do not fit.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"cannot write {folder}: it exists: give a new folder")
    arrays = _arrays(folder, frames)
    with replacing(checked_target(folder)) as draft:
        draft.mkdir()
        for number, array in enumerate(arrays):
            iio.imwrite(draft / f"{number:06d}.png", array)


def _arrays(path: Path, frames: Frames) -> Iterator[np.ndarray]:
    """One frame after the other, uint8 `(h, w, 3)`; ValueError where there is none, or their sizes differ."""
    chunks = [frames] if isinstance(frames, Tensor | np.ndarray) else frames
    size: tuple[int, ...] | None = None
    for chunk in chunks:
        array = checked_frames(chunk)
        size = size or array.shape[1:3]
        if array.shape[1:3] != size:
            raise ValueError(f"frames change size from {size} to {array.shape[1:3]}: keep one size")
        yield from array
    if size is None:
        raise ValueError(f"no frames to write to {path}: give at least one")


def _encode(container: OutputContainer, stream: VideoStream, arrays: Iterator[np.ndarray], rate: Fraction) -> None:
    first = next(arrays)
    height, width, _ = first.shape
    if stream.codec_context.name == "libx264" and (height % 2 or width % 2):
        even = f"{width - width % 2}x{height - height % 2}"
        raise ValueError(f"frames are {width}x{height}, and H.264 needs even sizes: crop or resize to {even}")
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    for number, array in enumerate(chain([first], arrays)):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT_COLOUR,
        )
        frame.pts, frame.time_base = number, 1 / rate
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_animation(path: Path, suffix: str, arrays: Iterator[np.ndarray], frame_rate: float) -> None:
    """Durations are whole units, of 10 ms in a gif and 1 ms in a webp; they are rounded so that none adds up."""
    frames = np.stack(list(arrays))
    unit = 10 if suffix == ".gif" else 1
    ends = (np.arange(len(frames) + 1) * 1000 / frame_rate / unit).round().astype(int) * unit
    options: dict[str, Any] = {"quality": 90, "method": 4} if suffix == ".webp" else {}
    durations = np.diff(ends).tolist()
    iio.imwrite(path, frames, extension=suffix, plugin="pillow", duration=durations, loop=0, **options)
