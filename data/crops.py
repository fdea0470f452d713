"""Batches of random crops, in space and time, for training that needs no whole clips: the autoencoder's."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.dataset import ClipShape, ClipSource, WorldClips
from data.latents import TensorCache
from data.manifest import has_split
from data.manifest_clips import ManifestClips
from data.seeding import draw_integer, keyed_generator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropConfig:
    """What batches are cut from. A batch is ``[clips, frames, height, width]``, drawn anew for each step.

    Raises:
        ValueError: a value is out of its range.
    """

    world_clips: int = 300
    world_frames: int = 33
    world_sizes: list[list[int]] = field(default_factory=lambda: [[64, 64], [128, 128]])
    world_frame_rates: list[float] = field(default_factory=lambda: [8.0])
    manifest: str = ""
    """Real clips (rows of split ``train``), each at its own frame rate; empty trains on the world alone."""
    manifest_frames: int = 65
    manifest_sizes: list[list[int]] = field(
        default_factory=lambda: [[256, 256], [256, 336], [256, 384], [256, 448], [336, 256], [448, 256]]
    )
    manifest_strides: list[int] = field(default_factory=lambda: [1, 2, 4])
    """A crop of a real clip takes every frame, every second, …, drawn from these: so one clip has several rates."""
    world_share: float = 0.5
    """Share of batches from the world when there is a manifest."""
    batches: list[list[int]] = field(default_factory=lambda: [[4, 17, 128, 128], [16, 17, 64, 64], [32, 1, 128, 128]])
    cache: str = "cache/frames"
    """Folder in which clips are kept as they are cut from, uncompressed: about 20 MB for 65 frames of 256x384. Empty
    reads and renders them anew each time."""
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.batches or not self.world_sizes or not self.world_frame_rates or not self.manifest_sizes:
            raise ValueError("data.batches, world_sizes, world_frame_rates and manifest_sizes need an entry each")
        for name in ("world_sizes", "manifest_sizes"):
            for size in getattr(self, name):
                if len(size) != 2 or min(size) < 1:
                    raise ValueError(f"data.{name} has {list(size)}: each must be [height, width]")
        if not 0 <= self.world_share <= 1:
            raise ValueError(f"data.world_share={self.world_share} must be in [0, 1]")
        if not self.manifest_strides or min(self.manifest_strides) < 1:
            raise ValueError(f"data.manifest_strides={list(self.manifest_strides)} must be numbers from 1 up")
        for batch in self.batches:
            if len(batch) != 4 or min(batch) < 1:
                raise ValueError(f"data.batches has {list(batch)}: each must be [clips, frames, height, width]")
        for name in ("world_clips", "world_frames", "manifest_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least 1")
        if not all(rate > 0 for rate in self.world_frame_rates):
            raise ValueError(f"data.world_frame_rates={list(self.world_frame_rates)} must all be above 0")
        if self.workers < 0:
            raise ValueError(f"data.workers={self.workers} must be at least 0")


class Crops(Dataset):
    """Batch ``position``: uint8 frames ``(b, t, h, w, 3)``, a pure function of (seed, position).

    It holds no clip where none of those that are large enough can be read.

    Args:
        config: what to cut, and from where.
        seed: of everything that is drawn.
        split: of world and manifest; "val" has real clips only where the manifest has rows of that split.
        ranks: positions that are one step's, and have one shape, so that no rank waits for another's.
    Raises:
        ValueError: no clip is large enough for a batch, or the manifest is no good.
    """

    def __init__(self, config: CropConfig, seed: int, split: str, ranks: int = 1) -> None:
        self.config, self.seed, self.ranks = config, seed, ranks
        self.cache = TensorCache(Path(config.cache) if config.cache else None, space="frames")
        sizes = config.world_sizes
        self.world = WorldClips(split, config.world_clips, config.world_frames, sizes, config.world_frame_rates)
        self.real: ManifestClips | None = None
        if config.manifest and (split == "train" or has_split(config.manifest, split)):
            sizes, frames = config.manifest_sizes, config.manifest_frames
            self.real = ManifestClips(config.manifest, split, frames, sizes, None, frame_multiple=1)
        self.damaged: set[tuple[ClipSource, int]] = set()  # reported, and not opened again
        self.fitting: dict[ClipSource, list[list[int]]] = {}  # of sources that are drawn from
        if self.real is None or config.world_share > 0:
            self.fitting[self.world] = self._fitting(self.world, "the world", "data.world_frames or world_sizes")
        if self.real is not None and config.world_share < 1:
            name = f"split {split} of data.manifest={config.manifest}"
            self.fitting[self.real] = self._fitting(self.real, name, "data.manifest_frames or manifest_sizes")

    def _fitting(self, source: ClipSource, name: str, options: str) -> list[list[int]]:
        """The clips that hold each of the batches' shapes."""
        shapes = [source.shape(index) for index in range(len(source))]
        fitting = []
        for _, frames, height, width in self.config.batches:
            fitting.append([index for index, shape in enumerate(shapes) if _holds(shape, frames, height, width)])
            if not fitting[-1]:
                needed = f"{frames} frames of {height}x{width}"
                raise ValueError(f"data.batches: no clip of {name} has {needed}: ask for less, or raise {options}")
        return fitting

    def __getitem__(self, position: int) -> Tensor:
        generator = keyed_generator(self.seed, position // self.ranks, "shape")
        number = draw_integer(len(self.config.batches), generator)
        batch, frames, height, width = self.config.batches[number]
        from_world = self.real is None or float(torch.rand((), generator=generator)) < self.config.world_share
        source: ClipSource = self.world if from_world or self.real is None else self.real
        strides = [1] if from_world else list(self.config.manifest_strides)
        generator = keyed_generator(self.seed, position, "batch")
        fitting = list(self.fitting[source][number])
        crops: list[Tensor] = []
        while len(crops) < batch:
            if not fitting:
                return torch.empty(0, frames, height, width, 3, dtype=torch.uint8)
            index = fitting[draw_integer(len(fitting), generator)]
            shape = source.shape(index)
            stride = strides[draw_integer(len(strides), generator)]
            stride = max(1, min(stride, (shape.num_frames - 1) // max(1, frames - 1)))
            length = 1 + (frames - 1) * stride
            room = (shape.num_frames - length, shape.height - height, shape.width - width)
            t, y, x = (draw_integer(most + 1, generator) for most in room)
            part = (slice(t, t + length), slice(y, y + height), slice(x, x + width))
            if (crop := self._cut(source, index, part)) is None:
                fitting.remove(index)
                continue
            crops.append(crop[::stride])
        return torch.stack(crops)

    def _cut(self, source: ClipSource, index: int, part: tuple[slice, slice, slice]) -> Tensor | None:
        """Part ``(t, h, w, 3)`` of a clip, or None where its file is damaged or gone."""
        if (source, index) in self.damaged:
            return None
        try:
            key = source.key(index)
            if (stored := self.cache.get_part(key, "frames", part)) is not None:
                return stored
            clip = source.load(index)
        except (ValueError, OSError) as error:  # `data.video.VideoError`, or the file is gone
            logger.warning("left out: %s", error)
            self.damaged.add((source, index))
            return None
        self.cache.put(key, {"frames": clip.frames})
        return clip.frames[part]


def _holds(shape: ClipShape, frames: int, height: int, width: int) -> bool:
    return shape.num_frames >= frames and shape.height >= height and shape.width >= width
