"""Short prompts told in full, as the exhaustive captions of the world are."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from data.world.caption import CAMERAS, Facts, Relation, keyed_random, plain_caption
from data.world.completion import complete
from data.world.placement import Words, place
from data.world.prompt import ObjectWords, Prompt, read_prompt, unknown_words
from data.world.scene import COUNT_WEIGHTS, Scene
from data.world.words import MOTION_WAYS, PAIR_PHRASES

ATTEMPTS = {False: 3, True: 10}  # to find a scene, and one in which relations hold that are said
SHORTER = ("material", "size", "direction", "time_of_day", "ground", "camera", "motion")
"""What is left untold, one after the other, where a caption is too long: of that which nobody said."""
BOTH_HIT = ("collide", "collide")
OPPOSITE = {"right of": "left of", "in front of": "behind"}


@dataclass(frozen=True)
class Expansion:
    """texts: one for each prompt. notes: what a user should know, a line each."""

    texts: tuple[str, ...]
    notes: tuple[str, ...]


def expand(texts: Sequence[str], seed: int, fits: Callable[[str], bool]) -> Expansion:
    """Prompts that follow one another in a video, each told in full: all that it says, and what it leaves unsaid as
    `data.world.completion.complete` draws it; relations between objects of the first come from a scene of them. A pure
    function of all three.

    A prompt that says everything stays as it is, and so does one that no caption says, of which there is a note.

    Args:
        fits: whether the model can read a text to its end. What would be too long is told with less of what is drawn.
    Raises:
        ValueError: as `read_prompt`.
    """
    prompts = _read(texts)
    unknown = dict.fromkeys(word for text in texts for word in unknown_words(text))
    notes = [f"the world does not know these words, which are passed over: {', '.join(unknown)}"] if unknown else []
    expanded = []
    for text, prompt, facts in zip(texts, prompts, _facts(texts, prompts, seed), strict=True):
        whole = _is_whole(prompt) and not unknown_words(text) and fits(text)
        told = text if whole else _told(prompt, facts, fits)
        if told is None:
            which = "of the world" if _told(prompt, facts, lambda caption: True) is None else "that is short enough"
            notes.append(f"prompt={text!r} stays as it is: no caption {which} says all of it")
        expanded.append(told or text)
    return Expansion(tuple(expanded), tuple(notes))


def _read(texts: Sequence[str]) -> list[Prompt]:
    """In later ones "it" is the only object of the prompt before, where nothing is named that it could be."""
    prompts: list[Prompt] = []
    for text in texts:
        it = re.search(r"\bit\b", text.lower())
        if it and prompts and len(prompts[-1].objects) == 1 and not _names_something(text[: it.start()]):
            text = f"{text[: it.start()]}the {prompts[-1].objects[0].shape}{text[it.end() :]}"
        prompts.append(read_prompt(text))
    return prompts


def _names_something(text: str) -> bool:
    try:
        return bool(read_prompt(text).objects)
    except ValueError:
        return False


def _is_whole(prompt: Prompt) -> bool:
    """Whether it says everything, but for relations."""
    said = [word for obj in prompt.objects for name, word in vars(obj).items() if name != "direction"]
    ways = [obj.direction for obj in prompt.objects if obj.motion in MOTION_WAYS]
    return None not in (*said, *ways, prompt.ground, prompt.time_of_day) and prompt.camera in CAMERAS


def _facts(texts: Sequence[str], prompts: Sequence[Prompt], seed: int) -> list[Facts]:
    """All about each prompt; of the first, and of those that say the same, also the relations that hold in a scene of
    it, after those that are said."""
    drawn: list[list[Facts]] = []
    for attempt in range(ATTEMPTS[bool(prompts[0].relations)]):
        stream = keyed_random("prompt", *texts, seed, attempt)
        drawn.append(complete(prompts, stream))
        first = drawn[-1][0]
        if not _may_be_placed(first):
            break
        holds = _relations(first, stream)
        if holds and {_turned(relation) for relation in first.relations} <= set(holds):
            return [
                replace(facts, relations=(*facts.relations, *holds)) if facts.objects == first.objects else facts
                for facts in drawn[-1]
            ]
    return drawn[0]


def _meet_in_pairs(facts: Facts) -> bool:
    """Whether each object that hits or passes another is in a pair for it, and none in two, as captions have it."""
    met = [index for pair in facts.pairs for index in pair]
    does = [obj.motion for obj in facts.objects]
    for one, other in facts.pairs:
        if does[one] not in PAIR_PHRASES or (does[other] in PAIR_PHRASES and (does[one], does[other]) != BOTH_HIT):
            return False
    alone = [motion for index, motion in enumerate(does) if index not in met]
    return len(set(met)) == len(met) and not set(alone) & set(PAIR_PHRASES)


def _may_be_placed(facts: Facts) -> bool:
    """Whether the world may hold a scene of several such objects."""
    names = {(obj.shape, obj.colour) for obj in facts.objects}
    standing = all(facts.objects[other].motion in ("stay", "collide") for _, other in facts.pairs)
    return (
        _meet_in_pairs(facts)
        and 1 < len(names) == len(facts.objects) <= len(COUNT_WEIGHTS)
        and len(facts.pairs) < 2
        and standing
    )


def _relations(facts: Facts, stream: random.Random) -> tuple[Relation, ...]:
    """What holds between the objects of a scene that is drawn of the facts; none where none is found."""
    pair = [index for pair in facts.pairs for index in pair]
    order = pair + [index for index in range(len(facts.objects)) if index not in pair]
    objects = [facts.objects[index] for index in order]
    words = [Words(obj.shape, obj.colour, obj.size, obj.material, obj.motion, obj.direction) for obj in objects]
    placed = place(words, facts.camera, stream)
    if placed is None:
        return ()
    scene = Scene(*placed, sun_azimuth=1.0, sun_elevation=1.0, split="train", seed=0)
    return tuple(Relation(order[told.first], told.word, order[told.second]) for told in scene.relations)


def _told(prompt: Prompt, facts: Facts, fits: Callable[[str], bool]) -> str | None:
    """The longest caption of the facts that says all that the prompt does, and fits."""
    if not _meet_in_pairs(facts):
        return None
    asked = len(prompt.relations)
    for most, untold in [(2, 0), (1, 0), *((0, number) for number in range(1 + len(SHORTER)))]:
        shorter = _without(SHORTER[:untold], prompt, facts)
        caption = plain_caption(shorter, asked, most)
        if fits(caption) and _says(caption, prompt, facts):
            return caption
    return None


def _without(names: Sequence[str], prompt: Prompt, facts: Facts) -> Facts:
    """The facts but for those of these names that the prompt does not say, who meets whom, and the ways of slides."""
    met = {index for pair in facts.pairs for index in pair}
    objects = []
    for index, obj in enumerate(facts.objects):
        said = prompt.objects[index] if index < len(prompt.objects) else ObjectWords()
        unsaid = {name for name, word in vars(said).items() if word is None and name in names}
        motion = "" if "motion" in unsaid and index not in met else obj.motion
        direction = "" if not motion or ("direction" in unsaid and not motion.startswith("slide")) else obj.direction
        size, material = ("" if name in unsaid else getattr(obj, name) for name in ("size", "material"))
        objects.append(Words(obj.shape, obj.colour, size, material, motion, direction))
    camera, ground, time_of_day = (
        "" if name in names and getattr(prompt, name) is None else getattr(facts, name)
        for name in ("camera", "ground", "time_of_day")
    )
    return replace(facts, objects=objects, camera=camera, ground=ground, time_of_day=time_of_day)


def _says(caption: str, prompt: Prompt, facts: Facts) -> bool:
    """Whether a caption of the facts says what the prompt does. It tells their objects in order, but for each that is
    hit or passed, which follows who does it."""
    after = dict(facts.pairs)
    first = [index for index in range(len(facts.objects)) if index not in after.values()]
    order = [index for one in first for index in (one, after.get(one)) if index is not None]
    told = read_prompt(caption)
    if sorted(order) != list(range(len(facts.objects))) or len(order) != len(told.objects):
        return False
    place = {index: number for number, index in enumerate(order)}
    words = [
        (word, getattr(told.objects[place[index]], name))
        for index, obj in enumerate(prompt.objects)
        for name, word in vars(obj).items()
    ]
    words += [(getattr(prompt, name), getattr(told, name)) for name in ("ground", "time_of_day")]
    words.append((prompt.camera, told.camera if prompt.camera in CAMERAS else (told.camera or "").split(" ")[0]))
    relations = {_turned(Relation(place[one.first], one.word, place[one.second])) for one in prompt.relations}
    met = {(place[one], place[other]) for one, other in prompt.pairs}
    said = all(word in (None, told) for word, told in words)
    return said and relations <= {_turned(one) for one in told.relations} and met <= set(told.pairs)


def _turned(relation: Relation) -> Relation:
    """The same about the two, as "left of", "behind" or "larger than"."""
    if relation.word in OPPOSITE:
        return Relation(relation.second, OPPOSITE[relation.word], relation.first)
    return relation
