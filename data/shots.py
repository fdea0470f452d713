"""The shots of a video: where each begins and ends, and figures that tell whether it is worth training on."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.video import VideoReader

SHORT_SIDE = 72  # pixels, of the frames that are looked at
HASH = (8, 9)  # rows, columns of the brightness that a fingerprint compares from left to right


@dataclass(frozen=True)
class Shot:
    """start, end: seconds from the file's first frame. brightness: mean of all pixels, 0 to 255. contrast: their standard
    deviation within a frame, mean over the frames. motion: mean absolute change of a pixel's brightness in an eighth of
    a second. fingerprint: 64 bits of the frames at a quarter, the middle and three quarters, as hexadecimal numbers."""

    start: float
    end: float
    num_frames: int
    brightness: float
    contrast: float
    motion: float
    fingerprint: str


def find_shots(reader: VideoReader) -> list[Shot]:
    """Cut a video where PySceneDetect's adaptive detector sees a cut, and measure what lies between.

    Memory does not grow with the pixels of the video: figures of each frame are kept, and not the frames.

    Raises:
        VideoError: the file is damaged, or goes beyond the reader's limits.
    """
    from scenedetect import AdaptiveDetector, FrameTimecode  # imports OpenCV

    index = reader.index
    detector = AdaptiveDetector()
    lag = max(1, round(index.frame_rate / 8))
    before: deque[np.ndarray] = deque(maxlen=lag)
    cuts: list[int] = [0]
    figures: list[tuple[float, float, float]] = []
    hashes: list[int] = []
    for chunk in reader.stream(short_side=SHORT_SIDE, chunk=64):
        for frame in chunk.numpy():
            moment = FrameTimecode(len(figures), index.frame_rate)
            cuts += [cut.frame_num for cut in detector.process_frame(moment, np.ascontiguousarray(frame[..., ::-1]))]
            grey = frame.mean(-1, dtype=np.float32)  # h w
            change = float(np.abs(grey - before[0]).mean()) if len(before) == lag else 0.0
            before.append(grey)
            figures.append((float(grey.mean()), float(grey.std()), change))
            hashes.append(fingerprint(grey))
    ends = [*cuts[1:], len(figures)]
    return [_shot(index.times, index.end, figures, hashes, first, end, lag) for first, end in zip(cuts, ends, strict=True)]


def _shot(
    times: np.ndarray,
    whole: float,
    figures: Sequence[tuple[float, float, float]],
    hashes: Sequence[int],
    first: int,
    end: int,
    lag: int,
) -> Shot:
    brightness, contrast, _ = np.mean(figures[first:end], axis=0)
    changes = [change for _, _, change in figures[first + lag : end]]  # those before compare with another shot
    marks = [hashes[first + (end - first - 1) * quarter // 4] for quarter in (1, 2, 3)]
    return Shot(
        start=round(float(times[first]), 4),
        end=round(float(times[end]) if end < len(times) else whole, 4),
        num_frames=end - first,
        brightness=round(float(brightness), 2),
        contrast=round(float(contrast), 2),
        motion=round(float(np.mean(changes)) if changes else 0.0, 3),
        fingerprint="".join(f"{mark:016x}" for mark in marks),
    )


def fingerprint(grey: np.ndarray) -> int:
    """64 bits: whether brightness rises from each part of a picture `(h, w)` to the next on its right (dHash)."""
    rows, columns = HASH
    parts = [np.array_split(band, columns, axis=1) for band in np.array_split(grey, rows, axis=0)]
    means = np.array([[part.mean() for part in row] for row in parts])
    bits = (means[:, 1:] > means[:, :-1]).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


class Seen:
    """Which fingerprints were met before, nearly: `Shot.fingerprint` that differ in few of their 192 bits.

    Candidates share one of the twelve 16-bit parts, as two that differ in fewer than twelve bits always do.
    """

    def __init__(self, most_bits: int = 8) -> None:
        self.most_bits = most_bits
        self.parts: dict[tuple[int, str], list[int]] = {}

    def twin(self, mark: str) -> bool:
        """Whether one like this was met; it is known from now on."""
        value = int(mark, 16)
        parts = [(place, mark[place : place + 4]) for place in range(0, len(mark), 4)]
        candidates = {other for part in parts for other in self.parts.get(part, [])}
        found = any((value ^ other).bit_count() <= self.most_bits for other in candidates)
        if not found:
            for part in parts:
                self.parts.setdefault(part, []).append(value)
        return found
