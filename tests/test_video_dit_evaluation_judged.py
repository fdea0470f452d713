"""What the judge says of continued clips: of the truth, of another scene's frames, and of what it does not see."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from data.world import sample_scene
from data.world.judge import Judge
from data.world.reading import ObjectReading, Reading
from video_dit.evaluation.cuts import DIRECTIONS, boundary_repeated, cut_clip, given_of
from video_dit.evaluation.judged import (
    frame_after,
    in_order,
    judge_clips,
    kept,
    moved_at,
    order_from_the_join,
    position_error,
    same_colours,
)
from video_dit.evaluation.measures import Judged

JUDGE = Path(__file__).parents[1] / "checkpoints" / "judge"


def reading(*identities: tuple[tuple[str, str], ...]) -> Reading:
    """Objects of these identities that stand in the middle."""
    objects = tuple(ObjectReading({}, torch.full((4, 2), 0.5), torch.ones(4), one) for one in identities)
    return Reading(objects, {}, torch.zeros(1))


def test_the_truth_is_where_it_is_and_stays_what_it_is_and_a_frame_of_another_scene_is_not() -> None:
    """A red and an orange object (seed 3) that turn, at the join, into a cyan cone (seed 0)."""
    judge, scene = Judge.load(JUDGE), sample_scene("val", 3)
    truth, other = (sample_scene("val", seed).render(33, 64, 64, 8.0) for seed in (3, 0))
    for direction in ("forward", "backward", "connect"):
        cut = cut_clip(direction, 9, 4, 4)
        wrong = truth.clone()
        wrong[cut.made] = other[cut.made]
        right, astray = judge_clips(judge, torch.stack([truth, wrong]), scene, cut, 8.0)
        assert right.identity == 1
        assert right.position is not None and astray.position is not None
        assert right.position < 0.03 < astray.position
        assert (right.colours, astray.colours) == ((None, None) if cut.num_made < 17 else (1, 0))


def test_of_a_loop_no_place_is_right() -> None:
    cut = cut_clip("loop", 9, 4, 4)
    clip = sample_scene("val", 3).render(cut.num_frames, 64, 64, 8.0)
    (seen,) = judge_clips(Judge.load(JUDGE), clip[None], sample_scene("val", 3), cut, 8.0)
    assert seen.position is None and seen.colours is None and seen.identity is not None


def test_black_clips_have_nothing_to_say() -> None:
    cut = cut_clip("forward", 9, 4, 4)
    black = torch.zeros(1, 33, 64, 64, 3, dtype=torch.uint8)
    assert judge_clips(Judge.load(JUDGE), black, sample_scene("val", 3), cut, 8.0) == [Judged(colours=0.0)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("windows", [1, 4])
def test_the_judge_sees_given_frames_first_and_then_all_that_are_made(direction: str, windows: int) -> None:
    cut = cut_clip(direction, 9 * windows, 7, 4)
    order = order_from_the_join(cut)
    is_made = [cut.start <= number < cut.stop for number in order]
    first = is_made.index(True)
    assert 0 < first <= 16 and sum(is_made) == cut.num_made and all(is_made[first : first + cut.num_made])
    assert {abs(a - b) for a, b in pairwise(order)} <= {1, cut.num_frames - 1}
    assert any(is_made[-1:]) == (direction in ("forward", "backward"))


def test_the_truth_in_another_order_counts_made_frames_alone() -> None:
    cut = cut_clip("backward", 9, 4, 4)
    order = order_from_the_join(cut)
    truth = sample_scene("val", 3).truth(cut.num_frames, 8.0)
    turned = in_order(truth, order, cut)
    for one, other in zip(truth.objects, turned.objects, strict=True):
        assert torch.equal(other.centres, one.centres[order])
        assert not other.visible[:16].any() and torch.equal(other.visible[16:], one.visible[:16].flip(0))


def test_an_object_keeps_what_most_parts_say() -> None:
    red, blue = ("cube", "red"), ("cube", "blue")
    assert kept(reading((red, red, red))) == 1
    assert kept(reading((red, red, blue, red))) == 1  # the judge errs now and then
    assert kept(reading((red, blue, blue, red))) == 0
    assert kept(reading((red, red), (red, ("cone", "red")))) == 0  # all objects do
    assert kept(reading()) is None and kept(reading((red,))) is None


def test_what_the_judge_does_not_find_has_no_place() -> None:
    cut = cut_clip("forward", 9, 4, 4)
    truth = in_order(sample_scene("val", 3).truth(33, 8.0), list(range(33)), cut)
    assert position_error(reading(), truth) is None


def test_two_seconds_from_the_join_are_counted_from_the_given_frame_there() -> None:
    forward, backward = cut_clip("forward", 21, 10, 4), cut_clip("backward", 21, 10, 4)
    assert frame_after(forward, 8.0) == forward.start - 1 + 16 and frame_after(backward, 8.0) == backward.stop - 16
    assert frame_after(forward, 1.0) == forward.start + 1
    for short in (cut_clip("forward", 9, 8, 4), cut_clip("connect", 21, 10, 4), cut_clip("loop", 21, 10, 4)):
        assert frame_after(short, 8.0) is None


def test_after_two_seconds_only_what_slides_or_orbits_counts_and_only_then() -> None:
    scenes = [sample_scene("val", seed) for seed in range(12)]
    for scene in scenes:
        truth = scene.truth(33, 8.0)
        for was, obj in zip(truth.objects, moved_at(truth, 20).objects, strict=True):
            moves = was.motion.startswith("slide") or was.motion == "orbit"
            assert obj.visible.tolist() == [moves and number == 20 and bool(was.visible[20]) for number in range(33)]
    kinds = {obj.motion for scene in scenes for obj in scene.objects}
    assert any(kind.startswith("slide") for kind in kinds) and "bounce" in kinds  # both kinds were seen


def test_what_stands_still_is_off_after_two_seconds() -> None:
    """Of the first scene whose only object slides to a side."""
    judge, cut = Judge.load(JUDGE), cut_clip("forward", 21, 10, 4)
    scenes = (sample_scene("val", seed) for seed in range(100))
    scene = next(s for s in scenes if [o.motion in ("slide left", "slide right") for o in s.objects] == [True])
    clip = scene.render(cut.num_frames, 64, 64, 8.0)
    still = boundary_repeated(given_of(clip, cut), cut)
    right, off = judge_clips(judge, torch.stack([clip, still]), scene, cut, 8.0)
    assert right.position_2s is not None and off.position_2s is not None
    assert right.position_2s < 0.03 < 0.1 < off.position_2s


def test_colours_and_count_are_those_of_what_is_visible() -> None:
    scene = sample_scene("val", 3)
    truth = scene.truth(33, 8.0)
    colours = [obj.colour for obj in truth.objects if obj.visible[16]]

    def seen(*words: str) -> Reading:
        one = [ObjectReading({"colour": word}, torch.zeros(1, 2), torch.ones(1), ()) for word in words]
        return Reading(tuple(one), {}, torch.zeros(1))

    assert same_colours(seen(*reversed(colours)), truth, 16) == 1
    assert same_colours(seen(*colours, "white"), truth, 16) == same_colours(seen(*colours[1:]), truth, 16) == 0
    assert same_colours(seen(*["white"] * len(colours)), truth, 16) == 0
