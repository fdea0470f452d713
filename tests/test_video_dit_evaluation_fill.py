"""How full batches are, in three ways: what each takes, leaves out and costs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import ClipShape
from data.manifest import ClipRecord
from data.packing import View
from video_dit.evaluation.fill import (
    DURATIONS,
    EPOCHS,
    Filling,
    FillOptions,
    FillRow,
    Fitted,
    bucket_batches,
    draw_clips,
    duration,
    fit_clip,
    latent_frames,
    listed_size,
    measure_fill,
    near_size,
    our_packs,
    padded_batches,
    source_clip,
    summary,
    whole_views,
)

OPTIONS = FillOptions(clips=200, token_budget=16384, ranks=4, seed=0)


def record(width: int, height: int, fps: float, frames: int, **others: float) -> ClipRecord:
    return ClipRecord(Path("a.mp4"), "", 2, width, height, fps, frames, **others)  # type: ignore[arg-type]


RECORDS = [
    record(640, 480, 30.0, 77),
    record(1280, 720, 25.0, 950),
    record(720, 1280, 5.0, 65),
    record(720, 480, 8.0, 49),
]


@pytest.fixture(scope="module")
def clips() -> list[ClipShape]:
    return draw_clips(RECORDS, OPTIONS)


def test_clips_are_drawn_by_the_seed(clips: list[ClipShape]) -> None:
    assert len(clips) == 200
    assert set(clips) == {source_clip(r) for r in RECORDS}
    assert draw_clips(RECORDS, OPTIONS) == clips
    assert draw_clips(RECORDS, FillOptions(200, 16384, 4, seed=1)) != clips


def test_rows_that_say_too_little_or_are_too_short_are_left_out() -> None:
    short, unknown = record(640, 480, 30.0, 8), ClipRecord(Path("a.mp4"), "", 2, 640, 480)
    with pytest.raises(ValueError, match="no row has width, height, fps, num_frames and 5 frames at 16 fps"):
        draw_clips([short, unknown], OPTIONS)
    assert {clip.width for clip in draw_clips([short, unknown, RECORDS[2]], OPTIONS)} == {720}


def test_seconds_become_frames_at_one_rate() -> None:
    assert source_clip(record(640, 480, 30.0, 60)) == ClipShape(32, 480, 640, 16.0)
    assert source_clip(record(640, 480, 30.0, 60, start=0.5, end=1.5)) == ClipShape(16, 480, 640, 16.0)
    longest = source_clip(record(640, 480, 30.0, 6000))
    assert longest is not None
    assert latent_frames(longest) == max(DURATIONS)


def test_what_is_cropped_and_cut() -> None:
    clip = ClipShape(40, 480, 640, 16.0)
    same = fit_clip(clip, (240, 320), latent_frames(clip))
    assert (same.shape.frames, same.shape.tokens_per_frame) == (10, 15 * 20)
    assert (same.space, same.time) == (1.0, 37 / 40)
    assert fit_clip(clip, (256, 256), 8).space == 3 / 4
    assert fit_clip(clip, (256, 256), 8).time == 29 / 40
    assert fit_clip(clip, (128, 256), 8).space == pytest.approx(2 / 3)
    assert fit_clip(clip, (256, 256), 0).time == 0


def test_sizes_keep_the_aspect_or_are_those_of_a_list() -> None:
    wide = ClipShape(40, 480, 1200, 16.0)
    assert listed_size(wide) == listed_size(ClipShape(40, 720, 1280, 16.0)) == (192, 336)
    assert fit_clip(wide, near_size(wide), 10).space > 0.95 > fit_clip(wide, listed_size(wide), 10).space


def test_a_bucket_takes_no_more_than_the_clip_has() -> None:
    taken = [duration(ClipShape(frames, 256, 256, 16.0)) for frames in range(5, 126)]
    assert set(taken) == {0, *DURATIONS}
    assert all(d <= latent_frames(ClipShape(frames, 256, 256, 16.0)) for frames, d in enumerate(taken, start=5))
    assert taken == sorted(taken)


@pytest.mark.parametrize("way", [our_packs, padded_batches, bucket_batches])
def test_each_way_takes_every_clip_once_an_epoch_within_the_budget(
    way: Callable[[list[Fitted], FillOptions], list[list[View]]], clips: list[ClipShape]
) -> None:
    fitted = [fit_clip(clip, listed_size(clip), duration(clip)) for clip in clips]
    batches = way(fitted, OPTIONS)
    assert all(0 < sum(view.tokens for view in batch) <= OPTIONS.token_budget for batch in batches)
    seen = sorted(view.index for batch in batches for view in batch)
    assert seen == sorted(EPOCHS * list(range(len(clips))))


def test_padding_is_to_the_longest_of_the_batch(clips: list[ClipShape]) -> None:
    fitted = [fit_clip(clip, near_size(clip), latent_frames(clip)) for clip in clips]
    whole = {view.index: view.tokens for view in whole_views(fitted)}
    batches = padded_batches(fitted, OPTIONS)
    assert all({v.tokens for v in batch} == {max(whole[v.index] for v in batch)} for batch in batches)
    assert summary("", clips, fitted, batches, OPTIONS).padding > 0.05


def test_buckets_hold_equal_shapes_and_no_padding(clips: list[ClipShape]) -> None:
    fitted = [fit_clip(clip, listed_size(clip), duration(clip)) for clip in clips]
    batches = bucket_batches(fitted, OPTIONS)
    assert all(len({fitted[view.index].shape for view in batch}) == 1 for batch in batches)
    assert summary("", clips, fitted, batches, OPTIONS).padding == 0


def test_the_figures_of_a_way_by_hand() -> None:
    """Two clips of four latent frames of 100 tokens, of which one view takes two; 700 of 1,600 tokens are computed."""
    clips = [ClipShape(16, 480, 640, 16.0), ClipShape(16, 480, 640, 16.0)]
    fitted = [fit_clip(clip, (160, 160), 4) for clip in clips]
    batches = [[View(0, 0, 0, 4, False, 400)], [View(1, 0, 0, 2, False, 300)]] * EPOCHS
    row = summary("", clips, fitted, batches, FillOptions(2, 800, 2, 0))
    assert row.filled == pytest.approx(600 / 1600)
    assert row.padding == pytest.approx(100 / 1600)
    dear, cheap = 400 * (1 + 400 / 4608), 300 * (1 + 300 / 4608)
    assert row.uneven == row.most == pytest.approx(dear / ((dear + cheap) / 2) - 1)
    assert row.cut == pytest.approx(3 / 16)
    assert row.cropped == pytest.approx(13 / 16 * 1 / 4)
    assert row.later == pytest.approx(200 / 800)


def test_ours_is_fuller_than_padding_and_loses_less_than_buckets_and_is_more_even_than_both() -> None:
    lines: list[str] = []
    found = measure_fill(RECORDS, OPTIONS, lines.append)
    near, listed, padded, buckets = found.rows
    assert near.filled > max(0.95, padded.filled + 0.1)
    assert near.uneven < min(padded.uneven, buckets.uneven) / 3
    assert near.cropped == padded.cropped < listed.cropped
    assert near.cut == padded.cut < buckets.cut
    assert near.later > 0 == padded.later == buckets.later
    assert [row.line() for row in found.rows] == lines[3:7]


@pytest.mark.parametrize(("filled", "uneven", "met"), [(0.97, 0.05, [True, True]), (0.969, 0.051, [False, False])])
def test_requirements_are_of_our_packs(filled: float, uneven: float, met: list[bool]) -> None:
    ours = FillRow("", 8, filled, 0.0, uneven, 1.0, 0.0, 0.0, 0.0)
    other = FillRow("", 8, 0.5, 0.0, 0.01, 1.0, 0.0, 0.0, 0.0)
    assert [one.met for one in Filling([ours, other], 0.9).requirements()] == met


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FillOptions(20, 8000, 2, 0), "--token-budget 8000 must hold the longest view: use at least "),
        (FillOptions(2, 16384, 64, 0), "--ranks 64: .* batches make no step: use fewer or more --clips"),
    ],
)
def test_mistakes_are_told(options: FillOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_fill(RECORDS, options, lambda _: None)
