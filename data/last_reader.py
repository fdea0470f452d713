"""The reader of the file that was read last, for whoever reads one part of a file after another."""

from pathlib import Path
from typing import TYPE_CHECKING

from data.video_limits import DEFAULT_LIMITS, ReadLimits

if TYPE_CHECKING:
    from data.video import VideoReader


class LastReader:
    """Readers by path, of which the last is kept as long as its file does not change: a long file is demuxed once for
    all its clips. A pickled one has none."""

    def __init__(self, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._last: tuple[tuple[Path, int, int], VideoReader] | None = None

    def __call__(self, path: Path) -> "VideoReader":
        """The reader of a file; raises `data.video.VideoError` as `VideoReader`."""
        from data.video import VideoReader  # PyAV is not installed where only the world is trained on

        if not path.is_file():
            return VideoReader(path, self.limits)  # which says what is wrong
        stat = path.stat()
        known = (path, stat.st_size, stat.st_mtime_ns)
        if self._last is None or self._last[0] != known:
            self._last = known, VideoReader(path, self.limits)
        return self._last[1]

    def __reduce__(self) -> tuple[type["LastReader"], tuple[ReadLimits]]:
        return LastReader, (self.limits,)
