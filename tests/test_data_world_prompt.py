"""Prompts: every caption is read back to its scene, and people's own wording to what they mean."""

from dataclasses import replace

import pytest

from data.world import sample_scene
from data.world.caption import CAPTION_STYLES, SHAPES, Relation
from data.world.prompt import ObjectWords, read_prompt, unknown_words
from data.world.scene import Scene
from data.world.words import SHAPE_WORDS, family_of

SCENES = [replace(sample_scene("all", seed), seed=seed + shift) for seed in range(200, 260) for shift in (0, 500, 1000)]


def told(
    shape: str,
    colour: str | None = None,
    motion: str | None = None,
    direction: str | None = None,
    size: str | None = None,
    material: str | None = None,
) -> ObjectWords:
    return ObjectWords(shape, colour, size, material, motion, direction)


def agrees(said: ObjectWords, scene: Scene) -> bool:
    """Whether what is said is what an object of the scene is."""
    obj = next(obj for obj in scene.objects if (obj.shape, obj.colour) == (said.shape, said.colour))
    pairs = (
        (said.size, obj.size),
        (said.material, obj.material),
        (said.motion, family_of(obj.motion)),
        (said.direction, obj.direction),
    )
    return all(word in (None, meant) for word, meant in pairs)


@pytest.mark.parametrize("style", CAPTION_STYLES)
def test_captions_are_read_back_to_their_scene(style: str) -> None:
    for scene in SCENES:
        caption = scene.caption(style)
        prompt = read_prompt(caption)
        assert len(prompt.objects) == len(scene.objects), caption
        assert all(agrees(said, scene) for said in prompt.objects), caption
        family = scene.camera.motion.split(" ")[0]
        assert prompt.camera in (None, scene.camera.motion, family), caption
        assert prompt.ground in (None, scene.ground) and prompt.time_of_day in (None, scene.time_of_day), caption
        indices = [[(o.shape, o.colour) for o in scene.objects].index((w.shape, w.colour)) for w in prompt.objects]  # type: ignore[arg-type]
        said = {Relation(indices[one.first], one.word, indices[one.second]) for one in prompt.relations}
        assert said <= set(scene.relations if said else ()), caption
        if style != "terse":
            assert all(obj.motion is not None for obj in prompt.objects), caption
        met = tuple((indices[one], indices[other]) for one, other in prompt.pairs)
        assert met == ((scene.pair,) if scene.pair and prompt.objects[0].motion else ()), caption
        if scene.pair and prompt.objects[indices.index(scene.pair[0])].motion:
            assert indices.index(scene.pair[0]) + 1 == indices.index(scene.pair[1]), caption  # who acts comes first


@pytest.mark.parametrize(
    ("text", "motion", "direction", "camera"),
    [
        ("a red sphere bounces on the ground", "bounce", None, None),
        ("a red sphere slides to the left, the camera is still", "slide", "left", "still"),
        ("a red sphere slides towards the camera, the camera orbits slowly", "slide", "towards", "orbit"),
        ("a red sphere slides away from the camera", "slide", "away", None),
        ("a red sphere rolls to the right, the camera zooms in slowly", "roll", "right", "zoom in"),
        ("a red sphere rolls, the camera zooms out slowly", "roll", None, "zoom out"),
        (
            "a red sphere moves clockwise in a circle, the camera orbits slowly to the left",
            "orbit",
            "clockwise",
            "orbit left",
        ),
        ("a red sphere moves in a circle, the camera orbits slowly to the right", "orbit", None, "orbit right"),
    ],
)
def test_the_wording_of_the_first_captions_is_read(
    text: str, motion: str, direction: str | None, camera: str | None
) -> None:
    prompt = read_prompt(text)
    assert prompt.objects == (told("sphere", "red", motion, direction),) and prompt.camera == camera


