"""Packs from clips that are rendered, cached or stored: the same, whichever way they come."""

from pathlib import Path

import pytest
import torch

from data.packing import LoadedPack
from vae3d import LatentCodec, VideoVAE
from video_dit.batch import Pack
from video_dit.config import DataConfig, ModelConfig, RunConfig
from video_dit.pack_factory import PackFactory


@pytest.fixture
def codec(tiny_vae: VideoVAE) -> LatentCodec:
    return LatentCodec(tiny_vae)


def factory(codec: LatentCodec, cache: Path | str, **data: object) -> PackFactory:
    small = {"num_clips": 4, "num_frames": 9, "window_frames": 9, "sizes": [[16, 16], [16, 32]], "token_budget": 12}
    config = RunConfig(data=DataConfig(cache=str(cache), **{**small, **data}), model=ModelConfig(base_tokens=2))
    return PackFactory(config, codec, "train")


def pack(some: PackFactory, position: int) -> Pack:
    return some.build(some.packs[position], position)


def assert_same(first: Pack, second: Pack) -> None:
    for name in ("hidden_states", "target", "levels", "level_index", "coords", "one_frame", "made"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert torch.equal(first.segments.cu_seqlens, second.segments.cu_seqlens)
    assert (first.prompts, first.clips) == (second.prompts, second.clips)


def test_a_cached_clip_makes_the_pack_that_a_new_one_does(codec: LatentCodec, tmp_path: Path) -> None:
    fresh, caching = factory(codec, ""), factory(codec, tmp_path)
    for position in range(3):
        first = pack(caching, position)  # which fills the cache
        again = caching.packs[position]
        assert all(item.encoded is not None and item.clip is None for item in again.items)
        assert_same(first, caching.build(again, position))
        assert_same(first, pack(fresh, position))
    assert all(item.encoded is None for item in fresh.packs[0].items)


def test_positions_differ_and_hold_what_was_planned(codec: LatentCodec) -> None:
    some = factory(codec, "")
    packs = [pack(some, position) for position in range(4)]
    for position, one in enumerate(packs):
        views = some.plan.pack(position)
        assert one.clips == tuple(view.index for view in views)
        assert len(one.hidden_states) == sum(view.tokens for view in views) <= 12
    assert not torch.equal(packs[0].hidden_states[:2], packs[1].hidden_states[:2])


@pytest.mark.parametrize(("data", "named"), [({}, "data.manifest="), ({"latents": "shards"}, "data.latents=shards")])
def test_nothing_that_can_be_read_is_an_error(codec: LatentCodec, data: dict, named: str) -> None:
    some = factory(codec, "")
    some.config = RunConfig(data=DataConfig(**data))
    with pytest.raises(ValueError, match=f"{named}.*: no clip tried so far can be read: mend it"):
        some.build(LoadedPack([], 4), 0)
