"""Short prompts told in full: all that they say is kept, as the training's captions say it, and the same each time."""

import random
from collections.abc import Callable
from functools import cache
from itertools import permutations

import pytest

from data.world import sample_scene
from data.world.caption import CAMERAS, CAPTION_STYLES, Relation
from data.world.expansion import Expansion, expand
from data.world.prompt import Prompt, read_prompt, unknown_words
from data.world.words import MOTION_WAYS

WRITTEN = (
    "a ball jumps",
    "red cube",
    "A big azure ball is bouncing while the camera pans.",
    "a ball collides",
    "a cube and a ball collide and a cone spins",
    "a red ball left of a blue cube",
    "a red ball is smaller than a blue box, a cone is further back than the ball",
    "a blue cube stands still, a red ball passes to the left behind the cube",
    "a cone passes behind a spinning torus at night",
    "a ball hits a cube, a cone moves behind a torus",
    "a red ball and a red ball",
    "a shiny cube rolls and a large ball grows",
    "a ball, a cube, a cone, a ring, a tube and a box",
    "a ball is hit by a cube",
    "a ball is hit",
    "zoom in on a tiny snowy hoop on a beach",
)
CONVERSE = {"right of": "left of", "in front of": "behind"}


def any_length(text: str) -> bool:
    return True


def up_to(most: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= most


def told(text: str, seed: int = 0, fits: Callable[[str], bool] = any_length) -> str:
    expansion = expand([text], seed, fits)
    assert all("stays as it is" not in note for note in expansion.notes), expansion.notes
    return expansion.texts[0]


@cache
def captions(style: str) -> list[str]:
    return [sample_scene("all", seed).caption(style) for seed in range(30)]


def normal(relations: tuple[Relation, ...], order: tuple[int, ...]) -> set[Relation]:
    """Each told one way round, between objects by their place in another order."""
    turned = set()
    for one in relations:
        first, second = order[one.first], order[one.second]
        if one.word in CONVERSE:
            turned.add(Relation(second, CONVERSE[one.word], first))
        else:
            turned.add(Relation(first, one.word, second))
    return turned


def says(more: Prompt, less: Prompt) -> bool:
    """Whether one says all that the other does, about objects in any order."""
    for order in permutations(range(len(more.objects)), len(less.objects)):
        words = [
            word in (None, getattr(more.objects[place], name))
            for place, obj in zip(order, less.objects, strict=True)
            for name, word in vars(obj).items()
        ]
        met = {(order[one], order[other]) for one, other in less.pairs} <= set(more.pairs)
        same = tuple(range(len(more.objects)))
        if all(words) and met and normal(less.relations, order) <= normal(more.relations, same):
            break
    else:
        return False
    camera = more.camera if less.camera in CAMERAS else (more.camera or "").split(" ")[0]
    return less.camera in (None, camera) and all(
        getattr(less, name) in (None, getattr(more, name)) for name in ("ground", "time_of_day")
    )


def is_whole(prompt: Prompt) -> bool:
    said = [getattr(obj, name) for obj in prompt.objects for name in ("shape", "colour", "size", "material", "motion")]
    said += [obj.direction for obj in prompt.objects if obj.motion in MOTION_WAYS]
    return None not in (*said, prompt.ground, prompt.time_of_day) and prompt.camera in CAMERAS


@pytest.mark.parametrize("style", CAPTION_STYLES)
def test_captions_keep_all_that_they_say_and_say_all_there_is(style: str) -> None:
    for text in captions(style):
        full = told(text)
        assert is_whole(read_prompt(full)) and says(read_prompt(full), read_prompt(text)), f"{text}\n{full}"
        assert len(read_prompt(full).objects) == len(read_prompt(text).objects)
        assert not unknown_words(full)


@pytest.mark.parametrize("text", WRITTEN)
def test_peoples_own_wording_is_kept(text: str) -> None:
    for seed in range(6):
        full = told(text, seed)
        assert is_whole(read_prompt(full)) and says(read_prompt(full), read_prompt(text)), full


def test_it_reads_as_a_caption() -> None:
    assert told("a ball jumps") == (
        "a small green shiny sphere bounces on the ground, on stone by day, the camera pans slowly to the left"
    )


def test_exhaustive_captions_stay_as_they_are() -> None:
    for text in (*captions("exhaustive"), *(told(text) for text in WRITTEN)):
        assert told(text, seed=1) == text


def test_the_same_seed_tells_the_same_and_others_other_things() -> None:
    for text in WRITTEN[:6]:
        many = [told(text, seed) for seed in range(8)]
        assert many == [told(text, seed) for seed in range(8)] and len(set(many)) > 5
    assert told("a ball ") != told("a ball")  # even a prompt that differs in a space is another


def test_several_objects_stand_somewhere_as_in_captions() -> None:
    """Most scenes of several objects have relations that hold; those that are said come first."""
    relations = [read_prompt(told("a ball and a cube", seed)).relations for seed in range(20)]
    assert sum(bool(found) for found in relations) > 15 and max(map(len, relations)) == 2
    for seed in range(10):
        found = read_prompt(told("a ball to the right of a cube", seed)).relations
        assert found[0] == Relation(0, "right of", 1) and len(found) <= 2
        assert Relation(0, "left of", 1) not in found


@pytest.mark.parametrize("most", [240, 160, 110, 60, 20])
def test_what_is_too_long_is_told_with_less(most: int) -> None:
    """Of what nobody said; where all that is said is too long already, the prompt is the user's own."""
    left = 0
    for text in (*captions("detailed")[:15], *captions("terse")[:15], *WRITTEN):
        expansion = expand([text], 0, up_to(most))
        (full,) = expansion.texts
        assert says(read_prompt(full), read_prompt(text))
        if len(full) > most:
            left += 1
            assert full == text and f"prompt={text!r} stays as it is" in expansion.notes[-1]
        assert not expansion.notes or full == text
    assert left > 0 or most > 200
    assert len(told("a ball jumps", fits=up_to(60))) <= 60


def test_words_that_the_world_does_not_know_are_told_once() -> None:
    expansion = expand(["a ball jumps over a dog", "a dog and a ball, quickly"], 0, any_length)
    assert expansion.notes == ("the world does not know these words, which are passed over: dog, quickly",)
    full = told("a ball jumps")
    assert expand([f"{full}, a dog"], 0, any_length).texts[0] == full  # what is told anew is without them
    assert expand(["ein roter Ball"], 0, any_length).notes == (
        "the world does not know these words, which are passed over: ein, roter",
    )


@pytest.mark.parametrize("text", ["", "a dog runs", "eine rote Kugel", "the camera zooms in", "it jumps", "two balls"])
def test_a_prompt_about_nothing_in_the_world_is_one_clear_line(text: str) -> None:
    for texts in ([text], ["a ball and a cube", text]):
        with pytest.raises(ValueError, match=r"names no object of the world|name each object by itself") as error:
            expand(texts, 0, any_length)
        assert "\n" not in str(error.value) and repr(text) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "a red ball left of a red ball",
        "a ball passes behind a cube and the cube hits a cone",
        "a cone hits a ball and passes behind a cube",
        "a ball hits a cube and the cube passes behind a cone",
        "a ball is hit by a cube which passes behind a cone",
        "a cone hits a cube which passes behind the cube",
        "a ring passes behind a big red cone and hits the cone collide",
        "a ball hits a cube and the cube hits the ball",
        "a ball hits a cube, the cube hits a cone, the cone hits the ball",
        "a ball collides with the cube rolls into a big cube is right of the ball hits a blue sphere",
    ],
)
def test_what_no_caption_can_say_stays_as_it_is(text: str) -> None:
    """However short it is; such as what somebody does who meets two."""
    for seed in range(3):
        assert expand([text], seed, any_length) == Expansion(
            (text,), (f"prompt={text!r} stays as it is: no caption of the world says all of it",)
        )


