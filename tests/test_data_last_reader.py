"""The last reader: whose file it is, how long it is kept, and that it is not pickled."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from data.last_reader import LastReader
from data.video import VideoError, write_video
from data.video_limits import ReadLimits


def write_clip(path: Path, frames: int) -> None:
    write_video(path, torch.full((frames, 32, 32, 3), 90, dtype=torch.uint8), 8)


def test_a_reader_is_kept_until_another_file_is_read(tmp_path: Path) -> None:
    for number, name in enumerate(("a.mp4", "b.mp4"), start=3):
        write_clip(tmp_path / name, number)
    last = LastReader()
    first = last(tmp_path / "a.mp4")
    assert last(tmp_path / "a.mp4") is first
    assert last(tmp_path / "b.mp4").info().num_frames == 4
    assert last(tmp_path / "a.mp4") is not first


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    path, last = tmp_path / "a.mp4", LastReader()
    write_clip(path, 3)
    assert last(path).info().num_frames == 3
    write_clip(path, 5)
    assert last(path).info().num_frames == 5
    before = last(path)
    os.utime(path, (0, 0))
    assert last(path) is not before
    path.write_bytes(b"no video")
    with pytest.raises(VideoError, match="not a video"):
        last(path)
    path.unlink()
    with pytest.raises(VideoError, match="no such file"):
        last(path)


def test_a_pickled_one_has_its_limits_and_no_reader(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 3)
    last = LastReader(ReadLimits(max_pixels=16))
    with pytest.raises(VideoError, match="max_pixels"):
        last(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="max_pixels"):
        pickle.loads(pickle.dumps(last))(tmp_path / "a.mp4")
    kept = LastReader()
    first = kept(tmp_path / "a.mp4")
    assert pickle.loads(pickle.dumps(kept))(tmp_path / "a.mp4") is not first
