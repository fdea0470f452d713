"""What a prompt says in the world's words, read with the same tables that captions are written with."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from data.world.caption import Relation
from data.world.words import (
    CAMERA_NOUNS,
    CAMERA_PHRASES,
    CAMERA_WAYS,
    COLOUR_WORDS,
    GROUND_PHRASES,
    MATERIAL_WORDS,
    MOTION_PHRASES,
    MOTION_WAYS,
    PAIR_PHRASES,
    RELATION_PHRASES,
    SETTING_FILLERS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TIME_PHRASES,
    WAY_PHRASES,
    marked_verbs,
    participle,
    third_person,
)

# What people write and captions do not.
_SPELLINGS = (
    (r"\b(counter|anti)[- ]clockwise", r"\1clockwise"),
    (r"\btoward\b", "towards"),
    (r"\b(towards|away from|closer to) (?:the viewer|us|me)\b", r"\1 the camera"),
    (r"\bmatt\b", "matte"),
    (r"\btravelling\b", "traveling"),
    (r"\bdo(?:es)?n't\b", "does not"),
    (r"\bstruck\b", "strike"),
    (r"\bsmaller than\b", "smaller_than"),
    (r"\bjump(?:s|ing)?\b", "bounces"),
    (r"\b(?:and )?(?:hit|strik)(?:s|es|e|ting|ing)? the (?:ground|floor)\b", ""),
)
_MANNERS = r"\b(?:slowly|gently|smoothly|quickly|very)\b"
_GLUE = r"an?|and|another|are|as|but|is|its?|of|one|that|the|then|they|which|while|with"
_MOTION_CUES = {"still": "stay", "motionless": "stay", "stationary": "stay", "not move": "stay", "orbit": "orbit"}
_CAMERA_CUES = {"static": "still", "fixed": "still", "still": "still", "stationary": "still", "motionless": "still"}
_REVERSED = {"smaller_than": "larger than"}
_BOUNDARIES = r"(,|@\d+|\b(?:and|while|as|with|but|then)\b)"


@dataclass(frozen=True)
class ObjectWords:
    """What is said of one object, each in the world's own word; None for what is not said.

    motion is "slide" for each of the four slides. direction is one of `MOTION_WAYS` of the motion.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    material: str | None = None
    motion: str | None = None
    direction: str | None = None


@dataclass(frozen=True)
class Prompt:
    """What a prompt says; None for what it does not.

    objects: in the order they are named. camera: one of `CAMERAS`, or "pan", "orbit" or "zoom" where the direction is
    not said. relations: between objects by their place in `objects`. pairs: likewise, who hits or passes behind whom.
    """

    objects: tuple[ObjectWords, ...]
    camera: str | None
    ground: str | None
    time_of_day: str | None
    relations: tuple[Relation, ...]
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Mention:
    """A place where the text names an object: which, and what the text says from there to the next one."""

    index: int
    said: str


def read_prompt(text: str) -> Prompt:
    """What a caption or a prompt in free wording says about a scene; words it does not know are passed over.

    A name with "the" that fits an object named before means that object. Raises ValueError if no object is named, or
    several by one name.
    """
    if several := re.search(rf"\b{_any_of(_meanings(SHAPE_WORDS))}(?:e?s)\b", text.lower()):
        raise ValueError(
            f"prompt={text!r} speaks of {several[0]!r}: name each object by itself, such as 'a red ball and a red ball'"
        )
    plain, objects, named = _named(_plain(text))
    if not objects:
        raise ValueError(
            f"prompt={text!r} names no object of the world: name a "
            f"{', '.join(word for words in SHAPE_WORDS.values() for word in words)}, such as 'a red ball rolls'"
        )
    plain, camera = _without_camera(plain)
    before, *said = re.split(r"@\d+", plain)
    mentions = [_Mention(index, part.strip()) for index, part in zip(named, said, strict=True)]
    relations: list[Relation] = []
    pairs: list[tuple[int, int]] = []
    for place, mention in enumerate(mentions):
        following = mentions[place + 1].index if place + 1 < len(mentions) else None
        earlier = mentions[place - 1].index if place else None
        if _passes(mention.said) and following is not None:
            objects[mention.index] = _moving(objects[mention.index], "pass behind", mention.said)
            pairs.append((mention.index, following))
            continue
        if struck := _strikes(mention.said, following is not None):
            partner = earlier if struck == "another" else following
            for index in (mention.index, partner):
                if index is not None:
                    objects[index] = _moving(objects[index], "collide", mention.said)
            if partner is not None:
                pairs.append((mention.index, partner) if struck == "next" else (partner, mention.index))
            continue
        if following is not None and (relation := re.search(r"REL_(\w+)$", mention.said)):
            relations.append(_relation(mention.index, relation[1], following))
        said_here = mention.said if _motion(mention.said) or place else before
        motion = _motion(said_here)
        if motion is not None and objects[mention.index].motion is None:
            objects[mention.index] = _moving(objects[mention.index], motion, said_here)
    return Prompt(
        objects=tuple(objects),
        camera=camera,
        ground=_setting(plain, GROUND_PHRASES),
        time_of_day=_setting(plain, TIME_PHRASES),
        relations=tuple(dict.fromkeys(relations)),
        pairs=tuple(dict.fromkeys((one, other) for one, other in pairs if one != other)),
    )


