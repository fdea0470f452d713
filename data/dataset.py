"""Clips to train on, index in, frames and text out: what they have in common, and those of the procedural world.

Those of a manifest are in `data.manifest_clips`, encoded ones in `data.shards`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from data.seeding import draw_integer, keyed_generator
from data.world import sample_scene
from data.world.scene import Scene

WORLD_VERSION = 2
"""Raise it when a scene looks, moves or is described differently, so that no cache serves old clips."""

STYLES_IN_TWENTY = {"exhaustive": 14, "detailed": 3, "short": 2, "terse": 1}
"""How many of twenty captions are in each style: most state everything, which pays most (PRX: FID 18 against 37)."""


@dataclass(frozen=True)
class Clip:
    """frames: uint8 ``(t, h, w, 3)``; frame_rate in frames a second."""

    frames: Tensor
    frame_rate: float


@dataclass(frozen=True)
class ClipShape:
    """What is known of a clip before it is read."""

    num_frames: int
    height: int
    width: int
    frame_rate: float


class ClipSource(Protocol):
    """Clips by index. ``key`` names a clip's exact content for the cache; ``text`` is its caption, which may be put
    differently in each epoch."""

    def __len__(self) -> int: ...
    def shape(self, index: int) -> ClipShape: ...
    def key(self, index: int) -> str: ...
    def load(self, index: int) -> Clip: ...
    def text(self, index: int, epoch: int) -> str: ...


class WorldClips:
    """Renders of the world: clip ``index`` is scene ``(split, seed = index)`` at a size and rate drawn from a list.

    Args:
        split: "train", "val", "test" or "all" (see `data.world.sample_scene`).
        count: number of clips.
        num_frames: frames of each.
        sizes: (height, width) to draw from; name one twice to draw it twice as often.
        frame_rates: rates to draw from.
    """

    def __init__(
        self,
        split: str,
        count: int,
        num_frames: int,
        sizes: Sequence[Sequence[int]],
        frame_rates: Sequence[float],
    ) -> None:
        self.split, self.count, self.num_frames = split, count, num_frames
        self.sizes, self.frame_rates = [(h, w) for h, w in sizes], list(frame_rates)
        self._scenes: dict[int, Scene] = {}  # of the clips met so far: to find one takes 50 ms

    def __len__(self) -> int:
        return self.count

    def shape(self, index: int) -> ClipShape:
        """Size and rate of clip ``index``."""
        generator = keyed_generator(self.split, index, "shape")
        height, width = self.sizes[draw_integer(len(self.sizes), generator)]
        rate = self.frame_rates[draw_integer(len(self.frame_rates), generator)]
        return ClipShape(self.num_frames, height, width, rate)

    def key(self, index: int) -> str:
        """The world's version, split, seed, size, frames and rate."""
        s = self.shape(index)
        return f"world-{WORLD_VERSION}-{self.split}-{index}-{s.num_frames}x{s.height}x{s.width}-{s.frame_rate:g}fps"

    def style(self, index: int, epoch: int = 0) -> str:
        """The caption style of clip ``index``, drawn from `STYLES_IN_TWENTY`."""
        styles = [style for style, count in STYLES_IN_TWENTY.items() for _ in range(count)]
        later = [epoch] if epoch else []
        return styles[draw_integer(len(styles), keyed_generator(self.split, index, "style", *later))]

    def text(self, index: int, epoch: int) -> str:
        """A caption of clip ``index``, in another `style` and other words in each epoch: a text encoder that is trained
        would else learn the captions of a few thousand clips by heart."""
        return self._scene(index).caption(self.style(index, epoch), wording=epoch)

    def load(self, index: int) -> Clip:
        """Render clip ``index``."""
        s = self.shape(index)
        return Clip(self._scene(index).render(s.num_frames, s.height, s.width, s.frame_rate), s.frame_rate)

    def _scene(self, index: int) -> Scene:
        if index not in self._scenes:
            self._scenes[index] = sample_scene(self.split, index)
        return self._scenes[index]
