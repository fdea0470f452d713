"""The world's words: its vocabulary, the triples kept out of training, and captions.

The vocabulary and `is_held_out` decide what may ever be trained on. They must never change: not a word, not
the order, not the hash. How captions say those words is in `data.world.words`, which prompts are read with too.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from data.world.words import (
    CAMERA_NOUNS,
    CAMERA_PHRASES,
    COLOUR_WORDS,
    GROUND_PHRASES,
    MATERIAL_WORDS,
    MOTION_PHRASES,
    PAIR_PHRASES,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    TIME_PHRASES,
    WAY_PHRASES,
    family_of,
    inflected,
)

if TYPE_CHECKING:
    from data.world.scene import Scene

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "white")
MOTIONS = (
    "slide left",
    "slide right",
    "slide towards",
    "slide away",
    "roll",
    "bounce",
    "orbit",
    "spin",
    "rise",
    "fall",
    "grow",
    "shrink",
    "stay",
    "collide",
    "pass behind",
)
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny", "checkered")
CAMERAS = ("still", "pan left", "pan right", "orbit left", "orbit right", "zoom in", "zoom out")
GROUNDS = ("sand", "grass", "stone")
TIMES_OF_DAY = ("day", "dusk", "night")
RELATIONS = ("left of", "right of", "behind", "in front of", "larger than")


@dataclass(frozen=True)
class Relation:
    """What holds between two objects of a scene, by their indices."""

    first: int
    word: str
    second: int


class Named(Protocol):
    """An object by its words; "" is not told."""

    @property
    def shape(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def material(self) -> str: ...
    @property
    def motion(self) -> str: ...
    @property
    def direction(self) -> str: ...


@dataclass(frozen=True)
class Facts:
    """What a caption may tell; "" is not told.

    pairs: objects of which the first hits or passes behind the second, by their indices; no object is in two.
    """

    objects: Sequence[Named]
    pairs: Sequence[tuple[int, int]]
    relations: Sequence[Relation]
    camera: str
    ground: str
    time_of_day: str


Item = TypeVar("Item")

CAPTION_STYLES = ("exhaustive", "detailed", "short", "terse")


def keyed_random(*key: str | int) -> random.Random:
    """A random stream that is a pure function of `key`, on every machine; use only its `.random()`."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def is_held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether this shape, colour and motion together are kept out of all training: about a tenth are.

    Raises ValueError for a word outside `SHAPES`, `COLOURS` or `MOTIONS`.
    """
    for name, word, words in (
        ("shape", shape, SHAPES),
        ("colour", colour, COLOURS),
        ("motion", motion, MOTIONS),
    ):
        if word not in words:
            raise ValueError(f"{name}={word!r} is not in the world's vocabulary: use one of {', '.join(words)}")
    digest = hashlib.sha256(f"held out/{shape}/{colour}/{motion}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


def scene_caption(scene: "Scene", style: str = "exhaustive", wording: int = 0) -> str:
    """A true description of a scene, in lower case and without a final period; a pure function of all three.

    Every style names the shape and the colour of every object, in words and an order drawn by the scene's seed and the
    number of the wording.
    "exhaustive" states every factor and up to two relations. "detailed" leaves out materials and about half of
    ground, time of day and one relation. "short" tells what moves how, and drops sizes, directions (but those of
    slides) and the camera by chance. "terse" drops motions too. Raises ValueError for another style.
    """
    if style not in CAPTION_STYLES:
        raise ValueError(f"style={style!r} is no caption style: use one of {', '.join(CAPTION_STYLES)}")
    stream = keyed_random(scene.split, scene.seed, "caption", style, *([wording] if wording else []))
    told = _draw_told(style, scene.camera.motion != "still", stream)
    relations = scene.relations if told.relations and len(scene.objects) > 1 else ()
    pairs = (scene.pair,) if scene.pair else ()
    facts = Facts(scene.objects, pairs, relations, scene.camera.motion, scene.ground, scene.time_of_day)
    return _caption(facts, told, stream)


def plain_caption(facts: Facts, asked: int, most: int) -> str:
    """Everything that the facts say, as an exhaustive caption in the words and the order that those use most.

    Of the relations the first ``asked`` are told, and others in other respects up to ``most`` in all.
    """
    told = _Told(
        terse=False,
        sizes=True,
        materials=True,
        motions=True,
        ways=True,
        ground=bool(facts.ground),
        time=bool(facts.time_of_day),
        relations=max(asked, most),
        camera=bool(facts.camera),
        camera_way=True,
        articles=True,
        form="third",
    )
    return _caption(facts, told, _Usual(), asked)


class _Usual(random.Random):
    """A stream whose draws are always what is drawn most."""

    def random(self) -> float:
        return 0.3


def _caption(facts: Facts, told: "_Told", stream: random.Random, asked: int = 0) -> str:
    """Relations: the first ``asked``, then any up to ``told.relations``."""
    names = [_name(obj, stream) for obj in facts.objects]
    caption = events = _joined(_object_clauses(facts, names, told, stream), told, stream)
    relations = _relation_clauses(facts.relations, names, told.relations, stream, asked)
    caption = ", ".join([caption, *relations])
    grounds = [_pick(GROUND_PHRASES[facts.ground], stream)] if told.ground else []
    times = [_pick(TIME_PHRASES[facts.time_of_day], stream)] if told.time else []
    setting = " ".join(_pick((grounds + times, times + grounds), stream))
    if setting:
        caption = _pick((f"{caption}, {setting}", f"{setting}, {caption}"), stream)
    if not told.camera:
        return caption
    camera = _camera_clause(facts.camera, told, stream)
    together = caption.endswith(events) and not told.terse and " while " not in events
    links = (", ", " while ") if together else (", ",)
    if stream.random() < 0.7:
        return caption + _pick(links, stream) + camera
    return f"{camera}, {caption}"


@dataclass(frozen=True)
class _Told:
    """What a caption tells, and how.

    terse: in the fewest words, and that something stands still goes without saying. relations: at most so many.
    form: of the verbs, as `inflected` takes it.
    """

    terse: bool
    sizes: bool
    materials: bool
    motions: bool
    ways: bool
    ground: bool
    time: bool
    relations: int
    camera: bool
    camera_way: bool
    articles: bool
    form: str


def _draw_told(style: str, camera_moves: bool, stream: random.Random) -> _Told:
    def happens(share: float) -> bool:
        return stream.random() < share

    terse, full, detailed = style == "terse", style == "exhaustive", style == "detailed"
    rich = full or detailed
    camera_share = {"short": 0.8 if camera_moves else 0.4, "terse": 0.3 if camera_moves else 0.1}.get(style, 1.0)
    return _Told(
        terse=terse,
        sizes=rich or (not terse and happens(0.3)),
        materials=full,
        motions=not terse or happens(0.7),
        ways=rich or happens(0.2 if terse else 0.5),
        ground=full or (detailed and happens(0.5)),
        time=full or (detailed and happens(0.5)),
        relations=2 if full else int(detailed and happens(0.5)),
        camera=happens(camera_share),
        camera_way=rich or happens(0.3),
        articles=not terse or happens(0.4),
        form=_pick(("ing", "third") if terse else ("third", "is", "ing"), stream),
    )


def _pick(options: Sequence[Item], stream: random.Random) -> Item:
    """The first option in about half of all draws, else any of the others."""
    first = stream.random() < 0.5 or len(options) == 1
    return options[0] if first else options[1 + int(stream.random() * (len(options) - 1))]


def _name(obj: Named, stream: random.Random) -> str:
    return f"{_pick(COLOUR_WORDS[obj.colour], stream)} {_pick(SHAPE_WORDS[obj.shape], stream)}"


def _noun_phrase(obj: Named, name: str, told: _Told, stream: random.Random) -> str:
    """An object with its adjectives; it ends in a comma where those follow it."""
    colour, shape = name.split(" ")
    size = [_pick(SIZE_WORDS[obj.size], stream)] if told.sizes and obj.size else []
    material = [_pick(MATERIAL_WORDS[obj.material], stream)] if told.materials and obj.material else []
    if not told.articles:
        return " ".join([*size, *material, colour, shape])
    if len(size + material) > 0 and stream.random() < 0.2:
        adjectives = [*size, colour, *material]
        others, last = adjectives[:-1], adjectives[-1]
        return f"{_article(shape)} {shape}, {', '.join(others)} and {last},"
    orders = ([*size, colour, *material], [*size, *material, colour])
    words = [*_pick(orders, stream), shape]
    return f"{_article(words[0])} {' '.join(words)}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _way(direction: str, told: bool, stream: random.Random) -> str:
    return f" {_pick(WAY_PHRASES[direction], stream)}" if direction and told else ""


def _verb(obj: Named, phrases: Sequence[str], told: _Told, form: str, stream: random.Random) -> str:
    """What an object does."""
    phrase = min(phrases, key=len) if told.terse else _pick(phrases, stream)
    way = _way(obj.direction, told.ways or obj.motion.startswith("slide"), stream)
    return inflected(phrase, form).replace("{way}", way)


def _object_clauses(facts: Facts, names: list[str], told: _Told, stream: random.Random) -> list[str]:
    """A clause for each object, but one for both objects of a pair."""
    clauses = []
    phrases = [_noun_phrase(obj, name, told, stream) for obj, name in zip(facts.objects, names, strict=True)]
    partners = dict(facts.pairs) if told.motions else {}
    for index, obj in enumerate(facts.objects):
        clause = phrases[index]
        if index in partners.values():
            continue
        if index in partners:
            does = _verb(obj, _pair_phrases(obj.motion, told), told, told.form, stream)
            clause = f"{clause} {does} {phrases[partners[index]]}"
            other = facts.objects[partners[index]]
            if other.motion not in ("", "collide") and not told.terse:
                as_well = _verb(other, MOTION_PHRASES[family_of(other.motion)], told, "third", stream)
                clause = f"{clause.removesuffix(',')}, which {as_well}"
        elif told.motions and obj.motion and not (told.terse and obj.motion == "stay"):
            clause = f"{clause} {_verb(obj, MOTION_PHRASES[family_of(obj.motion)], told, told.form, stream)}"
        clauses.append(clause.removesuffix(","))
    return clauses


def _pair_phrases(motion: str, told: _Told) -> list[str]:
    """Those with room for the direction where it is told."""
    return [phrase for phrase in PAIR_PHRASES[motion] if "{way}" in phrase or not told.ways]


def _relation_clauses(
    relations: Sequence[Relation], names: list[str], most: int, stream: random.Random, asked: int
) -> list[str]:
    """Up to `most` of what holds between objects, each about other objects or in another respect; first those that are
    asked for."""
    clauses: list[str] = []
    left = list(relations)
    while left and len(clauses) < most:
        told = left[0 if len(clauses) < asked else int(stream.random() * len(left))]
        left = [other for other in left if _respect(other) != _respect(told)]
        word = _pick(RELATION_PHRASES[told.word], stream)
        clauses.append(f"the {names[told.first]} is {word} the {names[told.second]}")
    return clauses


def _respect(relation: Relation) -> tuple[set[int], int]:
    """Which two objects a relation is about, and whether their side, depth or size."""
    return {relation.first, relation.second}, RELATIONS.index(relation.word) // 2


def _joined(clauses: list[str], told: _Told, stream: random.Random) -> str:
    """Clauses in one line; never "and" before what moves if what stands still goes without saying."""
    *others, last = clauses
    links = [", "] if told.terse and told.motions else [", ", " and "]
    if not told.terse and len(clauses) == 2:
        links.append(" while ")
    return ", ".join(others) + _pick(links, stream) + last if others else last


def _camera_clause(motion: str, told: _Told, stream: random.Random) -> str:
    family, _, direction = motion.partition(" ")
    if family == "zoom":
        family, direction = motion, ""
    phrase = inflected(_pick(CAMERA_PHRASES[family], stream), "third")
    return f"the {_pick(CAMERA_NOUNS[:2], stream)} {phrase.replace('{way}', _way(direction, told.camera_way, stream))}"
