"""The continued clip of a run: what is given stays, and what is made follows it."""

from pathlib import Path

import pytest
import torch

from data.dataset import Clip, WorldClips
from data.video import read_video
from video_dit import VideoPipeline
from video_dit.continuation import first_clip, write_continuation
from video_dit.stopping import Stop, StoppedError


def world(num_frames: int = 17) -> WorldClips:
    return WorldClips("val", 3, num_frames, [[32, 32]], [8.0])


class Damaged(WorldClips):
    """Whose first clip cannot be read."""

    def load(self, index: int) -> Clip:
        if index == 0:
            raise ValueError("damaged")
        return super().load(index)


class Timed(WorldClips):
    """Whose captions look like a schedule of prompts."""

    def text(self, index: int, epoch: int) -> str:
        return "00:00 | a holiday"


class NeverRead(WorldClips):
    """Whose clips take long."""

    def load(self, index: int) -> Clip:
        raise AssertionError(index)


def test_the_start_of_a_clip_is_continued_to_a_window(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    source = world()
    write_continuation(tiny_pipe, source, tmp_path / "samples", 12, Stop())
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step-0000012-continued.mp4", "step-0000012-continued.png"]
    frames = read_video(tmp_path / "samples" / names[0]).frames.float()
    assert len(frames) == 17  # the window of 5 latent frames, of which 3 are given: 9 frames
    given = source.load(0).frames[:9].float()
    assert (frames[:9] - given).abs().mean() < 6  # the file encoder's loss
    assert (frames[9:] - given[-1]).abs().mean() > 20  # of a model with random weights


def test_it_is_the_same_each_time(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    sheets = []
    for name in ("a", "b"):
        write_continuation(tiny_pipe, world(), tmp_path / name, 1, Stop())
        sheets.append((tmp_path / name / "step-0000001-continued.png").read_bytes())
    assert sheets[0] == sheets[1]


def test_a_caption_is_not_read_as_a_schedule(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    write_continuation(tiny_pipe, Timed("val", 1, 17, [[32, 32]], [8.0]), tmp_path, 1, Stop())
    assert (tmp_path / "step-0000001-continued.png").is_file()


@pytest.mark.parametrize("frames", [5, 9])
def test_a_short_clip_is_continued_as_well(tiny_pipe: VideoPipeline, tmp_path: Path, frames: int) -> None:
    write_continuation(tiny_pipe, world(frames), tmp_path, 1, Stop())
    assert len(read_video(tmp_path / "step-0000001-continued.mp4").frames) == min(frames, 9) + 8


def test_single_images_are_not_continued(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    write_continuation(tiny_pipe, world(1), tmp_path, 1, Stop())
    tiny_pipe.transformer.register_to_config(sample_latent_frames=1)
    write_continuation(tiny_pipe, NeverRead("val", 3, 1, [[32, 32]], [8.0]), tmp_path, 1, Stop())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_clip_is_passed_over(tiny_pipe: VideoPipeline) -> None:
    found = first_clip(Damaged("val", 3, 17, [[32, 32]], [8.0]), 5)
    assert found is not None
    index, clip = found
    assert index == 1
    assert torch.equal(clip.frames, world().load(1).frames)
    assert first_clip(world(), 18) is None


def test_a_stop_is_heeded_at_the_next_step(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        write_continuation(tiny_pipe, world(), tmp_path, 1, Stop(asked=True))
    assert list(tmp_path.iterdir()) == []
