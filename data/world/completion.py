"""What prompts leave unsaid about the world, drawn so that it goes with what they say."""

import random
from collections.abc import Sequence
from dataclasses import replace

from data.world.caption import CAMERAS, COLOURS, GROUNDS, MATERIALS, SHAPES, SIZES, TIMES_OF_DAY, Facts, is_held_out
from data.world.placement import ROLLING, ROUND, SOLO_MOTIONS, Words, choice, weighted
from data.world.prompt import ObjectWords, Prompt
from data.world.scene import CAMERA_WEIGHTS, GROUND_WEIGHTS, TIME_WEIGHTS
from data.world.words import MOTION_WAYS, PAIR_PHRASES, family_of

LOOKS = ("colour", "size", "material")

Parts = list[list[ObjectWords]]  # the objects of each prompt
Cast = list[list[int]]  # which object of the video each of them is


def complete(prompts: Sequence[Prompt], stream: random.Random) -> list[Facts]:
    """All about the scenes of prompts that follow one another in a video; of relations those that are said.

    How one of them says that an object, the ground or the light looks, it looks in those that do not say it; what moves
    goes on as before; and what none says is the same in all. It is drawn as the world's scenes are, but that no objects
    meet unless it is said, and that no (shape, colour, motion) which is held out comes of it where another one can.

    An object is one of the prompt before if it may be; then the others of that prompt are still there too, after those
    that are named. Who hits or passes somebody that is not named has somebody to meet.
    """
    shape = choice(stream, SHAPES)
    prompts = [_with_implied(prompt, shape) for prompt in prompts]
    parts, cast = [list(prompt.objects) for prompt in prompts], _cast(prompts)
    _carry_objects(parts, cast)
    members = sorted({member for part in cast for member in part})
    for member in members:
        _carry_looks(parts, cast, member)
    _carry_motions(parts, cast)
    _draw_motions(parts, cast, prompts, stream)
    for member in members:
        _draw_looks(parts, cast, member, stream)
    cameras = _cameras([prompt.camera for prompt in prompts], stream)
    ground, time_of_day = GROUNDS[weighted(stream, GROUND_WEIGHTS)], TIMES_OF_DAY[weighted(stream, TIME_WEIGHTS)]
    grounds = _nearest([prompt.ground for prompt in prompts])
    times = _nearest([prompt.time_of_day for prompt in prompts])
    return [
        Facts(
            [_words(obj) for obj in parts[k]],
            prompt.pairs,
            prompt.relations,
            cameras[k],
            grounds[k] or ground,
            times[k] or time_of_day,
        )
        for k, prompt in enumerate(prompts)
    ]


def _with_implied(prompt: Prompt, shape: str) -> Prompt:
    """With what goes without saying: whom one hits who hits nobody named (the first that does nothing yet, else one of
    the shape), what those do who are hit or passed, and which size goes with being larger or passed behind."""
    objects, pairs = list(prompt.objects), list(prompt.pairs)
    for index, obj in enumerate(prompt.objects):
        taken = {index for pair in pairs for index in pair}
        if obj.motion in PAIR_PHRASES and index not in taken:
            free = [i for i, other in enumerate(objects) if i not in taken and other.motion is None]
            objects += [] if free else [ObjectWords(shape)]
            pairs.append((index, free[0] if free else len(objects) - 1))
    implied: list[tuple[int, str, str]] = []
    for one, other in pairs:
        hit = objects[one].motion == "collide"
        implied += [(other, "motion", "collide" if hit else "stay")] + ([] if hit else [(other, "size", "large")])
    for relation in prompt.relations:
        if relation.word == "larger than":
            implied += [(relation.first, "size", "large"), (relation.second, "size", "small")]
    for index, name, word in implied:
        if getattr(objects[index], name) is None:
            objects[index] = replace(objects[index], **{name: word})
    return replace(prompt, objects=tuple(objects), pairs=tuple(pairs))


def _cast(prompts: Sequence[Prompt]) -> Cast:
    """An object may be one of an earlier prompt, of its shape and no other colour: the one that is most like it."""
    known: list[ObjectWords] = []
    cast: Cast = []
    for prompt in prompts:
        part: list[int] = []
        for obj in prompt.objects:
            likeness = {
                member: sum(_likeness(getattr(obj, name), getattr(other, name)) for name in LOOKS)
                for member, other in enumerate(known)
                if member not in part and other.shape == obj.shape and _likeness(obj.colour, other.colour) >= 0
            }
            member = max(likeness, key=likeness.__getitem__, default=len(known))
            before = vars(known[member]) if likeness else {}
            known[member : member + 1] = [replace(obj, **{name: word for name, word in before.items() if word})]
            part.append(member)
        cast.append(part)
    return cast


def _likeness(one: str | None, other: str | None) -> int:
    return 0 if None in (one, other) else 1 if one == other else -1


def _nearest(said: Sequence[str | None]) -> list[str | None]:
    """In each place what is said there, else in the nearest before it, else in the nearest after it."""
    filled = []
    for place in range(len(said)):
        order = [*range(place, -1, -1), *range(place + 1, len(said))]
        filled.append(next((said[i] for i in order if said[i] is not None), None))
    return filled


def _places(cast: Cast, member: int) -> list[tuple[int, int]]:
    """Part and number of an object of the video wherever it is."""
    return [(k, part.index(member)) for k, part in enumerate(cast) if member in part]


