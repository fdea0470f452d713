"""The only place that opens or writes a video file.

Reading goes by presentation time stamps: the file is demuxed without decoding into a sorted index of stamps,
and decoding starts at the key frame before the first frame wanted. Time 0 is the first frame that the file
shows, so edit lists and delayed starts need no care. PyAV is the only reader; decord is left out until it is
needed, since it is exact on some files only.
"""

import bisect
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream
from torch import Tensor

from data.sheet import checked_frames, checked_target, replacing
from data.transforms import resample_indices, stamp_tolerance
from data.video_index import StampIndex, read_index

# swscale's default conversion truncates: measured, it darkens by a level each way and costs 10 dB.
EXACT_COLOUR = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class VideoError(ValueError):
    """A file that cannot be read as asked: `path`, `reason`, and `good_frames`, the number of frames from the
    file's first that are known to be sound."""

    def __init__(self, path: str | Path, reason: str, good_frames: int = 0) -> None:
        super().__init__(path, reason, good_frames)
        self.path, self.reason, self.good_frames = Path(path), reason, good_frames

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} (good frames: {self.good_frames})"


@dataclass(frozen=True)
class Clip:
    """`frames`: uint8 `(t, h, w, 3)`, RGB, upright. `frame_rate`: frames a second."""

    frames: Tensor
    frame_rate: float


@dataclass(frozen=True)
class VideoInfo:
    """`width` and `height` are those of the upright picture; `duration` is in seconds, from the moment the
    first frame is shown to the end of the last."""

    width: int
    height: int
    frame_rate: float
    num_frames: int
    duration: float
    codec: str
    variable_fps: bool