def test_words_of_the_world_in_any_order_are_told_or_one_clear_line() -> None:
    stream = random.Random(0)
    names = ("a ball", "a cube", "the cube", "the ball", "a big red cone", "the cone", "it", "two balls", "a dog")
    words = (
        *("hits", "and hits", "is hit by", "collides", "collides with", "passes behind", "which passes behind"),
        *("bounces", "and it rolls left", "stays,", "is left of", "is behind", "larger than", "at night"),
        *("while the camera pans,", ",", "and", "of which"),
    )
    told_anew = 0
    for _ in range(400):
        texts = [
            " ".join(stream.choice(part) for _ in range(stream.randint(1, 4)) for part in (names, words))
            for _ in range(stream.randint(1, 2))
        ]
        try:
            expansion = expand(texts, stream.randrange(9), up_to(stream.choice((60, 200, 999))))
        except ValueError as error:
            assert str(error).startswith("prompt="), texts
            continue
        told_anew += expansion.texts != tuple(texts)
    assert told_anew > 30


def test_prompts_that_follow_one_another_are_of_one_world() -> None:
    one, two, three = expand(["a ball jumps", "It rolls left", "it stays, a cube falls at night"], 3, any_length).texts
    first, second, third = (read_prompt(text) for text in (one, two, three))
    assert {prompt.ground for prompt in (first, second, third)} == {first.ground}
    assert {prompt.time_of_day for prompt in (first, second, third)} == {"night"}
    assert {prompt.camera for prompt in (first, second, third)} == {first.camera}
    balls = [prompt.objects[0] for prompt in (first, second)]
    assert len({(ball.shape, ball.colour, ball.size, ball.material) for ball in balls}) == 1
    assert [ball.motion for ball in balls] == ["bounce", "roll"] and balls[1].direction == "left"
    assert [(obj.shape, obj.motion) for obj in third.objects] == [("sphere", "stay"), ("cube", "fall")]
    _, later = expand(["a ball jumps", "a red cube, and it spins"], 0, any_length).texts  # "it" is the cube
    assert [(obj.shape, obj.motion) for obj in read_prompt(later).objects] == [("cube", "spin")]
    assert len(set(expand(["a ball and a cube"] * 2, 0, any_length).texts)) == 1
