"""What a command line asks for, and the files that it names as they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.generate_options import parse
from data.video import read_video, write_video
from video_dit import VideoPipeline
from video_dit.asked import choose_size, mode_of, request_of
from video_dit.request import VideoRequest


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with two videos and a mask that is white on the left."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        frames = np.random.default_rng(seed).integers(0, 256, (14 + 4 * seed, 32, 32, 3), dtype=np.uint8)
        write_video(name, frames, 8.0)
    levels = np.zeros((32, 32), dtype=np.uint8)
    levels[:, :16] = 255
    Image.fromarray(levels).save("m.png")


def asked(pipe: VideoPipeline, *arguments: str, said: list[str] | None = None) -> VideoRequest:
    args = parse(["--steps", "3", *arguments], "", Path("model"))
    return request_of(args, pipe, (said if said is not None else []).append)


def test_an_edit_has_its_strength_and_a_mask_by_itself_the_whole(tiny_pipe: VideoPipeline) -> None:
    video = read_video("a.mp4").frames
    edit = asked(tiny_pipe, "--video", "a.mp4", "--edit", "0")
    assert edit.mode == "edit" and edit.strength == 0 and edit.mask is None
    assert edit.video is not None and torch.equal(edit.video, video)
    painted = asked(tiny_pipe, "--video", "a.mp4", "--mask", "m.png")
    assert painted.mode == "edit" and painted.strength == 1 and painted.mask is not None
    assert torch.equal(painted.mask, (torch.arange(32) < 16).expand(14, 32, 32))
    both = asked(tiny_pipe, "--video", "a.mp4", "--mask", "m.png", "--edit", "0.4")
    assert both.strength == 0.4 and both.mask is not None and both.source_prompt is None
    told = asked(tiny_pipe, "--video", "a.mp4", "--edit", "0.8", "--source-prompt", "0: a ball | 1: a cube")
    assert told.source_prompt is not None and told.source_prompt.texts == ("a ball", "a cube")


def test_an_uncropped_video_is_whole_in_the_trained_size_of_that_shape(tiny_pipe: VideoPipeline) -> None:
    said: list[str] = []
    wide = asked(tiny_pipe, "--video", "a.mp4", "--uncrop", "3:1", said=said)
    assert wide.video is not None and wide.mask is not None
    assert wide.video.shape == (14, 16, 48, 3)
    assert (~wide.mask[0]).nonzero().amin(0).tolist() == [0, 16]
    assert (~wide.mask[0]).nonzero().amax(0).tolist() == [15, 31]
    assert "a.mp4: resampled from 32x32 to 16x16 pixels" in said
    large = asked(tiny_pipe, "--video", "a.mp4", "--uncrop", "2:1", "--size", "64x32")
    assert large.video is not None and large.mask is not None
    assert torch.equal(large.video[:, :, 16:48], read_video("a.mp4").frames)
    with pytest.raises(ValueError, match="--uncrop 1:1 in a size of 32x32 leaves nothing to be made around"):
        asked(tiny_pipe, "--video", "a.mp4", "--uncrop", "1:1")


def test_it_is_told_that_the_model_sees_nothing_of_what_is_kept(tiny_pipe: VideoPipeline) -> None:
    for columns, blind in ((slice(0, 31), True), (slice(0, 16), False)):
        levels = np.zeros((32, 32), dtype=np.uint8)
        levels[:, columns] = 255
        Image.fromarray(levels).save("m.png")
        said: list[str] = []
        asked(tiny_pipe, "--video", "a.mp4", "--mask", "m.png", said=said)
        assert any("the model sees nothing of what is kept" in line for line in said) == blind


def test_of_two_videos_as_much_is_taken_as_both_have(tiny_pipe: VideoPipeline) -> None:
    said: list[str] = []
    between = asked(tiny_pipe, "--video", "a.mp4", "--interpolate", "b.mp4", "--fraction", "0.25", said=said)
    assert between.mode == "interpolate" and between.fraction == 0.25
    assert between.video is not None and between.second is not None
    assert len(between.video) == len(between.second) == 13
    assert [line for line in said if line] == ["videos of 14 and 18 frames: the first 13 of each are taken"]
    assert asked(tiny_pipe, "--video", "a.mp4", "--interpolate", "b.mp4").fraction == 0.5


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (["--extend", "both"], "both"),
        (["--connect", "b.mp4"], "connect"),
        (["--loop"], "loop"),
        (["--edit", "0"], "edit"),
        (["--mask", "m.png"], "edit"),
        (["--uncrop", "16:9"], "edit"),
        (["--interpolate", "b.mp4"], "interpolate"),
    ],
)
def test_each_mode_is_asked_for_by_its_option(tiny_pipe: VideoPipeline, arguments: list[str], mode: str) -> None:
    assert mode_of(parse(["--video", "a.mp4", *arguments], "", Path("model"))) == mode
    assert asked(tiny_pipe, "--video", "a.mp4", *arguments).mode == mode


def test_the_size_is_as_asked_or_that_nearest_in_shape(tiny_pipe: VideoPipeline) -> None:
    def size(aspect: float | None, *arguments: str) -> Any:
        return choose_size(parse(list(arguments), "", Path("model")), tiny_pipe, aspect)

    assert size(None) == (32, 32)
    assert size(2.9) == (16, 48) and size(1.2) == (32, 32)
    assert size(1.0, "--aspect", "3:1") == (16, 48)
    assert size(3.0, "--size", "64x32") == (32, 64)
    with pytest.raises(ValueError, match="width=33 must be a multiple of 16"):
        size(None, "--size", "33x32")


def test_of_several_sizes_of_a_shape_the_nearest_in_pixels_is_taken(tiny_pipe: VideoPipeline) -> None:
    tiny_pipe.transformer.register_to_config(sample_sizes=[[32, 32], [64, 64], [32, 64], [64, 128]])
    args = parse([], "", Path("model"))
    assert choose_size(args, tiny_pipe, 1.0, 60 * 60) == (64, 64)
    assert choose_size(args, tiny_pipe, 2.0, 30 * 50) == (32, 64)
    assert choose_size(args, tiny_pipe, 1.0) == (32, 32)