def read_video(
    path: str | Path,
    start: float = 0.0,
    seconds: float | None = None,
    frame_rate: float | None = None,
    *,
    max_bytes: int = 8 << 30,
) -> Clip:
    """Read `seconds` (default: all) of a video from `start`, counted from its first frame.

    With `frame_rate` the clip is sampled at `start + i / frame_rate`, each time giving the frame a player
    would show then (see `resample_indices`). Without it, each of the file's own frames in the range is given
    once, beginning with the one on screen at `start`; the rate is then the file's average. A range that runs
    past the end gives what there is.

    Raises:
        ValueError: an argument is out of range.
        VideoError: the file is missing, empty, no video, damaged within the range, shorter than `start`,
            or its frames would take more than `max_bytes` of memory.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start={start} must be at least 0 seconds: give a time within the clip")
    for name, value in (("seconds", seconds), ("frame_rate", frame_rate)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be more than 0: give a positive number or leave it out")
    index = _read_index(path)
    if start >= index.end:
        raise VideoError(path, f"start={start:g} is past its end: use less than {index.end:.3f} seconds")
    stop = index.end if seconds is None else min(start + seconds, index.end)
    if frame_rate is not None:
        wanted = resample_indices(index.times, stop, frame_rate, start)
    else:
        tolerance = stamp_tolerance(index.times, index.end)
        first = max(0, int(np.searchsorted(index.times, start + tolerance, side="right")) - 1)
        last = len(index.stamps)
        if stop < index.end:
            last = int(np.searchsorted(index.times, stop - tolerance, side="left"))
        wanted = np.arange(first, max(last, first + 1))
    frames = _read_frames(path, index, wanted, max_bytes)
    if index.damage and (seconds is None or start + seconds > index.end):
        raise VideoError(path, index.damage, len(index.stamps))
    return Clip(frames, frame_rate or index.frame_rate)


def probe_video(path: str | Path) -> VideoInfo:
    """Size, rate, length and codec of a video. Reads the whole file but decodes one frame only; raises
    `VideoError` if the file is missing, no video, or its first frame cannot be decoded."""
    index = _read_index(path)
    _, height, width, _ = _read_frames(path, index, np.zeros(1, int), max_bytes=8 << 30).shape
    return VideoInfo(
        width=width,
        height=height,
        frame_rate=index.frame_rate,
        num_frames=len(index.stamps),
        duration=index.end,
        codec=index.codec,
        variable_fps=index.variable,
    )


def _open(path: str | Path) -> InputContainer:
    """Open a file that has a video stream, or raise `VideoError`."""
    path = Path(path)
    if not path.is_file():
        raise VideoError(path, "no such file" if not path.exists() else "not a file")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        container = av.open(path, metadata_errors="replace")
    except (FFmpegError, OSError) as error:
        raise VideoError(path, f"not a video ({error.strerror})") from error
    if not container.streams.video:
        container.close()
        raise VideoError(path, "has no video stream")
    return container


def _read_index(path: str | Path) -> StampIndex:
    with _open(path) as container:
        index = read_index(container)
    if not index.stamps:
        raise VideoError(path, index.damage or "has no frames")
    return index


def _read_frames(path: str | Path, index: StampIndex, wanted: np.ndarray, max_bytes: int) -> Tensor:
    """Decode the frames at the never falling positions `wanted (n,)` of the index: uint8 `(n, h, w, 3)`."""
    frames: Tensor | None = None
    done, good = 0, int(wanted[0])
    try:
        for position, frame in _decode(path, index, int(wanted[0])):
            good = max(good, position + 1)
            if position != wanted[done]:
                if position > wanted[done]:
                    raise VideoError(path, f"frame {wanted[done]} is missing", int(wanted[done]))
                continue
            if len(wanted) * frame.width * frame.height * 3 > max_bytes:
                raise VideoError(
                    path,
                    f"{len(wanted)} frames of {frame.width}x{frame.height} need over max_bytes={max_bytes}: "
                    "read fewer seconds or a lower frame_rate",
                    good,
                )
            picture = _upright(frame)
            if frames is None:
                frames = torch.empty(len(wanted), *picture.shape, dtype=torch.uint8)
            if picture.shape != frames.shape[1:]:
                raise VideoError(path, f"the frame size changes at frame {position}", position)
            repeats = int(np.searchsorted(wanted, position, side="right")) - done
            frames[done : done + repeats] = torch.from_numpy(picture)
            done += repeats
            if done == len(wanted):
                break
    except FFmpegError as error:
        raise VideoError(path, f"damaged: decoding fails ({error.strerror})", good) from error
    if frames is None or done < len(wanted):
        raise VideoError(path, index.damage or f"damaged: frame {wanted[done]} cannot be decoded", good)
    return frames


def _decode(path: str | Path, index: StampIndex, first: int) -> Iterator[tuple[int, VideoFrame]]:
    """Yield `(position, frame)` in the order shown, from position `first` or one before it.

    A seek may land late, where containers seek by decoding time, or on a frame wrongly marked as a key; both
    show in the first frame decoded. Then one key frame earlier is tried, and after that the file's beginning.
    """
    target = index.stamps[first]
    before = index.keys[1 : bisect.bisect_right(index.keys, target)]  # from the first key: no need to seek
    positions = {stamp: i for i, stamp in enumerate(index.stamps)}
    for key in [*before[:-3:-1], None]:
        with _open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = enumerate(container.decode(stream))
            if key is not None:
                try:
                    container.seek(key, stream=stream)
                    opening = next(frames)
                except (FFmpegError, StopIteration):
                    continue
                if opening[1].pts is None or opening[1].pts > target or not opening[1].key_frame:
                    continue
                yield positions.get(opening[1].pts, -1), opening[1]
            for number, frame in frames:
                if index.numbered:
                    yield number, frame
                elif frame.pts in positions:
                    yield positions[frame.pts], frame
            return


def _upright(frame: VideoFrame) -> np.ndarray:
    """RGB `(h, w, 3)` uint8, turned and mirrored as the display matrix says, by quarter turns."""
    picture = frame.to_ndarray(format="rgb24", interpolation=EXACT_COLOUR)
    try:
        matrix = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]  # stub lacks it
    except KeyError:
        return picture
    except ValueError:  # side data of a kind that PyAV does not know; the plain angle it can still tell
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)  # x' = a x + c y,  y' = b x + d y
    if abs(a) + abs(d) < abs(b) + abs(c):
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    if a < 0:
        picture = picture[:, ::-1]
    if d < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def write_video(
    path: str | Path,
    frames: Tensor | np.ndarray | Iterable[Tensor | np.ndarray],
    frame_rate: float,
    *,
    crf: float = 12,
    preset: str = "medium",
    reproducible: bool = False,
) -> None:
    """Write uint8 `(t, h, w, 3)` frames, or an iterable of such chunks, to an .mp4 (H.264, yuv420p, bt709).

    Chunks are encoded as they come, so memory does not grow with the duration. `crf` is x264's quality, 0
    best and 51 worst. The file appears only when it is complete. x264 cuts pictures by the number of cores and
    rounds as the processor does; with `reproducible` it does neither, so that the same frames give the same bytes.

    Raises:
        ValueError: the suffix, folder, rate or frames do not fit; the size is odd; there are no frames.
    """
    path = checked_target(path, ".mp4")
    if not (math.isfinite(frame_rate) and frame_rate > 0):
        raise ValueError(f"frame_rate={frame_rate} must be more than 0: give frames a second")
    rate = Fraction(frame_rate).limit_denominator(1001)
    chunks = [frames] if isinstance(frames, Tensor | np.ndarray) else frames
    size: tuple[int, int] | None = None
    count = 0
    with (
        replacing(path) as temporary,
        av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        options = {"crf": str(crf), "preset": preset}
        if reproducible:
            options["x264-params"] = "threads=1:cpu-independent=1"
        stream = container.add_stream("libx264", rate=rate, options=options)
        for chunk in chunks:
            array = checked_frames(chunk)
            if size is None:
                size = array.shape[1:3]
                _start_stream(stream, *size)
            if array.shape[1:3] != size:
                raise ValueError(f"frames change size from {size} to {array.shape[1:3]}: keep one size")
            for picture in array:
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=EXACT_COLOUR,
                )
                frame.pts, frame.time_base = count, 1 / rate
                container.mux(stream.encode(frame))
                count += 1
        if count == 0:
            raise ValueError(f"no frames to write to {path}: give at least one")
        container.mux(stream.encode(None))


def _start_stream(stream: VideoStream, height: int, width: int) -> None:
    if height % 2 or width % 2:
        even = f"{width - width % 2}x{height - height % 2}"
        raise ValueError(f"frames are {width}x{height}, and H.264 needs even sizes: crop or resize to {even}")
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
