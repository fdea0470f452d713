"""What prompts leave unsaid: it goes with what they say and with the world, and stays as it is from one to the next."""

from collections import Counter
from functools import cache

import pytest

from data.world import is_held_out, sample_scene
from data.world.caption import CAMERAS, COLOURS, GROUNDS, MATERIALS, SIZES, TIMES_OF_DAY, Facts, keyed_random
from data.world.completion import complete
from data.world.placement import ROLLING, ROUND, SOLO_MOTIONS
from data.world.prompt import Prompt, read_prompt
from data.world.words import MOTION_WAYS, family_of

SHAPES_ALONE = ("a sphere", "a cube", "a cylinder", "a cone", "a torus")


def completed(*texts: str, seed: int = 0) -> list[Facts]:
    return complete([read_prompt(text) for text in texts], keyed_random("test", seed))


@cache
def short_prompts() -> list[tuple[Prompt, Facts]]:
    scenes = [sample_scene("all", seed) for seed in range(80)]
    prompts = [read_prompt(scene.caption(style)) for scene in scenes for style in ("short", "terse")]
    return [(prompt, complete([prompt], keyed_random("test", n))[0]) for n, prompt in enumerate(prompts)]


def test_all_is_there_as_the_world_has_it() -> None:
    """Where a prompt is about a scene of the world, the facts are such as the world's scenes have."""
    for prompt, facts in short_prompts():
        assert (facts.camera in CAMERAS) and (facts.ground in GROUNDS) and (facts.time_of_day in TIMES_OF_DAY)
        assert len({(obj.shape, obj.colour) for obj in facts.objects}) == len(facts.objects) == len(prompt.objects)
        for obj in facts.objects:
            assert obj.colour in COLOURS and obj.size in SIZES and obj.material in MATERIALS
            assert bool(obj.direction) == (family_of(obj.motion) in MOTION_WAYS)
            assert obj.direction in (*MOTION_WAYS.get(family_of(obj.motion), ()), "")
            assert obj.motion != "roll" or (obj.shape in ROLLING and obj.material == "checkered")
            assert obj.motion != "spin" or obj.shape not in ROUND or obj.material == "checkered"
            assert (obj.motion, obj.size) not in (("grow", "large"), ("shrink", "small"))
        for one, other in facts.pairs:
            hit = facts.objects[one].motion == "collide"
            assert facts.objects[other].motion == ("collide" if hit else "stay")
            assert not hit or facts.objects[other].direction == facts.objects[one].direction
            assert hit or facts.objects[other].size == "large"
        met = {index for pair in facts.pairs for index in pair}
        assert met == {index for index, obj in enumerate(facts.objects) if obj.motion in ("collide", "pass behind")} | {
            other for _, other in facts.pairs
        }


def test_what_is_said_is_kept() -> None:
    for prompt, facts in short_prompts():
        for said, obj in zip(prompt.objects, facts.objects, strict=True):
            for name, word in vars(said).items():
                known = getattr(obj, name)
                assert word in (None, family_of(known) if name == "motion" else known)
        assert prompt.camera in (None, facts.camera, facts.camera.split(" ")[0])
        assert prompt.ground in (None, facts.ground) and prompt.time_of_day in (None, facts.time_of_day)
        assert facts.relations == prompt.relations


def test_no_held_out_triple_comes_of_what_is_drawn() -> None:
    """Those that are said whole are the user's own; and who is passed stands still, which goes without saying."""
    drawn = 0
    for prompt, facts in short_prompts():
        passed = [other for _, other in facts.pairs]
        for index, (said, obj) in enumerate(zip(prompt.objects, facts.objects, strict=True)):
            way = said.motion == "slide" and said.direction is None
            if index not in passed and (said.colour is None or said.motion is None or way):
                drawn += 1
                assert not is_held_out(obj.shape, obj.colour, obj.motion), (said, obj)
    for seed in range(100):
        for text in SHAPES_ALONE:
            (obj,) = completed(text, seed=seed)[0].objects
            assert not is_held_out(obj.shape, obj.colour, obj.motion)
    assert drawn > 40


