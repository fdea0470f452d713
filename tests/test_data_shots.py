"""Shots: cuts where they are, figures that tell what is worth training on, twins however they are stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.shots import BLOCKS, MOMENTS, Seen, Shot, block_means, find_shots
from data.video import VideoReader, read_video, write_video


def moving(seed: int, frames: int = 30, height: int = 72, width: int = 96, speed: int = 2) -> Tensor:
    """A picture of coloured patches that slides by ``speed`` pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (height // 12, 40, 3), generator=generator)
    picture = patches.repeat_interleave(12, 0).repeat_interleave(12, 1).to(torch.uint8)
    return torch.stack([picture[:, speed * t : speed * t + width] for t in range(frames)])


def shots_of(path: Path, frames: Tensor, rate: float = 24, crf: int = 18) -> list[Shot]:
    write_video(path, frames, rate, crf=crf)
    return find_shots(VideoReader(path))


def test_a_cut_is_found_where_it_is(tmp_path: Path) -> None:
    first, second = shots_of(tmp_path / "a.mp4", torch.cat([moving(0, 30), moving(1, 42)]))
    assert (first.num_frames, second.num_frames) == (30, 42)
    assert (first.start, first.end) == (0, second.start)
    assert second.start == pytest.approx(30 / 24, abs=1e-3)
    assert second.end == pytest.approx(72 / 24, abs=1e-3)


def test_what_moves_is_one_shot(tmp_path: Path) -> None:
    (shot,) = shots_of(tmp_path / "a.mp4", moving(0, 60))
    assert shot.num_frames == 60
    assert shot.motion > 10


def test_figures_of_what_is_known(tmp_path: Path) -> None:
    """A grey 100 with a bright tenth that moves nowhere."""
    frames = torch.full((30, 80, 80, 3), 100, dtype=torch.uint8)
    frames[:, :8] = 200
    (shot,) = shots_of(tmp_path / "a.mp4", frames, crf=1)
    assert shot.brightness == pytest.approx(110, abs=3)
    assert shot.contrast == pytest.approx(30, abs=3)
    assert shot.motion < 0.1
    assert shot.liveliest < 0.1


def test_a_small_thing_that_moves_is_seen(tmp_path: Path) -> None:
    frames = torch.full((30, 80, 80, 3), 100, dtype=torch.uint8)
    for number in range(30):
        frames[number, 40:44, 2 * number : 2 * number + 4] = 255
    (shot,) = shots_of(tmp_path / "a.mp4", frames)
    assert shot.motion < 2
    assert shot.liveliest > 4 * shot.motion


def test_the_first_changes_of_a_shot_are_not_the_cut(tmp_path: Path) -> None:
    still = moving(0, 1).expand(30, -1, -1, -1)
    other = moving(1, 1).expand(30, -1, -1, -1)
    first, second = shots_of(tmp_path / "a.mp4", torch.cat([still, other]))
    assert max(first.motion, second.motion) < 0.5


def test_rate_makes_no_difference_to_motion(tmp_path: Path) -> None:
    (slow,) = shots_of(tmp_path / "slow.mp4", moving(0, 16, speed=4), rate=8)
    (fast,) = shots_of(tmp_path / "fast.mp4", moving(0, 32, speed=2), rate=16)
    assert slow.motion == pytest.approx(fast.motion, rel=0.1)


def test_blocks_are_means() -> None:
    picture = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)
    means = block_means(picture)
    assert means.shape == (BLOCKS, BLOCKS)
    assert means[0, 0] == picture[:2, :3].mean()
    assert means[-1, 2] == picture[-2:, 6:9].mean()


def test_the_same_shot_is_a_twin_at_another_size_quality_and_brightness(tmp_path: Path) -> None:
    frames = moving(0, 40, 144, 192)
    (shot,) = shots_of(tmp_path / "a.mp4", frames)
    (small,) = shots_of(tmp_path / "b.mp4", frames[:, ::2, ::2], crf=30)
    (darker,) = shots_of(tmp_path / "c.mp4", (frames * 0.99).to(torch.uint8))
    (other,) = shots_of(tmp_path / "d.mp4", moving(1, 40, 144, 192))
    seen = Seen()
    assert [seen.twin(one.thumbnail) for one in (shot, small, darker, other, other)] == [False, True, True, False, True]


def test_twins_are_found_across_the_borders_of_cells() -> None:
    """Whatever the two are, `Seen` says what comparing them with all others says."""
    generator = np.random.default_rng(0)
    base = generator.integers(60, 180, (MOMENTS, BLOCKS, BLOCKS))
    seen = Seen(nearness=2.0)
    met: list[np.ndarray] = []
    answers = []
    for _ in range(300):
        shift = generator.normal(0, 1.2) * generator.choice([-1, 1], (1, 1, BLOCKS))
        levels = np.clip(base + shift + generator.normal(0, 1, base.shape), 0, 255).round().astype(np.uint8)
        plain = levels - levels.mean(dtype=np.float32)
        expected = any(np.abs(plain - other).mean() < 2.0 for other in met)
        answers.append(expected)
        assert seen.twin(levels.tobytes().hex()) == expected
        if not expected:
            met.append(plain)
    assert 10 < sum(answers) < 290


def test_gestures_before_one_camera_are_no_twins(clips: Path) -> None:
    """Six signs by one man, in one room: different clips; and each is its own twin when it is compressed again."""
    names = ["again", "help", "learn", "school", "yes", "no"]
    shots = [find_shots(VideoReader(clips / f"train/sample-videos__{name}.mkv")) for name in names]
    seen = Seen()
    assert not any(seen.twin(shot.thumbnail) for found in shots for shot in found)


def test_what_is_compressed_again_is_a_twin(clips: Path, tmp_path: Path) -> None:
    path = clips / "train/sample-videos__again.mkv"
    clip = read_video(path)
    (shot,) = find_shots(VideoReader(path))
    (again,) = shots_of(tmp_path / "a.mp4", clip.frames[:, ::2, ::2], clip.frame_rate, crf=36)
    seen = Seen()
    assert not seen.twin(shot.thumbnail)
    assert seen.twin(again.thumbnail)
