"""Packs from clips that are rendered, cached or stored: the same, whichever way they come."""

from pathlib import Path

import pytest
import torch

from data.packing import LoadedPack
from vae3d import LatentCodec, VideoVAE
from video_dit.batch import Pack
from video_dit.config import DataConfig, ModelConfig, RunConfig
from video_dit.engine import TrainConfig
from video_dit.pack_factory import BuiltPack, PackFactory
from video_dit.text import MAX_GROUPS, TextConfig, byte_t5

TOKENIZER, _ = byte_t5(TextConfig(width=16, num_layers=1, num_heads=2, hidden=32))


@pytest.fixture
def codec(tiny_vae: VideoVAE) -> LatentCodec:
    return LatentCodec(tiny_vae)


def factory(codec: LatentCodec, cache: Path | str, train: TrainConfig | None = None) -> PackFactory:
    data = DataConfig(
        num_clips=4, num_frames=9, window_frames=9, sizes=[[16, 16], [16, 32]], token_budget=12, cache=str(cache)
    )
    config = RunConfig(data=data, model=ModelConfig(base_tokens=2), train=train or TrainConfig())
    return PackFactory(config, codec, "train", TOKENIZER)


def built(some: PackFactory, position: int) -> BuiltPack:
    return some.build(some.packs[position], position)


def assert_same(first: Pack, second: Pack) -> None:
    for name in ("hidden_states", "target", "levels", "level_index", "coords", "one_frame", "made", "weight"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.segments.lengths == second.segments.lengths
    assert all(torch.equal(a, b) for a, b in zip(first.prompts.ids, second.prompts.ids, strict=True))
    assert (first.clips, first.loss_elements) == (second.clips, second.loss_elements)


def test_a_cached_clip_makes_the_pack_that_a_new_one_does(codec: LatentCodec, tmp_path: Path) -> None:
    fresh, caching = factory(codec, ""), factory(codec, tmp_path)
    for position in range(3):
        first = built(caching, position)  # which fills the cache
        again = caching.packs[position]
        assert isinstance(again, BuiltPack)  # by a worker, which has no codec
        assert caching.build(again, position) is again
        assert_same(first.pack, again.pack)
        assert_same(first.pack, built(fresh, position).pack)
        assert first.views == again.views
    assert isinstance(fresh.packs[0], LoadedPack)


def test_positions_differ_and_hold_what_was_planned(codec: LatentCodec) -> None:
    some = factory(codec, "")
    packs = [built(some, position) for position in range(4)]
    for position, one in enumerate(packs):
        views = some.plan.pack(position)
        assert (list(one.views), one.left_out) == (views, 0)
        assert one.pack.clips == tuple(view.index for view in views)
        assert len(one.pack.hidden_states) == sum(view.tokens for view in views) <= 12
    assert not torch.equal(packs[0].pack.hidden_states[:2], packs[1].pack.hidden_states[:2])


@pytest.mark.parametrize(("data", "named"), [({}, "data.manifest="), ({"latents": "shards"}, "data.latents=shards")])
def test_nothing_that_can_be_read_is_an_error(codec: LatentCodec, data: dict, named: str) -> None:
    some = factory(codec, "")
    some.config = RunConfig(data=DataConfig(**data))
    with pytest.raises(ValueError, match=f"{named}.*: no clip tried so far can be read: mend it"):
        some.build(LoadedPack([], 4), 0)


@pytest.mark.parametrize(("stage", "cuda", "calls"), [(0, True, 1), (0, False, MAX_GROUPS), (1, True, MAX_GROUPS)])
def test_the_text_encoder_is_called_once_where_a_gpu_waits_for_calls(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch, stage: int, cuda: bool, calls: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    some = factory(codec, "", TrainConfig(zero_stage=stage))
    assert len(built(some, 0).pack.prompts.ids) == calls


def test_a_cache_that_cannot_be_written_ends_no_run(
    codec: LatentCodec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    caching, fresh = factory(codec, tmp_path / "cache"), factory(codec, "")
    for position in range(2):
        assert_same(built(caching, position).pack, built(fresh, position).pack)
    assert [line for line in caplog.messages if "no more clips are kept in data.cache=" in line] == caplog.messages[:1]
