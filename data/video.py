"""The only place that opens a video file to read it; `data.video_write` writes them.

Reading goes by presentation time stamps: the file is demuxed without decoding into a sorted index of stamps,
and decoding starts at the key frame before the first frame wanted. Time 0 is the first frame that the file
shows, so edit lists and delayed starts need no care.
"""

import bisect
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from torch import Tensor

from data.transforms import resample_indices, stamp_tolerance
from data.video_index import StampIndex, read_index
from data.video_limits import DEFAULT_LIMITS, ReadLimits, Stopwatch, VideoError
from data.video_picture import is_turned, picture, square_size
from data.video_write import write_video

__all__ = [
    "Clip",
    "ReadLimits",
    "VideoError",
    "VideoInfo",
    "VideoReader",
    "probe_video",
    "read_video",
    "write_video",
]

SKIPPABLE = ("h264", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9")
"""Codecs whose pictures tell whether others are built on them. AV1's decoder leaves out more than it is told to, and
temporal layers of HEVC may build on pictures that seem to be unused."""
HELD = 2  # frames in a row that a decoder may leave out, without an error, before that is damage


@dataclass(frozen=True)
class Clip:
    """`frames`: uint8 `(t, h, w, 3)`, RGB, upright, square pixels. `frame_rate`: frames a second."""

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


class VideoReader:
    """One file, demuxed once, to be read from several times. It stays closed between calls.

    Raises:
        VideoError: the file is missing, empty, no video, shows no frame, or goes beyond the limits.
    """

    def __init__(self, path: str | Path, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        self.path, self.limits = Path(path), limits
        with self._open() as container:
            self.pixel_aspect = container.streams.video[0].sample_aspect_ratio
            self.index: StampIndex = read_index(container, Stopwatch(self.path, self.limits))
        if not self.index.stamps:
            raise VideoError(path, self.index.damage or "has no frames")
        longest = float(np.diff(self.index.times, append=self.index.end).max())
        if longest > self.limits.max_still:
            raise VideoError(path, f"its time stamps jump by {longest:g} s, beyond max_still={self.limits.max_still:g}")

    def info(self) -> VideoInfo:
        """Size, rate, length and codec. Decodes one frame."""
        _, frame = next(self._frames(np.zeros(1, int), Stopwatch(self.path, self.limits)))
        width, height = square_size(frame.width, frame.height, self.pixel_aspect)
        if is_turned(frame):
            width, height = height, width
        index = self.index
        count, rate = len(index.stamps), index.frame_rate
        return VideoInfo(width, height, rate, count, index.end, index.codec, index.variable)

    def read(self, start: float = 0.0, seconds: float | None = None, frame_rate: float | None = None) -> Clip:
        """See `read_video`."""
        wanted = self._wanted(start, seconds, frame_rate)
        frames: Tensor | None = None
        done = 0
        for repeats, array in self._pictures(wanted, Stopwatch(self.path, self.limits)):
            if frames is None:
                if len(wanted) * array.nbytes > self.limits.max_bytes:
                    height, width, _ = array.shape
                    reason = f"{len(wanted)} frames of {width}x{height} need over max_bytes={self.limits.max_bytes}"
                    raise VideoError(self.path, f"{reason}: read fewer seconds or a lower frame_rate")
                frames = torch.empty(len(wanted), *array.shape, dtype=torch.uint8)
            frames[done : done + repeats] = torch.from_numpy(array)
            done += repeats
        self._check_end(start, seconds)
        assert frames is not None
        return Clip(frames, frame_rate or self.index.frame_rate)

    def stream(
        self,
        start: float = 0.0,
        seconds: float | None = None,
        frame_rate: float | None = None,
        chunk: int = 16,
        short_side: int | None = None,
    ) -> Iterator[Tensor]:
        """The frames of `read` in chunks of `chunk` at most, uint8 `(t, h, w, 3)`: for what memory cannot hold.

        With ``short_side`` they are shrunk to that on the way, which is much faster than to shrink them afterwards.
        """
        if chunk < 1:
            raise ValueError(f"chunk={chunk} must be at least 1 frame")
        wanted = self._wanted(start, seconds, frame_rate)
        watch = Stopwatch(self.path, self.limits)
        held: list[Tensor] = []
        for repeats, array in self._pictures(wanted, watch, short_side):
            for _ in range(repeats):
                held.append(torch.from_numpy(array))
                if len(held) == chunk:
                    yield torch.stack(held)
                    held = []
                    watch.restart()
        if held:
            yield torch.stack(held)
        self._check_end(start, seconds)

    def _wanted(self, start: float, seconds: float | None, frame_rate: float | None) -> np.ndarray:
        """Which frames of the index, `(n,)`, never falling."""
        if not (math.isfinite(start) and start >= 0):
            raise ValueError(f"start={start} must be at least 0 seconds: give a time within the clip")
        for name, value in (("seconds", seconds), ("frame_rate", frame_rate)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be more than 0: give a positive number or leave it out")
        times, end = self.index.times, self.index.end
        if start >= end:
            raise VideoError(self.path, f"start={start:g} is past its end: use less than {end:.3f} seconds")
        stop = end if seconds is None else min(start + seconds, end)
        if frame_rate is not None:
            return resample_indices(times, stop, frame_rate, start)
        tolerance = stamp_tolerance(times, end)
        first = max(0, int(np.searchsorted(times, start + tolerance, side="right")) - 1)
        last = len(times)
        if stop < end:
            last = int(np.searchsorted(times, stop - tolerance, side="left"))
        return np.arange(first, max(last, first + 1))

    def _check_end(self, start: float, seconds: float | None) -> None:
        """What is missing at the end of a file is damage only for those who asked for it."""
        if self.index.damage and (seconds is None or start + seconds > self.index.end):
            raise VideoError(self.path, self.index.damage, len(self.index.stamps))

    def _pictures(
        self, wanted: np.ndarray, watch: Stopwatch, short_side: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """For each distinct frame of the positions `wanted (n,)`: how often it is wanted, and its picture."""
        shape: tuple[int, ...] | None = None
        reformatter = VideoReformatter()
        for position, frame in self._frames(wanted, watch):
            array = picture(frame, self.pixel_aspect, short_side, reformatter)
            shape = shape or array.shape
            if array.shape != shape:
                raise VideoError(self.path, f"the frame size changes at frame {position}", position)
            repeats = np.searchsorted(wanted, position, side="right") - np.searchsorted(wanted, position, side="left")
            yield int(repeats), array

    def _frames(self, wanted: np.ndarray, watch: Stopwatch) -> Iterator[tuple[int, VideoFrame]]:
        """The frame of each distinct position of `wanted`, in order.

        A player keeps the picture that is on the screen where the decoder gives none, as for some packets of MPEG-4;
        so do we, for two frames in a row at most.
        """
        targets = deque(np.unique(wanted).tolist())
        good = targets[0]
        before: tuple[int, VideoFrame] | None = None
        end = (len(self.index.stamps), None)
        try:
            for position, frame in chain(self._decode(targets[0], watch), [end]):
                while targets and targets[0] < position:  # the decoder left it out
                    shown = before or (-1, frame)  # the first frames show what comes after them
                    ends_badly = frame is None and (before is None or self.index.damage is not None)
                    if ends_badly or position - shown[0] > HELD + 1 or shown[1] is None:
                        reason = self.index.damage or f"damaged: frame {targets[0]} cannot be decoded"
                        raise VideoError(self.path, reason, good)
                    yield targets.popleft(), shown[1]
                if frame is None or not targets:
                    return
                if frame.is_corrupt:
                    raise VideoError(self.path, f"damaged: frame {position} is corrupt", good)
                if position == targets[0]:
                    yield targets.popleft(), frame
                before = position, frame
                good = max(good, position + 1)
                if not targets:
                    return
        except FFmpegError as error:
            raise VideoError(self.path, f"damaged: decoding fails ({error.strerror})", good) from error

    def _decode(self, first: int, watch: Stopwatch) -> Iterator[tuple[int, VideoFrame]]:
        """Yield `(position, frame)` in the order shown, from position `first` or one before it.

        A seek may land late, where containers seek by decoding time, or on a frame wrongly marked as a key; both
        show in the first frame decoded. Then one key frame earlier is tried, and after that the file's beginning.
        """
        index = self.index
        target = index.stamps[first]
        before = index.keys[1 : bisect.bisect_right(index.keys, target)]  # from the first key: no need to seek
        positions = {stamp: i for i, stamp in enumerate(index.stamps)}
        skips = index.codec in SKIPPABLE and not index.numbered
        seen_from = index.stamps[max(0, first - HELD - 1)] if skips else None
        for key in [*before[:-3:-1], None]:
            with self._open() as container:
                pictures = decoded(container, self.limits.max_pixels, seen_from, watch)
                frames: Iterator[tuple[int, VideoFrame]] = enumerate(pictures)
                if key is not None:
                    try:
                        container.seek(key, stream=container.streams.video[0])
                        opening = next(frames)
                    except (FFmpegError, StopIteration):
                        continue
                    if opening[1].pts is None or opening[1].pts > target or not opening[1].key_frame:
                        continue
                    frames = chain([opening], frames)
                for number, frame in frames:
                    watch.check(frames=1)
                    self.limits.check_size(self.path, frame.width, frame.height)
                    if index.numbered:
                        yield number, frame
                    elif frame.pts in positions:
                        yield positions[frame.pts], frame
                return

    def _open(self) -> InputContainer:
        """The file, if it has a video stream within the limits; otherwise VideoError."""
        path = self.path
        if not path.is_file():
            raise VideoError(path, "no such file" if not path.exists() else "not a file")
        if path.stat().st_size == 0:
            raise VideoError(path, "the file is empty")
        try:
            container = av.open(path.absolute(), metadata_errors="replace", timeout=self.limits.max_seconds)
        except ExitError as error:
            raise VideoError(path, f"opening it takes more than max_seconds={self.limits.max_seconds:g}") from error
        except (FFmpegError, OSError) as error:
            raise VideoError(path, f"not a video ({error.strerror})") from error
        try:
            if not container.streams.video:
                raise VideoError(path, "has no video stream")
            context = container.streams.video[0].codec_context
            if context is None:
                raise VideoError(path, "its codec is unknown")
            self.limits.check_size(path, context.width, context.height)
        except VideoError:
            container.close()
            raise
        return container


def decoded(
    container: InputContainer, max_pixels: int, seen_from: int | None, watch: Stopwatch
) -> Iterator[VideoFrame]:
    """The frames of the first video stream, in the order shown; before the stamp ``seen_from`` those may be left out
    that no other frame is built on.

    FFmpeg's own decoders of VP8 and VP9 leave transparency out; those of libvpx do not.
    """
    stream = container.streams.video[0]
    options = {"max_pixels": str(4 * max_pixels)}  # a decoder counts its own padding
    library = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    if library in av.codecs_available and stream.metadata.get("alpha_mode") == "1":
        decoder = av.CodecContext.create(library, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.options = options
        for packet in container.demux(stream):
            yield from decoder.decode(packet)
    else:
        stream.thread_type = "AUTO"
        stream.codec_context.options = options
        for packet in container.demux(stream):
            early = seen_from is not None and packet.pts is not None and packet.pts < seen_from
            stream.codec_context.skip_frame = "NONREF" if early else "DEFAULT"
            watch.check()
            yield from packet.decode()


def read_video(
    path: str | Path,
    start: float = 0.0,
    seconds: float | None = None,
    frame_rate: float | None = None,
    *,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Clip:
    """Read `seconds` (default: all) of a video from `start`, counted from its first frame.

    With `frame_rate` the clip is sampled at `start + i / frame_rate`, each time giving the frame a player
    would show then (see `resample_indices`). Without it, each of the file's own frames in the range is given
    once, beginning with the one on screen at `start`; the rate is then the file's average. A range that runs
    past the end gives what there is.

    Raises:
        ValueError: an argument is out of range.
        VideoError: the file is missing, empty, no video, damaged within the range, shorter than `start`,
            or goes beyond `limits`.
    """
    return VideoReader(path, limits).read(start, seconds, frame_rate)


def probe_video(path: str | Path, limits: ReadLimits = DEFAULT_LIMITS) -> VideoInfo:
    """Size, rate, length and codec of a video. Reads the whole file but decodes one frame only; raises
    `VideoError` if the file is missing, no video, beyond `limits`, or its first frame cannot be decoded."""
    return VideoReader(path, limits).info()
