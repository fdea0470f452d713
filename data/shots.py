"""The shots of a video: where each begins and ends, and figures that tell whether it is worth training on."""

from collections import Counter, deque
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it opens videos; this looks at what it gives
    from data.video import VideoReader

SHORT_SIDE = 72  # pixels, of the frames that are looked at
BLOCKS = 8  # rows and columns of blocks that a frame is divided into
LONGEST_LAG = 60  # frames that are kept to compare with, whatever rate a file claims
MOMENTS = 4  # of a shot, evenly spread, that its thumbnail shows


@dataclass(frozen=True)
class Shot:
    """start, end: seconds from the file's first frame. brightness: mean of all pixels, 0 to 255. contrast: their
    standard deviation within a frame, mean over the frames. motion: mean absolute change of a pixel's brightness in an
    eighth of a second. liveliest: the same of the block of 8 × 8 that changes most. thumbnail: 256 bytes as hexadecimal
    numbers, the brightness of 8 × 8 blocks at 4 moments."""

    start: float
    end: float
    num_frames: int
    brightness: float
    contrast: float
    motion: float
    liveliest: float
    thumbnail: str


@dataclass(frozen=True)
class FrameFigures:
    """Of one frame: mean and standard deviation of its brightness, that of each block (uint8), and how each changed
    (fp16)."""

    brightness: float
    contrast: float
    blocks: np.ndarray
    change: np.ndarray


def find_shots(reader: "VideoReader") -> list[Shot]:
    """Cut a video where PySceneDetect's adaptive detector sees a cut, and measure what lies between.

    Memory does not grow with the pixels of the video: half a kilobyte for each frame is kept.

    Raises:
        VideoError: the file is damaged, or goes beyond the reader's limits.
    """
    from scenedetect import AdaptiveDetector, FrameTimecode  # imports OpenCV

    index = reader.index
    detector = AdaptiveDetector()
    lag = min(max(1, round(index.frame_rate / 8)), LONGEST_LAG)
    before: deque[np.ndarray] = deque(maxlen=lag)
    cuts: list[int] = [0]
    figures: list[FrameFigures] = []
    for chunk in reader.stream(short_side=SHORT_SIDE, chunk=64):
        for frame in chunk.numpy():
            moment = FrameTimecode(len(figures), index.frame_rate)
            cuts += [cut.frame_num for cut in detector.process_frame(moment, np.ascontiguousarray(frame[..., ::-1]))]
            grey = frame.mean(-1, dtype=np.float32)  # h w
            change = np.abs(grey - before[0]) if len(before) == lag else np.zeros_like(grey)
            before.append(grey)
            blocks, changes = block_means(grey).round().astype(np.uint8), block_means(change).astype(np.float16)
            figures.append(FrameFigures(float(grey.mean()), float(grey.std()), blocks, changes))
    ends = [*cuts[1:], len(figures)]
    times = [*(float(time) for time in index.times), index.end]
    return [_measured(figures[first:end], times[first], times[end], lag) for first, end in zip(cuts, ends, strict=True)]


def _measured(figures: list[FrameFigures], start: float, end: float, lag: int) -> Shot:
    """The shot of these frames; the changes of the first ``lag`` are from another shot."""
    changed = [figure.change for figure in figures[lag:]]
    changes = np.mean(changed, axis=0, dtype=np.float32) if changed else np.zeros((BLOCKS, BLOCKS))
    moments = [len(figures) * (2 * number + 1) // (2 * MOMENTS) for number in range(MOMENTS)]
    thumbnail = np.stack([figures[moment].blocks for moment in moments])
    return Shot(
        start=round(start, 4),
        end=round(end, 4),
        num_frames=len(figures),
        brightness=round(float(np.mean([figure.brightness for figure in figures])), 2),
        contrast=round(float(np.mean([figure.contrast for figure in figures])), 2),
        motion=round(float(changes.mean()), 3),
        liveliest=round(float(changes.max()), 3),
        thumbnail=thumbnail.tobytes().hex(),
    )


def block_means(picture: np.ndarray) -> np.ndarray:
    """Means of 8 × 8 blocks of a picture `(h, w)`, fp32."""
    height, width = picture.shape
    rows, columns = (np.arange(BLOCKS) * side // BLOCKS for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(picture, rows, axis=0), columns, axis=1)
    sizes = [np.maximum(np.diff(starts, append=side), 1) for starts, side in ((rows, height), (columns, width))]
    return (sums / np.outer(*sizes)).astype(np.float32)


class Seen:
    """Which shots were met before, nearly: of two whose thumbnails, each without its mean, differ by less than
    ``nearness`` levels of 256 on average, the second is a twin.

    The same shot at another size and quality (H.264, CRF 30 and 38) was at most 1.3 away, where the frames kept their
    times; one man's gestures in one room, from one camera, at least 3.1.
    """

    def __init__(self, nearness: float = 2.0) -> None:
        if not nearness >= 0:
            raise ValueError(f"nearness={nearness} must be at least 0")
        self.nearness = nearness
        self.cells: dict[tuple[int, ...], np.ndarray] = {}  # n 256, of which the first `counts` are in use
        self.counts: Counter[tuple[int, ...]] = Counter()
        half = np.where(np.arange(BLOCKS) < BLOCKS // 2, 1.0, -1.0)
        ones, early = np.ones((MOMENTS, BLOCKS, BLOCKS)), half[:: BLOCKS // MOMENTS]
        signs = (half, half[:, None], half * half[:, None], early[:, None, None])
        self.signs = np.stack([ones * sign for sign in signs]).reshape(len(signs), -1)

    def twin(self, thumbnail: str) -> bool:
        """Whether one like this was met; if not, it is known from now on.

        A mean with signs changes by no more than the mean absolute difference, so twins are in the same cell of four
        such means, or in one beside it.
        """
        if self.nearness == 0:
            return False
        levels = np.frombuffer(bytes.fromhex(thumbnail), np.uint8).astype(np.float32)
        levels -= levels.mean()
        cell = tuple(int(mean // self.nearness) for mean in (self.signs * levels).mean(1))
        for near in product(*((place - 1, place, place + 1) for place in cell)):
            if count := self.counts[near]:
                others = self.cells[near][:count]
                if np.abs(others - levels).mean(1).min() < self.nearness:
                    return True
        self._keep(cell, levels)
        return False

    def _keep(self, cell: tuple[int, ...], levels: np.ndarray) -> None:
        count = self.counts[cell]
        kept = self.cells.get(cell, np.empty((1, len(levels)), np.float32))
        if count == len(kept):
            kept = np.concatenate([kept, np.empty_like(kept)])
        kept[count] = levels
        self.cells[cell], self.counts[cell] = kept, count + 1