def _carry_objects(parts: Parts, cast: Cast) -> None:
    for k in range(1, len(cast)):
        if set(cast[k]) & set(cast[k - 1]):
            gone = [i for i, member in enumerate(cast[k - 1]) if member not in cast[k]]
            parts[k] += [ObjectWords(parts[k - 1][i].shape) for i in gone]
            cast[k] += [cast[k - 1][i] for i in gone]


def _carry_looks(parts: Parts, cast: Cast, member: int) -> None:
    places = _places(cast, member)
    for name in LOOKS:
        looks = _nearest([getattr(parts[k][i], name) for k, i in places])
        for (k, i), look in zip(places, looks, strict=True):
            parts[k][i] = replace(parts[k][i], **{name: look})


def _carry_motions(parts: Parts, cast: Cast) -> None:
    """What moves goes on until something else is said; who has hit or passed another comes to rest."""
    last: dict[int, ObjectWords] = {}
    for objects, part in zip(parts, cast, strict=True):
        for i, member in enumerate(part):
            obj, before = objects[i], last.get(member)
            if before is not None and obj.motion is None:
                met = before.motion in PAIR_PHRASES
                obj = replace(obj, motion="stay" if met else before.motion)
            if before is not None and obj.direction is None and obj.motion == before.motion:
                obj = replace(obj, direction=before.direction)
            objects[i] = last[member] = obj


def _draw_motions(parts: Parts, cast: Cast, prompts: Sequence[Prompt], stream: random.Random) -> None:
    motions: dict[int, str] = {}
    ways: dict[tuple[int, str], str] = {}
    for objects, part, prompt in zip(parts, cast, prompts, strict=True):
        for i, member in enumerate(part):
            obj = objects[i]
            if obj.motion is None:
                term = motions.setdefault(member, choice(stream, _motions(obj)))
                obj = replace(obj, motion=family_of(term), direction=term.partition(" ")[2] or None)
            if obj.motion in MOTION_WAYS and obj.direction is None:
                obj = replace(obj, direction=ways.setdefault((member, obj.motion), choice(stream, _ways(obj))))
            objects[i] = obj
        for one, other in prompt.pairs:
            if objects[other].motion == "collide":
                objects[other] = replace(objects[other], direction=objects[one].direction)


def _motions(obj: ObjectWords) -> list[str]:
    """What an object of these words may do, of `SOLO_MOTIONS`."""
    seen_turning = obj.material in (None, "checkered")
    never = {
        "roll": obj.shape not in ROLLING or not seen_turning,
        "spin": obj.shape in ROUND and not seen_turning,
        "grow": obj.size == "large",
        "shrink": obj.size == "small",
    }
    options = [motion for motion in SOLO_MOTIONS if not never.get(motion)]
    return [motion for motion in options if not _held_out(obj.shape, obj.colour, motion)] or options


def _ways(obj: ObjectWords) -> list[str]:
    options = list(MOTION_WAYS[obj.motion or ""])
    return [way for way in options if not _held_out(obj.shape, obj.colour, _term(obj.motion, way))] or options


def _term(motion: str | None, way: str | None) -> str:
    """A motion as the vocabulary has it, which tells slides apart."""
    return f"slide {way}" if motion == "slide" else motion or ""


def _held_out(shape: str | None, colour: str | None, term: str) -> bool:
    """False where no colour is known yet."""
    return shape is not None and colour is not None and is_held_out(shape, colour, term)


def _draw_looks(parts: Parts, cast: Cast, member: int, stream: random.Random) -> None:
    """Of one object of the video what no prompt says; all motions are known."""
    places = _places(cast, member)
    shown = [parts[k][i] for k, i in places]
    shape, terms = shown[0].shape, [_term(obj.motion, obj.direction) for obj in shown]
    others = {
        (obj.shape, obj.colour) for k, part in enumerate(parts) for i, obj in enumerate(part) if cast[k][i] != member
    }
    free = [colour for colour in COLOURS if (shape, colour) not in others]
    seen = [colour for colour in free if not any(_held_out(shape, colour, term) for term in terms)]
    turns = "roll" in terms or ("spin" in terms and shape in ROUND)
    grows = [size for term, size in (("grow", "small"), ("shrink", "large")) if term in terms]
    drawn = {
        "colour": choice(stream, seen or free or COLOURS),
        "size": choice(stream, grows or SIZES),
        "material": choice(stream, ("checkered",) if turns else MATERIALS),
    }
    for k, i in places:
        unsaid = {name: look for name, look in drawn.items() if getattr(parts[k][i], name) is None}
        parts[k][i] = replace(parts[k][i], **unsaid)


def _cameras(said: Sequence[str | None], stream: random.Random) -> list[str]:
    """What the camera does goes on until something else is said."""
    camera = CAMERAS[weighted(stream, CAMERA_WEIGHTS)]
    families = dict.fromkeys(one.split(" ")[0] for one in CAMERAS)
    drawn = {family: choice(stream, [one for one in CAMERAS if one.startswith(family)]) for family in families}
    cameras = []
    for told in said:
        if told is not None and camera.split(" ")[0] != told:
            camera = drawn.get(told, told)
        cameras.append(camera)
    return cameras


def _words(obj: ObjectWords) -> Words:
    assert obj.shape is not None and obj.colour is not None and obj.size is not None and obj.material is not None
    return Words(obj.shape, obj.colour, obj.size, obj.material, _term(obj.motion, obj.direction), obj.direction or "")
