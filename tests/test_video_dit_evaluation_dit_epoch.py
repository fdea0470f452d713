"""Batches of three ways as a transformer takes them, and what counts of each."""

import pytest
import torch

from data.dataset import ClipShape
from video_dit.evaluation.dit_candidates import Size, Work
from video_dit.evaluation.dit_epoch import (
    BUCKETS,
    OF_WHOLE_CLIPS,
    PACKED,
    PADDED,
    Batch,
    EpochOptions,
    Way,
    batches_of,
    draw_shapes,
    epoch_requirements,
    inputs_of,
    measure_epoch,
    training_step,
)
from video_dit.evaluation.dit_speed import DiTSpeedOptions
from video_dit.evaluation.fill import EPOCHS, LONGEST

WORK = Work(1, (1, 1, 1), 4, 32, channels=3)
OPTIONS = EpochOptions(Size(1, 32, 2), WORK, torch.float32, 2048, batches=3, seed=0, compiled=False)
SPEED = DiTSpeedOptions("cpu", 1, 1, "highest", autocast=False)


@pytest.fixture(scope="module")
def clips() -> list[ClipShape]:
    return draw_shapes(200, seed=0)


@pytest.fixture(scope="module")
def batches(clips: list[ClipShape]) -> dict[str, list[Batch]]:
    return batches_of(clips, OPTIONS)


def test_clips_are_drawn_by_the_seed_and_of_many_shapes(clips: list[ClipShape]) -> None:
    assert clips == draw_shapes(200, seed=0) != draw_shapes(200, seed=1)
    assert len({clip.width for clip in clips}) == 7
    frames = [clip.num_frames for clip in clips]
    assert min(frames) < 16
    assert max(frames) == LONGEST
    assert 0.3 < sum(n <= 45 for n in frames) / 200 < 0.7  # 2.8 s is in the middle of 0.5 and 16


def test_ways_keep_the_budget_and_padding_alone_is_useless(batches: dict[str, list[Batch]]) -> None:
    for name, found in batches.items():
        assert all(0 < sum(batch.lengths) <= OPTIONS.token_budget for batch in found)
        useless = sum(sum(batch.lengths) - batch.useful for batch in found)
        assert useless > 0 if name == PADDED else useless == 0
    assert all(len(set(batch.lengths)) == 1 for name in (PADDED, BUCKETS) for batch in batches[name])
    assert any(len(set(batch.lengths)) > 1 for batch in batches[PACKED])


def test_whole_clips_are_the_same_in_packs_and_padded(batches: dict[str, list[Batch]]) -> None:
    whole = sum(batch.useful for batch in batches[OF_WHOLE_CLIPS])
    assert EPOCHS * whole == sum(batch.useful for batch in batches[PADDED])


def test_a_smaller_budget_is_smaller_pictures(clips: list[ClipShape], batches: dict[str, list[Batch]]) -> None:
    large = batches_of(clips, EpochOptions(OPTIONS.size, WORK, torch.float32, 16384, 3, 0, False))
    tokens, small = (sum(batch.useful for batch in found[PADDED]) for found in (large, batches))
    assert tokens / small == pytest.approx(8, rel=0.05)
    with pytest.raises(ValueError, match="--token-budget 24 must hold the longest view: use at least 33"):
        batches_of(clips, EpochOptions(OPTIONS.size, WORK, torch.float32, 24, 3, 0, False))


def test_a_step_moves_the_weights_on_batches_of_any_shape() -> None:
    step = training_step(OPTIONS, "cpu")
    for lengths in ((5, 7, 9), (6, 6), (8,)):
        inputs = inputs_of(Batch(lengths, 0), OPTIONS, "cpu")
        assert inputs["segments"].count == inputs["prompt_segments"].count == len(lengths)
        assert inputs["hidden_states"].shape == inputs["target"].shape == (sum(lengths), 12)
        assert inputs["level_index"].bincount().tolist() == list(lengths)
        step(inputs)


def test_all_ways_are_timed(clips: list[ClipShape]) -> None:
    lines: list[str] = []
    ways, wanted = measure_epoch(clips, OPTIONS, SPEED, lines.append)
    assert [way.name for way in ways] == [PACKED, OF_WHOLE_CLIPS, PADDED, BUCKETS]
    assert all(len(way.seconds) == 3 for way in ways)
    assert {way.name: way.batches for way in ways} == batches_of(clips, OPTIONS)
    assert "scaled to about 91x91 pixels" in lines[0]
    assert [line.split("  ")[-1] for line in lines[-4:]] == [way.name for way in ways]
    assert len(wanted) == 3
    assert all(len(way.flops) == len(way.batches) > 3 for way in ways)
    assert all(min(way.flops) > 0 for way in ways)


def test_what_packs_must_reach() -> None:
    def way(name: str, seconds: float) -> Way:
        return Way(name, [Batch((10, 10), 16), Batch((10, 10), 14)], [30_000_000, 30_000_000], [seconds, seconds])

    ways = [way(PACKED, 1.0), way(OF_WHOLE_CLIPS, 0.65), way(PADDED, 1.3), way(BUCKETS, 0.5)]
    assert ways[0].tokens_per_second == 15
    assert [(one.value, one.met) for one in epoch_requirements(ways)] == [
        (1.3, True),
        (2.0, True),
        (0.5, False),
    ]
    assert ways[0].line(20).split()[:8] == ["2", "2", "75.0", "25.0", "1000.0", "2.0", "15", "0.0"]


def test_batches_that_were_not_timed_count_by_their_flops() -> None:
    batches = [Batch((10,), 10), Batch((10,), 10), Batch((20,), 20)]
    way = Way("a", batches, [100, 100, 400], [1.0, 3.0])
    assert way.tokens_per_second == pytest.approx(40 / 12)  # 2 s for 100
    assert way.relative_error == pytest.approx(0.5)  # 1 s and 3 s: 2 s, with an error of 1 s
    assert Way("a", batches, [100, 100, 400], [1.0]).line(20).split()[7] == "-"