@pytest.mark.parametrize(
    ("text", "objects", "camera"),
    [
        (
            "A big azure ball is bouncing while the camera pans left.",
            [told("sphere", "blue", "bounce", size="large")],
            "pan left",
        ),
        (
            "a shiny, large, BLUE torus spinning counter-clockwise",
            [told("torus", "blue", "spin", "counterclockwise", "large", "shiny")],
            None,
        ),
        ("An emerald hoop, turning anti-clockwise!", [told("torus", "green", "spin", "counterclockwise")], None),
        (
            "A static shot of one chequered cube sliding toward the viewer",
            [told("cube", None, "slide", "towards", None, "checkered")],
            "still",
        ),
        ("zoom in on a red ball", [told("sphere", "red")], "zoom in"),
        ("The camera is zooming. Red cube.", [told("cube", "red")], "zoom"),
        ("The camera orbits a red ball that bounces", [told("sphere", "red", "bounce")], "orbit"),
        ("The ball is red and it moves to the left.", [told("sphere", "red", "slide", "left")], None),
        ("a red ball, large blue box", [told("sphere", "red"), told("cube", "blue", size="large")], None),
        ("a cube and a ball collide", [told("cube", None, "collide"), told("sphere", None, "collide")], None),
        (
            "a blue cube stays still, a red ball falls and hits the ground",
            [told("cube", "blue", "stay"), told("sphere", "red", "fall")],
            None,
        ),
        ("a large shiny metal ball jumps", [told("sphere", None, "bounce", None, "large", "shiny")], None),
        ("a ring orbits as the camera orbits left", [told("torus", None, "orbit")], "orbit left"),
        ("floating up slowly, a yellow cone", [told("cone", "yellow", "rise")], None),
        ("a cone doesn't move", [told("cone", None, "stay")], None),
        (
            "a red ball and a blue cube collide and a green cone spins",
            [told("sphere", "red", "collide"), told("cube", "blue", "collide"), told("cone", "green", "spin")],
            None,
        ),
        (
            "a tube slides left and bumps into a cone; a cube, dull and red, rests in place",
            [
                told("cylinder", None, "collide", "left"),
                told("cone", None, "collide", "left"),
                told("cube", "red", "stay", None, None, "matte"),
            ],
            None,
        ),
        (
            "A little box is moving to the right behind a huge white ring.",
            [told("cube", None, "pass behind", "right", "small"), told("torus", "white", size="large")],
            None,
        ),
    ],
)
def test_free_wording_is_read(text: str, objects: list[ObjectWords], camera: str | None) -> None:
    prompt = read_prompt(text)
    assert list(prompt.objects) == objects and prompt.camera == camera


def test_settings_and_relations_are_read() -> None:
    prompt = read_prompt(
        "At sunset, a ball rolls on the lawn and a small box stands still. The ball is behind the box."
    )
    assert (prompt.ground, prompt.time_of_day) == ("grass", "dusk")
    assert prompt.relations == (Relation(0, "behind", 1),) and len(prompt.objects) == 2
    assert read_prompt("a red ball left of a blue box").relations == (Relation(0, "left of", 1),)
    assert read_prompt("a red ball is smaller than a blue box").relations == (Relation(1, "larger than", 0),)
    assert read_prompt("a red ball and a blue box").relations == ()


def test_a_name_with_the_means_the_object_it_fits() -> None:
    assert len(read_prompt("a red ball rolls, the red sphere is large").objects) == 1
    assert len(read_prompt("a red ball rolls, the blue sphere is large").objects) == 2
    assert len(read_prompt("a red ball rolls, a red ball spins").objects) == 2
    assert read_prompt("a red ball and a box, the box spins").objects[1].motion == "spin"


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a red ball hits a blue cube", [(0, 1)]),
        ("a cube and a ball collide, a cone spins", [(0, 1)]),
        ("a blue cube stands still, a red ball passes to the left behind the cube", [(1, 0)]),
        ("a ball hits a cube, a cone moves behind a torus", [(0, 1), (2, 3)]),
        ("a ball behind a cube", []),
        ("a ball hits the ball", []),
    ],
)
def test_who_meets_whom_is_read(text: str, pairs: list[tuple[int, int]]) -> None:
    assert list(read_prompt(text).pairs) == pairs


def test_what_an_object_does_may_stand_before_it() -> None:
    prompt = read_prompt("a bouncing red ball and a spinning blue cube, an orbiting cone passes behind a rotating ring")
    assert [obj.motion for obj in prompt.objects] == ["bounce", "spin", "pass behind", "spin"]
    assert prompt.pairs == ((2, 3),)


def test_words_that_are_in_no_table_are_told() -> None:
    text = "A red Ball jumps 3 times over the dog's house; don't move, very quickly, counter-clockwise. Ünder"
    assert unknown_words(text) == ("3", "times", "dog", "s", "house", "very", "quickly", "ünder")
    for scene in SCENES:
        for style in CAPTION_STYLES:
            assert unknown_words(scene.caption(style)) == ()


@pytest.mark.parametrize("text", ["two red balls roll", "boxes", "three small cubes and a cone"])
def test_several_objects_by_one_name_are_one_clear_line(text: str) -> None:
    with pytest.raises(ValueError, match="name each object by itself") as error:
        read_prompt(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a dog runs on the grass at night", "the camera zooms in", "@1 {way} REL_behind"])
def test_a_prompt_without_an_object_is_one_clear_line(text: str) -> None:
    with pytest.raises(ValueError, match="names no object") as error:
        read_prompt(text)
    assert all(word in str(error.value) for words in SHAPE_WORDS.values() for word in words)
    assert set(SHAPE_WORDS) == set(SHAPES) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "a ball is hit by a cube",
        "a ball gets struck by a cube",
        "a ball, hit by a cube",
        "a cube struck the ball, a ball",
    ],
)
def test_who_is_hit_by_another_does_not_hit_it(text: str) -> None:
    prompt = read_prompt(text)
    names = [obj.shape for obj in prompt.objects]
    assert [(names[one], names[other]) for one, other in prompt.pairs] == [("cube", "sphere")]
    assert unknown_words(text) in ((), ("gets",))


def test_who_is_hit_collides_whoever_it_is_that_hits() -> None:
    assert read_prompt("a ball is hit by night").objects == (told("sphere", motion="collide"),)
    assert read_prompt("a cube and a ball that is hit").pairs == ((0, 1),)