def _plain(text: str) -> str:
    """Lower case, verbs in their first form, stops as commas, one space between words."""
    text = re.sub(_MANNERS, "", _spelt(text))
    text = re.sub(r"[.;:!?\n()]", ",", text).replace(",", " , ")
    verbs = _verb_forms()
    return " ".join(verbs.get(word, word) for word in re.findall(r"[a-z_]+|,", text))


def _spelt(text: str) -> str:
    text = text.lower().replace("\u2019", "'")
    for written, meant in _SPELLINGS:
        text = re.sub(written, meant, text)
    return text


def unknown_words(text: str) -> tuple[str, ...]:
    """The words of a prompt that stand in none of the tables, so that `read_prompt` passes them over."""
    words = (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, MATERIAL_WORDS, GROUND_PHRASES, TIME_PHRASES)
    told = (MOTION_PHRASES, PAIR_PHRASES, CAMERA_PHRASES, WAY_PHRASES, RELATION_PHRASES)
    phrases = [phrase for table in words + told for phrases in table.values() for phrase in phrases]
    known = {word for phrase in phrases for word in re.findall(r"\w+", phrase.replace("{way}", ""))}
    known |= {*CAMERA_NOUNS, *SETTING_FILLERS, *_REVERSED, *_verb_forms()}
    known |= {word for cue in (*_MOTION_CUES, *_CAMERA_CUES) for word in cue.split()}
    unknown = (word for word in re.findall(r"\w+", _spelt(text)) if word not in known)
    return tuple(dict.fromkeys(word for word in unknown if not re.fullmatch(_GLUE, word)))


def _verb_forms() -> dict[str, str]:
    """The first form of every verb, by its other forms."""
    tables = (MOTION_PHRASES, PAIR_PHRASES, CAMERA_PHRASES)
    verbs = {
        verb for table in tables for phrases in table.values() for phrase in phrases for verb in marked_verbs(phrase)
    }
    return {form(verb): verb for verb in sorted(verbs) for form in (third_person, participle)}


def _any_of(phrases: Iterable[str]) -> str:
    """A pattern for any of the phrases, the longest first."""
    return "(?:" + "|".join(sorted((re.escape(phrase) for phrase in phrases), key=len, reverse=True)) + ")"


