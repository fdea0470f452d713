"""What reading a video may cost, and the error for a file that cannot be read. `data.video` hands both on."""

import time
from dataclasses import dataclass
from pathlib import Path


class VideoError(ValueError):
    """A file that cannot be read as asked: `path`, `reason`, and `good_frames`, the number of frames from the
    file's first that are known to be sound."""

    def __init__(self, path: str | Path, reason: str, good_frames: int = 0) -> None:
        super().__init__(path, reason, good_frames)
        self.path, self.reason, self.good_frames = Path(path), reason, good_frames

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} (good frames: {self.good_frames})"


@dataclass(frozen=True)
class ReadLimits:
    """Bounds against files that are broken or mean harm; what goes beyond one is a `VideoError`.

    max_pixels: of a frame. max_packets: of the file, each of which takes some 200 bytes of memory. max_still: seconds
    that a frame may stay on the screen. max_frames: decoded, those before the first that is wanted included. max_bytes:
    of the frames that a `read` returns. max_seconds: of wall time. A `read` and each chunk of a `stream` have
    max_frames and max_seconds anew; finding the stamps has max_seconds.

    Raises:
        ValueError: one is not above 0.
    """

    max_pixels: int = 1 << 26
    max_packets: int = 4_000_000
    max_still: float = 3600.0
    max_frames: int = 100_000
    max_bytes: int = 8 << 30
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_packets", "max_still", "max_frames", "max_bytes", "max_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0: give a positive number")

    def check_size(self, path: Path, width: int, height: int) -> None:
        """VideoError where a frame of this size has too many pixels."""
        if width * height > self.max_pixels:
            raise VideoError(path, f"its frames of {width}x{height} go beyond max_pixels={self.max_pixels}")


DEFAULT_LIMITS = ReadLimits()


class Stopwatch:
    """Counts what one call costs; raises `VideoError` when it goes beyond the limits."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.path, self.limits = path, limits
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.began, self.frames, self.packets = time.monotonic(), 0, 0

    def check(self, frames: int = 0, packets: int = 0) -> None:
        """Count `frames` that were decoded and `packets` that were listed, and look at the clock."""
        self.frames += frames
        self.packets += packets
        if self.packets > self.limits.max_packets:
            raise VideoError(self.path, f"it has more than max_packets={self.limits.max_packets}")
        if self.frames > self.limits.max_frames:
            raise VideoError(self.path, f"reading it takes more than max_frames={self.limits.max_frames}")
        if time.monotonic() - self.began > self.limits.max_seconds:
            raise VideoError(self.path, f"reading it takes more than max_seconds={self.limits.max_seconds:g}")
