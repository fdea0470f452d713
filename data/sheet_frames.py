"""A contact sheet of a video that is never in memory as a whole."""

from pathlib import Path

import numpy as np
from torch import Tensor

from data.sheet import checked_frames, write_contact_sheet

HELD = 120  # frames at most, of which a sheet shows a sixth
SINGLE = 16


class SheetFrames:
    """Every n-th of the frames that come, n a power of two, so that at most `HELD` are kept, the newest, and the first
    `SINGLE` that come alone and were given; of a video whose length is not known before its end. Each is one of those
    given, or made."""

    def __init__(self) -> None:
        self.count = 0
        self._step = 1
        self._kept: dict[int, tuple[np.ndarray, bool]] = {}
        self._single: dict[int, tuple[np.ndarray, bool]] = {}
        self._newest: tuple[np.ndarray, bool] | None = None

    def add(self, frames: Tensor | np.ndarray, given: bool) -> None:
        """The next frames, uint8 `(t, h, w, 3)`."""
        array = checked_frames(frames)
        if given and len(array) == 1 and len(self._single) < SINGLE:
            self._single[self.count] = array[0].copy(), given
        for frame in array:
            self._newest = frame.copy(), given
            if self.count % self._step == 0:
                self._kept[self.count] = self._newest
            self.count += 1
            if len(self._kept) > HELD:
                self._step *= 2
                self._kept = {number: kept for number, kept in self._kept.items() if number % self._step == 0}

    def write(self, path: str | Path, frame_rate: float) -> None:
        """As `write_contact_sheet` does with all frames, as near to its times as those kept come; borders tell given
        frames from made ones where there is any given.

        Raises:
            ValueError: there are no frames, or `path` does not fit.
        """
        if self._newest is None:
            raise ValueError(f"no frames for {path}: add some first")
        kept = self._kept | self._single | {self.count - 1: self._newest}
        numbers = np.array(sorted(kept))
        known = np.array([kept[number][1] for number in numbers])
        frames = np.stack([kept[number][0] for number in numbers])
        borders = known if known.any() else None
        write_contact_sheet(path, frames, frame_rate, known=borders, numbers=numbers, shown=sorted(self._single))
