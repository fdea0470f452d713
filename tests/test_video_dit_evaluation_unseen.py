"""Clips to be continued: which, how long, and of what size."""

from pathlib import Path

import pytest
import torch

from data.video import write_video
from data.world import sample_scene
from video_dit import VideoPipeline
from video_dit.evaluation.unseen import nearest_trained, real_clips, world_clips
from video_dit.evaluation.world import UNSEEN


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Clips of 40, 6 and 20 frames at 8 a second and one that is broken, of split test, and one to train on."""
    for name, frames, size in (
        ("long", 40, (48, 64)),
        ("short", 6, (48, 64)),
        ("wide", 20, (32, 96)),
        ("own", 40, (48, 64)),
    ):
        clip = torch.randint(256, (frames, *size, 3), dtype=torch.uint8)
        write_video(tmp_path / f"{name}.mp4", clip, 8)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = ["own.mp4,own,train", *(f"{name}.mp4,{name},test" for name in ("broken", "long", "short", "wide"))]
    (tmp_path / "clips.csv").write_text("\n".join(["path,text,split", *rows]))
    return tmp_path / "clips.csv"


def test_scenes_of_the_world_are_unseen_and_no_longer_than_asked(tiny_pipe: VideoPipeline) -> None:
    clips = list(world_clips(tiny_pipe, 2, 9))
    assert [clip.name for clip in clips] == [str(UNSEEN), str(UNSEEN + 1)]
    for number, clip in enumerate(clips):
        scene = sample_scene("all", UNSEEN + number)
        assert clip.prompt == scene.caption() and clip.scene == scene
        assert torch.equal(clip.frames, scene.render(9, 32, 32, 8.0))


def test_real_clips_of_the_split_that_are_long_enough(tiny_pipe: VideoPipeline, manifest: Path) -> None:
    left_out: list[str] = []
    clips = list(real_clips(tiny_pipe, manifest, "test", 5, 33, 9, left_out.append))
    assert [(clip.prompt, tuple(clip.frames.shape)) for clip in clips] == [
        ("long", (33, 32, 32, 3)),
        ("wide", (17, 16, 48, 3)),  # 1 + 4k of its 20 frames
    ]
    assert [name in text for name, text in zip(("broken", "short"), left_out, strict=True)] == [True, True]
    assert "6 frames at 8 a second, and 9 are to be given" in left_out[1]
    assert all(clip.scene is None for clip in clips)


def test_too_few_real_clips(tiny_pipe: VideoPipeline, manifest: Path) -> None:
    with pytest.raises(ValueError, match="1 clips of split test can be measured: give at least 2"):
        list(real_clips(tiny_pipe, manifest, "test", 5, 33, 33, lambda _: None))


def test_the_size_nearest_in_aspect() -> None:
    sizes = [(64, 64), (48, 80), (80, 48)]
    assert [nearest_trained(sizes, *size) for size in ((480, 640), (1080, 1920), (1920, 1080), (70, 64))] == [
        (64, 64),
        (48, 80),
        (80, 48),
        (64, 64),
    ]
