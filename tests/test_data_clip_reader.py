"""Clips read ahead: the same by workers as without, what is damaged told, and failures of a disk raised."""

import errno
from pathlib import Path

import pytest
import torch

from data.clip_reader import read_clips
from data.dataset import Clip, ClipShape, WorldClips
from data.shards import Unread
from data.video_limits import VideoError

WORLD = WorldClips("train", 4, 5, [(32, 32), (32, 48)], [8.0])


class Broken:
    """Two clips, of which the second cannot be read."""

    def __init__(self, path: Path, number: int | None = None) -> None:
        self.path, self.number = path, number

    def __len__(self) -> int:
        return 2

    def shape(self, index: int) -> ClipShape:
        return ClipShape(1, 8, 8, 8.0)

    def key(self, index: int) -> str:
        return str(index)

    def text(self, index: int, epoch: int) -> str:
        return f"clip {index}, put in way {epoch % 2}"

    def load(self, index: int) -> Clip:
        if index == 1:
            raise VideoError(self.path, "not a video") from (OSError(self.number, "no") if self.number else None)
        return Clip(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 8.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_in_order_with_their_captions(workers: int) -> None:
    indices = [3, 0, 2]
    found = list(read_clips(WORLD, indices, 8, workers))
    assert [index for index, _ in found] == indices
    for index, read in found:
        assert not isinstance(read, Unread)
        assert torch.equal(read.clip.frames, WORLD.load(index).frames)
        assert read.texts == list(dict.fromkeys(WORLD.text(index, epoch) for epoch in range(8)))


def test_a_caption_is_told_once(tmp_path: Path) -> None:
    ((_, read),) = read_clips(Broken(tmp_path), [0], 8, 0)
    assert not isinstance(read, Unread)
    assert read.texts == ["clip 0, put in way 0", "clip 0, put in way 1"]


def test_what_is_damaged_is_told(tmp_path: Path) -> None:
    (_, (index, read)) = read_clips(Broken(tmp_path), [0, 1], 1, 0)
    assert index == 1
    assert isinstance(read, Unread)
    assert (read.index, f"{tmp_path}: not a video" in read.reason) == (1, True)


@pytest.mark.parametrize(("name", "number"), [("", errno.EIO), ("gone", None)])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fails_is_raised(tmp_path: Path, name: str, number: int | None, workers: int) -> None:
    with pytest.raises(OSError, match="not a video"):
        list(read_clips(Broken(tmp_path / name, number), [0, 1], 1, workers))
