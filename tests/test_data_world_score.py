"""Scores: statements held against readings, shares and intervals, Fréchet distance, flicker."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from data.world import sample_scene
from data.world.labels import motion_class
from data.world.prompt import read_prompt
from data.world.reading import ObjectReading, Reading
from data.world.scene import Scene
from data.world.score import (
    ATTRIBUTES,
    Share,
    against_others,
    agreement,
    asked_of,
    centre_errors,
    flicker,
    frechet_distance,
    full_prompt,
    judge_agreements,
    kept_identity,
    shares,
    true_owners,
)

SCENES = [sample_scene("all", seed) for seed in range(60)]


def perfect(scene: Scene, order: Sequence[int] | None = None) -> Reading:
    """What a judge that is always right reads, objects in any order."""
    truth = scene.truth(33, 8.0)
    objects = [
        ObjectReading(
            {
                "shape": obj.shape,
                "colour": obj.colour,
                "size": obj.size,
                "material": obj.material,
                "motion": motion_class(obj.motion, obj.direction),
            },
            obj.centres,
            depths,
            ((obj.shape, obj.colour),) * 2,
        )
        for obj, depths in zip(truth.objects, truth.depths, strict=True)
    ]
    words = {"camera": scene.camera.motion, "ground": scene.ground, "time_of_day": scene.time_of_day}
    return Reading(tuple(objects[i] for i in order or range(len(objects))), words, torch.zeros(2))


@pytest.mark.parametrize("style", ["exhaustive", "detailed", "short", "terse"])
def test_a_perfect_reading_agrees_with_every_caption_in_any_order(style: str) -> None:
    for scene in SCENES:
        told = agreement(perfect(scene, range(len(scene.objects))[::-1]), read_prompt(scene.caption(style)))
        assert all(all(holds) for holds in told.values()), (scene.caption(style), told)


def test_only_what_is_stated_is_judged() -> None:
    told = agreement(perfect(SCENES[0]), read_prompt("a red ball"))
    assert told.keys() == {"count", "colour", "shape", "all"}


def test_the_full_prompt_of_a_scene_states_every_attribute() -> None:
    scene = next(s for s in SCENES if s.relations and any(obj.direction for obj in s.objects))
    told = agreement(perfect(scene), full_prompt(scene))
    assert told.keys() == {*ATTRIBUTES, "all"} and all(all(holds) for holds in told.values())
    assert len(told["colour"]) == len(scene.objects)
    assert 2 * len(told["relations"]) >= len(scene.relations) > len(told["relations"])  # each said once


def test_of_a_short_clip_only_what_does_not_take_time_to_tell_is_asked() -> None:
    scene = next(s for s in SCENES if {"larger than", "left of"} <= {one.word for one in s.relations})
    said = full_prompt(scene)
    assert asked_of(said, 33) == said
    told = agreement(perfect(scene), asked_of(said, 17))
    assert told.keys() == {"count", "colour", "shape", "material", "relations", "ground", "time of day", "all"}
    assert all(one.word != "larger than" for one in asked_of(said, 17).relations)
    for num_frames, right in ((17, True), (33, False)):
        wrong = {"motion": "spin clockwise"}
        seen = [replace(o, words=o.words | wrong, centres=o.centres[:num_frames]) for o in perfect(scene).objects]
        (told,), _ = judge_agreements([replace(perfect(scene), objects=tuple(seen))], [scene], num_frames, 8.0, 1.0)
        assert told["all"] == [right]


@pytest.mark.parametrize(
    ("name", "word", "attribute"),
    [("shape", "cone", "shape"), ("colour", "cyan", "colour"), ("material", "shiny", "material")],
)
def test_one_wrong_word_makes_one_statement_false(name: str, word: str, attribute: str) -> None:
    scene = next(s for s in SCENES if len(s.objects) > 1 and all(getattr(obj, name) != word for obj in s.objects))
    right = perfect(scene)
    first = replace(right.objects[0], words={**right.objects[0].words, name: word})
    told = agreement(replace(right, objects=(first, *right.objects[1:])), full_prompt(scene))
    assert [key for key, holds in told.items() if not all(holds)] == [attribute, "all"]
    assert list(told[attribute]).count(False) == 1


def test_a_missing_object_is_wrong_in_all_that_is_said_of_it() -> None:
    scene = next(s for s in SCENES if len(s.objects) == 3)
    right = perfect(scene)
    told = agreement(replace(right, objects=right.objects[:2]), full_prompt(scene))
    assert told["count"] == [False]
    for name in ("colour", "shape", "size", "material", "motion"):
        assert sorted(told[name]) == [False, True, True]
    involved = [2 in (relation.first, relation.second) for relation in full_prompt(scene).relations]
    assert [not held for held in told.get("relations", [])] == involved


def test_an_object_too_many_is_a_wrong_count_alone() -> None:
    scene = next(s for s in SCENES if len(s.objects) == 1)
    right = perfect(scene)
    other = replace(right.objects[0], words={**right.objects[0].words, "shape": "none of them"})
    told = agreement(replace(right, objects=(other, *right.objects)), full_prompt(scene))
    assert [key for key, holds in told.items() if not all(holds)] == ["count", "all"]


def test_directions_and_camera_families() -> None:
    scene = next(s for s in SCENES if s.camera.motion == "pan left")
    said = read_prompt("a ball, the camera pans")
    assert agreement(perfect(scene), said)["camera"] == [True]
    assert agreement(perfect(scene), replace(said, camera="pan right"))["camera"] == [False]
    assert agreement(perfect(scene), replace(said, camera="orbit"))["camera"] == [False]
    scene = next(s for s in SCENES if any(obj.motion == "orbit" for obj in s.objects))
    orbiting = next(obj for obj in scene.objects if obj.motion == "orbit")
    wrong = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}[orbiting.direction]
    said = read_prompt(f"a {orbiting.colour} {orbiting.shape} moves {wrong} in a circle")
    told = agreement(perfect(scene), said)
    assert told["motion"] == [True] and told["direction"] == [False]


def test_more_objects_than_the_judge_tells_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="names 7 objects"):
        agreement(perfect(SCENES[0]), read_prompt(", ".join(["a red ball"] * 7)))


def test_owners_are_those_that_start_in_the_same_place() -> None:
    scene = next(s for s in SCENES if len(s.objects) == 3)
    truth = scene.truth(33, 8.0)
    assert true_owners(perfect(scene, (2, 0, 1)), truth) == [1, 2, 0]
    moved = perfect(scene)
    far = replace(moved.objects[1], centres=moved.objects[1].centres + 0.6)
    assert true_owners(replace(moved, objects=(moved.objects[0], far, moved.objects[2])), truth) == [0, None, 2]
    assert true_owners(replace(moved, objects=()), truth) == [None] * 3


def test_centre_errors_are_in_widths() -> None:
    scene = SCENES[0]
    truth = scene.truth(33, 8.0).at_aspect(2.0)
    right = perfect(scene)
    pairs = zip(right.objects, truth.objects, strict=True)
    shifted = [replace(seen, centres=obj.centres + torch.tensor([0.0, 0.1])) for seen, obj in pairs]
    errors = centre_errors(replace(right, objects=tuple(shifted)), truth, range(len(shifted)))
    assert errors == pytest.approx([0.05] * len(shifted), abs=1e-6)  # a tenth of the height, half as high as wide


def test_shares_count_statements_and_whole_prompts() -> None:
    one = {"count": [True], "colour": [True, False], "all": [False]}
    two = {"count": [True], "colour": [True], "all": [True]}
    told = shares([one, two])
    assert told["count"] == Share(2, 2)
    for name, figures in (("colour", (2, 3)), ("all", (1, 2))):
        assert (told[name].right, told[name].asked) == figures
    assert told["camera"].asked == 0 and math.isnan(told["camera"].value)


def test_intervals_are_wilsons() -> None:
    low, high = Share(8, 10).interval  # published example: 0.490 to 0.943
    assert low == pytest.approx(0.490, abs=1e-3) and high == pytest.approx(0.943, abs=1e-3)
    assert Share(10, 10).interval[1] == 1.0 and 0.7 < Share(10, 10).interval[0] < 1.0
    assert math.isnan(Share(0, 0).interval[0])


def test_statements_that_hold_or_fail_together_widen_the_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = (torch.rand(200, generator=generator) < 0.7).tolist()
    together = shares([{"colour": [right] * 4} for right in clips])["colour"]
    draws = (torch.rand(200, 4, generator=generator) < 0.7).tolist()
    apart = shares([{"colour": draw} for draw in draws])["colour"]
    assert together.spread == pytest.approx(4.0, rel=0.02) and apart.spread == pytest.approx(1.0, abs=0.3)
    alone = shares([{"colour": [right]} for right in clips])["colour"]
    assert together.interval == pytest.approx(alone.interval, abs=0.002)


def test_objects_that_are_not_asked_about_count_in_all_alone() -> None:
    scene = next(s for s in SCENES if len(s.objects) == 2)
    right = perfect(scene)
    wrong = replace(right.objects[1], words={**right.objects[1].words, "colour": "none"})
    reading = replace(right, objects=(right.objects[0], wrong))
    told = agreement(reading, full_prompt(scene), owners=(0, 1), about=(True, False))
    assert told["colour"] == told["shape"] == [True] and told["all"] == [False]
    told = agreement(reading, full_prompt(scene), owners=(0, 1), about=(False, True))
    assert told["colour"] == [False] and told["shape"] == [True]


def test_alike_objects_are_told_apart_by_relations() -> None:
    scene = next(s for s in SCENES if any(one.word == "left of" for one in s.relations))
    relation = next(one for one in scene.relations if one.word == "left of")
    right = perfect(scene)
    words = right.objects[0].words
    for order in ((relation.first, relation.second), (relation.second, relation.first)):
        reading = replace(right, objects=tuple(replace(right.objects[i], words=words) for i in order))
        said = read_prompt("a red ball is left of a red ball")
        assert agreement(reading, said)["relations"] == [True]


def test_others_are_all_but_the_own_prompt() -> None:
    scenes = SCENES[:3]
    told = against_others([perfect(s) for s in scenes], [full_prompt(s) for s in scenes], [None] * 3)
    assert len(told) == 6 and not any(one["all"][0] for one in told)
    assert len(against_others([perfect(s) for s in SCENES], [full_prompt(s) for s in SCENES], [None] * 60)) == 16 * 60


def test_identity_is_kept_where_all_parts_agree() -> None:
    right = perfect(SCENES[0])
    changing = replace(right.objects[0], identities=(("cube", "red"), ("cube", "blue")))
    kept = kept_identity([right, replace(right, objects=(changing,))])
    assert kept == Share(len(right.objects), len(right.objects) + 1)
    short = replace(right.objects[0], identities=(("cube", "red"),))
    assert kept_identity([replace(right, objects=(short,))]).asked == 0


def test_frechet_distance_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    scale, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 0.0, -1.0])
    truth = float((scale - 1).square().sum() + shift.square().sum())
    assert frechet_distance(x, x * scale + shift) == pytest.approx(truth, rel=0.03)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    y = x * scale + shift
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_flicker_is_what_is_not_steady_change() -> None:
    ramp = (torch.arange(6) * 20).to(torch.uint8).view(6, 1, 1, 1).expand(6, 4, 4, 3)
    blink = (torch.arange(6) % 2 * 200).to(torch.uint8).view(6, 1, 1, 1).expand(6, 4, 4, 3)
    assert flicker(ramp) == pytest.approx(0.0, abs=1e-6)
    assert flicker(blink) == pytest.approx(200 / 255)
