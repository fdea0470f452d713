"""Clips that no training sees, to be continued: scenes of the world, or real clips of a manifest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data.manifest import ClipRecord, read_manifest
from data.transforms import fit
from data.world import sample_scene
from data.world.scene import Scene
from video_dit.evaluation.world import UNSEEN
from video_dit.pipeline import VideoPipeline


@dataclass(frozen=True)
class UnseenClip:
    """name: that no other has. prompt: what it shows. frames: uint8 ``(1 + r·k, h, w, 3)`` at the model's rate, as many
    as are asked for or there are. scene: of the world, or None."""

    name: str
    prompt: str
    frames: Tensor
    scene: Scene | None


def world_clips(pipe: VideoPipeline, count: int, num_frames: int) -> Iterator[UnseenClip]:
    """Scenes of split "all", from which only the judge takes any, and of seeds that it does not reach; of the size and
    rate that the model was trained on most."""
    height, width = pipe.sizes[0]
    for seed in range(UNSEEN, UNSEEN + count):
        scene = sample_scene("all", seed)
        frames = scene.render(num_frames, height, width, pipe.frame_rate)
        yield UnseenClip(str(seed), scene.caption(), frames, scene)


def real_clips(
    pipe: VideoPipeline,
    manifest: Path,
    split: str,
    count: int,
    num_frames: int,
    least: int,
    warn: Callable[[str], None],
) -> Iterator[UnseenClip]:
    """The first ``count`` clips of a manifest's split that can be read and have ``least`` frames, resampled to the
    model's rate, and cut to the nearest of its sizes.

    Args:
        num_frames: the most frames of each. warn: takes why a clip is left out.
    Raises:
        ValueError: the manifest is no good, or has too few such clips.
    """
    found = 0
    for record in read_manifest(manifest, split=split):
        if found == count:
            return
        try:
            frames = first_frames(record, num_frames, least, pipe.frame_rate, pipe.codec.frame_rule[0])
        except ValueError as error:  # `data.video.VideoError`
            warn(f"left out: {error}")
            continue
        height, width = frames.shape[1:3]
        frames = fit(frames, *nearest_trained(pipe.sizes, height, width))
        found += 1
        yield UnseenClip(f"{record.path.name}, row {record.row}", record.text, frames, None)
    if found < 2:
        raise ValueError(f"--manifest {manifest}: {found} clips of split {split} can be measured: give at least 2")


def first_frames(record: ClipRecord, num_frames: int, least: int, frame_rate: float, r: int) -> Tensor:
    """The first frames of a row of a manifest, ``1 + r·k`` of them: at most ``num_frames``.

    Raises:
        data.video.VideoError: the file cannot be read, or has fewer than ``least``.
    """
    from data.video import VideoError, read_video  # PyAV may be missing where only the world is measured

    seconds = num_frames / frame_rate
    if record.stop is not None:
        seconds = min(seconds, record.stop - record.start)
    frames = read_video(record.path, record.start, seconds, frame_rate).frames[:num_frames]
    if len(frames) < least:
        reason = f"too short: {len(frames)} frames at {frame_rate:g} a second, and {least} are to be given"
        raise VideoError(record.path, reason, len(frames))
    return frames[: len(frames) - (len(frames) - 1) % r]


def nearest_trained(sizes: list[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """The one of ``sizes``, (height, width), whose aspect is nearest."""
    return min(sizes, key=lambda size: abs(size[1] / size[0] * height / width - 1))
