"""Originals and reconstructions side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.video import read_video
from video_dit.evaluation.pairs import GAP, STRIP, Pair, write_pairs, write_picture


def flat(t: int, h: int, w: int, level: int) -> torch.Tensor:
    return torch.full((t, h, w, 3), level, dtype=torch.uint8)


def pair(t: int, h: int, w: int, rate: float) -> Pair:
    """Dark original, light reconstruction, each a little lighter in every frame."""
    steps = 3 * torch.arange(t, dtype=torch.uint8)[:, None, None, None]
    return Pair(f"{w}x{h}", flat(t, h, w, 40) + steps, flat(t, h, w, 160) + steps, rate)


def test_the_original_is_above_its_reconstruction(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", [pair(9, 96, 160, 8.0), pair(5, 128, 104, 30.0)])
    picture = np.asarray(Image.open(tmp_path / "a.png"))[..., 0]
    for top, h, w, last in ((34, 96, 160, 24), (34 + 196 + 38, 128, 104, 12)):
        left = 4 + 3 * (w + 4)  # the last of four columns
        for y, level in ((top, 40), (top + h + GAP, 160)):
            assert (picture[y : y + h, left : left + w] == level + last).all()


def test_the_original_is_left_of_its_reconstruction_at_its_own_rate(tmp_path: Path) -> None:
    wide, small = pair(20, 96, 160, 8.0), pair(10, 32, 64, 16.0)
    write_pairs(tmp_path / "a.mp4", [wide, small])
    clip = read_video(tmp_path / "a.mp4")
    first, second = 40, 40  # 2.5 s of the first; the second lasts 0.625 s and is played four times
    assert clip.frame_rate == 16 and clip.frames.shape == (first + second, STRIP + 96, 2 * 160 + GAP, 3)
    levels = clip.frames.float().mean(-1)
    for number in range(first):
        for x, level in ((80, 40), (240, 160)):
            assert levels[number, STRIP + 48, x] == pytest.approx(level + 3 * (number // 2), abs=4)
    for number in range(second):
        middle = levels[first + number, STRIP + 48]
        assert middle[162 - 100] == pytest.approx(40 + 3 * (number % 10), abs=4)  # enlarged twice
        assert middle[164 + 100] == pytest.approx(160 + 3 * (number % 10), abs=4)
        assert middle[10] < 10 and middle[-10] < 10
    assert (clip.frames[0, :STRIP] > 200).any()  # its label


def test_there_must_be_something_to_write(tmp_path: Path) -> None:
    for write, name in ((write_picture, "a.png"), (write_pairs, "a.mp4")):
        with pytest.raises(ValueError, match="no clips to write"):
            write(tmp_path / name, [])