def _meanings(table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {word: meaning for meaning, words in table.items() for word in words}


def _named(text: str) -> tuple[str, list[ObjectWords], list[int]]:
    """The text with a mark, "@" and a number, for each name of an object; the objects; which each mark means.

    An object's adjectives stand before it, or after it between commas or behind "is". Relations and directions
    between the marks are marked too.
    """
    shapes = _meanings(SHAPE_WORDS)
    adjectives = {
        word: (kind, meaning)
        for kind, table in (("size", SIZE_WORDS), ("colour", COLOUR_WORDS), ("material", MATERIAL_WORDS))
        for word, meaning in _meanings(table).items()
    }
    adjective, shape = rf"\b{_any_of(adjectives)}\b", rf"\b{_any_of(shapes)}\b"
    link = r"(?: ,)?(?: and)? "
    # such as "metal" in "a red metal ball"
    unknown = r"(?:(?!(?:an?|the|one|and|or|of|to|in|on|with|is|that|which)\b)[a-z]+ )?"
    name = re.compile(
        rf"(?:\b(?P<article>the|an?|one|another) )?(?P<before>(?:(?:{adjective}{link})+{unknown})?)(?P<shape>{shape})"
        rf"(?P<after>(?: ,| ,? ?(?:that|which) is| is) {adjective}(?:{link}{adjective})*(?!{link}{adjective})"
        rf"(?!{link}{shape})(?: ,(?! (?:an?|the) ))?)?"
    )
    objects: list[ObjectWords] = []
    named: list[int] = []

    def mark(found: re.Match[str]) -> str:
        said = {"shape": shapes[found["shape"]]}
        for word in re.findall(adjective, f"{found['before']} {found['after'] or ''}"):
            said.setdefault(*adjectives[word])
        words = ObjectWords(**said)
        known = [i for i, other in enumerate(objects) if found["article"] == "the" and _fits(words, other)]
        if known:
            known_words = {kind: word for kind, word in vars(objects[known[0]]).items() if word is not None}
            objects[known[0]] = ObjectWords(**(said | known_words))
        else:
            objects.append(words)
        named.append(known[0] if known else len(objects) - 1)
        return f" @{len(named) - 1} "

    # such as "a spinning cube": what it does stands behind it then
    does = rf"\b(?:the|an?|one|another) ((?:{_any_of(_verb_forms().values())} )+) *(@\d+)"
    return _marked(re.sub(does, r"\2 \1", name.sub(mark, text))), objects, named


def _fits(words: ObjectWords, other: ObjectWords) -> bool:
    """Whether a name may mean an object named before."""
    pairs = ((words.colour, other.colour), (words.size, other.size), (words.material, other.material))
    return words.shape == other.shape and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _marked(text: str) -> str:
    """The text with "REL_" before each relation to the next object, and "WAY_" before each direction."""
    text = " ".join(text.split())
    relations = _meanings(RELATION_PHRASES) | {word: word for word in _REVERSED}
    text = re.sub(
        rf"\b{_any_of(relations)}(?= @)",
        lambda found: "REL_" + relations[found[0]].replace(" ", "_"),
        text,
    )
    ways = _meanings(WAY_PHRASES) | {way: way for way in WAY_PHRASES}
    return re.sub(rf"\b{_any_of(ways)}\b", lambda found: "WAY_" + ways[found[0]], text)


@cache
def _pattern(phrase: str, way_needed: bool = False) -> str:
    """What a phrase of the tables looks like in a marked text."""
    before, hole, after = _plain(phrase.replace("*", "").replace("{way}", " way_hole ")).partition(" way_hole")
    way = "(?: WAY_[a-z]+)" + ("" if way_needed else "?") if hole else ""
    marked = _marked(f"{after} @0").removesuffix("@0").rstrip() if after else ""
    return rf"\b{_marked(before)}{way}{' ' + marked if marked else ''}\b"


def _found(text: str, table: Mapping[str, Sequence[str]], cues: Mapping[str, str]) -> str | None:
    """The meaning of the longest phrase of a table in a text, else of a cue or of a verb that means only one thing."""
    matches = [
        (len(found[0]), meaning)
        for meaning, phrases in table.items()
        for phrase in phrases
        if (found := re.search(_pattern(phrase, way_needed=meaning == "slide"), text))
    ]
    if matches:
        return max(matches, key=lambda match: match[0])[1]
    meanings: dict[str, set[str]] = {}
    for meaning, phrases in table.items():
        for verb in (verb for phrase in phrases for verb in marked_verbs(phrase)):
            meanings.setdefault(verb, set()).add(meaning)
    single = {verb: min(meant) for verb, meant in meanings.items() if len(meant) == 1} | dict(cues)
    found = re.search(rf"\b{_any_of(single)}\b", text)
    return single[found[0]] if found else None


def _motion(text: str) -> str | None:
    return _found(text, MOTION_PHRASES, _MOTION_CUES)


def _passes(text: str) -> bool:
    """Whether a text says that an object passes behind the one that it names next."""
    return any(re.search(_pattern(phrase) + "$", text) for phrase in PAIR_PHRASES["pass behind"])


def _strikes(text: str, named: bool) -> str | None:
    """Whether a text says that an object collides: with the "next" one named, hit "by" that one, or, as "they
    collide" and "it is hit", with "another"."""
    own = {verb for phrases in MOTION_PHRASES.values() for phrase in phrases for verb in marked_verbs(phrase)}
    cues = {verb for phrase in PAIR_PHRASES["collide"] for verb in marked_verbs(phrase)} - own
    found = re.search(rf"\b{_any_of(cues)}\b(?P<next>(?: (?:into|with|by|against))?$)?", text)
    if found is None:
        return None
    if named and found["next"] is not None:
        return "by" if found["next"].endswith("by") else "next"
    is_hit = re.search(r"\b(?:is|are|get|gets|being) $", text[: found.start()])
    return "another" if is_hit or found[0].startswith("collide") else None


def _moving(obj: ObjectWords, motion: str, text: str) -> ObjectWords:
    """The object with a motion, and with its direction if the text says one that such a motion may have."""
    ways = [way for way in re.findall(r"WAY_([a-z]+)", text) if way in MOTION_WAYS.get(motion, ())]
    return replace(obj, motion=motion, direction=ways[0] if ways else None)


def _relation(first: int, word: str, second: int) -> Relation:
    if word in _REVERSED:
        return Relation(second, _REVERSED[word], first)
    return Relation(first, word.replace("_", " "), second)


def _without_camera(text: str) -> tuple[str, str | None]:
    """The text without what it says about the camera, and that."""
    parts = re.split(_BOUNDARIES, text)
    camera = None
    for place in range(0, len(parts), 2):
        told_of_object = place > 0 and parts[place - 1].startswith("@")
        if told_of_object or not re.search(rf"\b(?:{'|'.join(CAMERA_NOUNS)}|zoom|pan)\b", parts[place]):
            continue
        said = parts[place]
        family = _found(said, CAMERA_PHRASES, _CAMERA_CUES) or ("zoom" if re.search(r"\bzoom\b", said) else None)
        way = next((way for way in re.findall(r"WAY_([a-z]+)", said) if way in CAMERA_WAYS), None)
        camera = camera or (f"{family} {way}" if family in ("pan", "orbit") and way else family)
        parts[place] = " "
    return "".join(parts), camera


def _setting(text: str, table: Mapping[str, Sequence[str]]) -> str | None:
    """The setting whose words stand first in a text."""
    cues = {word: meaning for phrase, meaning in _meanings(table).items() for word in phrase.split(" ")}
    for word in SETTING_FILLERS:
        cues.pop(word, None)
    found = re.search(rf"\b{_any_of(cues)}\b", text)
    return cues[found[0]] if found else None
