"""Where a caption first names each object of its scene."""

import re

from data.world.words import SHAPE_WORDS

NOUN = re.compile(rf"\b(?:{'|'.join(word for words in SHAPE_WORDS.values() for word in words)})\b")


def mentions(caption: str, count: int) -> list[int]:
    """The places in a caption by `data.world.caption.scene_caption` at which the nouns of a scene's ``count`` objects
    end, in the scene's order: captions name objects in it, and say what else holds of them after that."""
    return [noun.end() for noun in NOUN.finditer(caption)][:count]
