"""Clips by index: renders of the world."""

from collections import Counter

import pytest
import torch

from data.dataset import WorldClips
from data.world import sample_scene


def world(split: str = "train", **changes: object) -> WorldClips:
    options = {"count": 40, "num_frames": 5, "sizes": [[16, 16], [16, 24]], "frame_rates": [8.0, 12.0]}
    return WorldClips(split, **{**options, **changes})


def test_world_clips_are_a_function_of_their_index() -> None:
    clips, again = world(), world()
    assert len(clips) == 40
    for index in (0, 7):
        first, second = clips.load(index), again.load(index)
        assert torch.equal(first.frames, second.frames)
        assert clips.text(index, 3) == again.text(index, 3)
    alike = world(sizes=[[16, 16]], frame_rates=[8.0])
    assert not torch.equal(alike.load(0).frames, alike.load(1).frames)


def test_world_clips_have_the_shape_they_tell() -> None:
    clips = world()
    for index in range(4):
        shape, clip = clips.shape(index), clips.load(index)
        assert clip.frames.shape == (shape.num_frames, shape.height, shape.width, 3)
        assert clip.frames.dtype == torch.uint8
        assert clip.frame_rate == shape.frame_rate


def test_a_clip_of_the_world_is_told_in_other_words_each_epoch() -> None:
    clips = world()
    for index in (0, 7):
        texts = [clips.text(index, epoch) for epoch in range(8)]
        assert texts[0] == sample_scene("train", index).caption(clips.style(index))
        assert len(set(texts)) > 4
    styles = Counter(clips.style(0, epoch) for epoch in range(200))
    assert styles["exhaustive"] / 200 == pytest.approx(0.7, abs=0.1)
    assert len(styles) == 4


def test_every_size_and_rate_of_the_list_is_drawn_alone_and_together() -> None:
    clips = world(count=200)
    drawn = [clips.shape(index) for index in range(200)]
    counts = {(s.height, s.width, s.frame_rate): 0 for s in drawn}
    for s in drawn:
        counts[s.height, s.width, s.frame_rate] += 1
    assert set(counts) == {(16, w, rate) for w in (16, 24) for rate in (8.0, 12.0)}
    assert min(counts.values()) > 25


def test_keys_of_the_world_tell_clips_apart() -> None:
    sources = [
        world(),
        world("val"),
        world(num_frames=9),
        world(sizes=[[32, 32]]),
        world(frame_rates=[7.5]),
    ]
    keys = [source.key(index) for source in sources for index in range(40)]
    assert len(set(keys)) == len(keys)
    assert world().key(3) == world().key(3)