def test_draws_are_as_frequent_as_in_the_world() -> None:
    seeds = 600
    facts = [completed("a cylinder", seed=seed)[0] for seed in range(seeds)]
    camera = Counter(one.camera for one in facts)
    ground, time = Counter(one.ground for one in facts), Counter(one.time_of_day for one in facts)
    motion = Counter(one.objects[0].motion for one in facts)
    assert camera["still"] / seeds == pytest.approx(0.34, abs=0.06) and set(camera) == set(CAMERAS)
    assert ground["sand"] / seeds == pytest.approx(0.4, abs=0.06) and set(ground) == set(GROUNDS)
    assert time["day"] / seeds == pytest.approx(0.6, abs=0.06) and set(time) == set(TIMES_OF_DAY)
    assert set(motion) == set(SOLO_MOTIONS) and max(motion.values()) / seeds < 0.15
    assert set(Counter(one.objects[0].colour for one in facts)) == set(COLOURS)


def test_it_is_a_pure_function() -> None:
    assert completed("a ball and a cube", seed=1) == completed("a ball and a cube", seed=1)
    assert completed("a ball and a cube", seed=1) != completed("a ball and a cube", seed=2)


def test_against_the_world_what_is_said_holds() -> None:
    for seed in range(20):
        roller, giant = completed("a shiny cube rolls, a large ball grows", seed=seed)[0].objects
        assert (roller.motion, roller.material, roller.shape) == ("roll", "shiny", "cube")
        assert (giant.motion, giant.size) == ("grow", "large")


def test_who_meets_nobody_named_meets_somebody() -> None:
    for seed in range(20):
        (facts,) = completed("a red ball collides", seed=seed)
        assert list(facts.pairs) == [(0, 1)]
        assert [obj.motion for obj in facts.objects] == ["collide", "collide"]
        (facts,) = completed("a red ball collides, a cone, a cube spins", seed=seed)
        assert list(facts.pairs) == [(0, 1)] and len(facts.objects) == 3


def test_no_two_are_of_one_name_but_by_what_is_said() -> None:
    for seed in range(20):
        names = [
            (obj.shape, obj.colour) for obj in completed("a ball, a red ball, a ball, a ball", seed=seed)[0].objects
        ]
        assert len(set(names)) == 4 and names[1] == ("sphere", "red")
    twins = completed("a red ball and a red ball")[0].objects
    assert [obj.colour for obj in twins] == ["red", "red"]


def test_what_is_larger_is_large() -> None:
    for seed in range(20):
        sizes = [obj.size for obj in completed("a ball is larger than a cube", seed=seed)[0].objects]
        assert sizes == ["large", "small"]


def test_prompts_that_say_the_same_are_told_the_same() -> None:
    for seed in range(40):
        one, two = completed("a ball", "a ball", seed=seed)
        assert one == two
        one, two, three = completed("a ball rolls", "a ball jumps", "a ball rolls", seed=seed)
        assert one == three
        assert (two.camera, two.ground, two.time_of_day) == (one.camera, one.ground, one.time_of_day)
        kept = ("shape", "colour", "size", "material")
        assert [getattr(one.objects[0], name) for name in kept] == [getattr(two.objects[0], name) for name in kept]


def test_what_one_prompt_says_of_the_world_holds_for_the_others() -> None:
    for seed in range(20):
        one, two, three = completed(
            "a small ball rolls left, the camera pans",
            "a red ball on grass, the camera pans",
            "a shiny ball jumps at night",
            seed=seed,
        )
        for facts in (one, two, three):
            (ball,) = facts.objects
            assert (ball.colour, ball.size, ball.material) == ("red", "small", "shiny")
            assert (facts.ground, facts.time_of_day) == ("grass", "night")
        assert one.objects[0] == two.objects[0] and two.objects[0].direction == "left"
        assert one.camera == two.camera == three.camera


def test_objects_stay_where_one_of_them_is_named_and_go_where_none_is() -> None:
    for seed in range(20):
        one, two, three = completed("a red ball and a blue cube", "the ball jumps", "a cone", seed=seed)
        assert [obj.shape for obj in two.objects] == ["sphere", "cube"] and two.objects[1] == one.objects[1]
        assert two.objects[0].motion == "bounce"
        assert [obj.shape for obj in three.objects] == ["cone"] and three.ground == one.ground


def test_who_has_met_another_comes_to_rest() -> None:
    for seed in range(20):
        _, two = completed("a red ball hits a blue cube", "a red ball and a blue cube by night", seed=seed)
        assert [obj.motion for obj in two.objects] == ["stay", "stay"] and not two.pairs


def test_objects_are_told_apart_by_what_is_said() -> None:
    one, two = completed("a small ball and a large ball", "the large ball rolls")
    assert [obj.size for obj in one.objects] == ["small", "large"]
    assert two.objects[0].colour == one.objects[1].colour and two.objects[0].size == "large"
    one, two = completed("a red ball", "a blue ball")
    assert len(two.objects) == 1 and two.objects[0].colour == "blue"
