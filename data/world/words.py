"""The words that captions are written with and prompts are read with: one set of tables for both.

Each entry lists the ways to say a thing; the first is the plain one, which captions use about half of the
time. In a phrase, the verbs that change their form are marked "*" and "{way}" is where a direction may stand.
"""

import re

SHAPE_WORDS = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "box", "block"),
    "cylinder": ("cylinder", "tube"),
    "cone": ("cone",),
    "torus": ("torus", "ring", "hoop"),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
    "white": ("white", "snowy"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
MATERIAL_WORDS = {
    "matte": ("matte", "dull"),
    "shiny": ("shiny", "glossy"),
    "checkered": ("checkered", "chequered", "patterned"),
}

WAY_PHRASES = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "towards": ("towards the camera", "closer to the camera"),
    "away": ("away from the camera", "into the distance"),
    "clockwise": ("clockwise",),
    "counterclockwise": ("counterclockwise", "anticlockwise"),
}
# The directions that a motion may have; a motion that is not here has none.
MOTION_WAYS = {
    "slide": ("left", "right", "towards", "away"),
    "roll": ("left", "right"),
    "collide": ("left", "right"),
    "pass behind": ("left", "right"),
    "orbit": ("clockwise", "counterclockwise"),
    "spin": ("clockwise", "counterclockwise"),
}
MOTION_PHRASES = {
    "slide": ("*slide{way}", "*glide{way}", "*move{way}"),
    "roll": ("*roll{way}", "*roll along the ground{way}", "*roll over the ground{way}"),
    "bounce": ("*bounce on the ground", "*bounce up and down", "*hop up and down", "*bounce"),
    "orbit": ("*move{way} in a circle", "*travel{way} in a circle", "*circle{way}", "*go around{way} in a circle"),
    "spin": ("*spin{way} in place", "*spin{way}", "*turn{way} on the spot", "*rotate{way} in place"),
    "rise": ("*float up slowly", "*rise slowly", "*drift upwards", "*rise into the air", "*rise"),
    "fall": ("*drop from the air and *land on the ground", "*fall to the ground", "*drop to the ground", "*fall"),
    "grow": ("*grow slowly", "*get bigger", "*grow larger", "*swell", "*grow"),
    "shrink": ("*shrink slowly", "*get smaller", "*become smaller", "*shrink"),
    "stay": ("*stand still", "*stay where it is", "*rest in place", "*remain motionless", "*stay still"),
}
# What one object does to the next one named.
PAIR_PHRASES = {
    "collide": (
        "*slide{way} and *hit",
        "*glide{way} and *bump into",
        "*move{way} and *strike",
        "*slide{way} and *collide with",
        "*hit",
    ),
    "pass behind": ("*pass{way} behind", "*move{way} behind", "*slide{way} behind", "*glide{way} behind"),
}
RELATION_PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "behind": ("behind", "further back than"),
    "in front of": ("in front of", "nearer than"),
    "larger than": ("larger than", "bigger than"),
}

CAMERA_NOUNS = ("camera", "view", "shot")  # captions use the first two
CAMERA_PHRASES = {
    "still": ("is still", "*stay still", "does not move", "is fixed"),
    "pan": ("*pan slowly{way}", "*pan{way}", "*turn slowly{way}"),
    "orbit": ("*orbit slowly{way}", "*orbit{way}", "*circle the scene{way}", "*move around the scene{way}"),
    "zoom in": ("*zoom in slowly", "*zoom in", "*move slowly closer"),
    "zoom out": ("*zoom out slowly", "*zoom out", "*move slowly back", "*pull back slowly"),
}
CAMERA_WAYS = ("left", "right")  # of what pans or orbits

GROUND_PHRASES = {
    "sand": ("on sand", "on the sand", "on sandy ground", "on a beach"),
    "grass": ("on grass", "on the grass", "on grassy ground", "on a lawn"),
    "stone": ("on stone", "on the stone floor", "on stony ground", "on stone slabs"),
}
TIME_PHRASES = {
    "day": ("by day", "in daylight", "in the daytime"),
    "dusk": ("at dusk", "at sunset", "in the evening"),
    "night": ("at night", "in the moonlight", "by night"),
}
SETTING_FILLERS = ("on", "in", "at", "by", "a", "the", "ground", "floor")

_THIRD = {"pass": "passes", "go": "goes"}
_PARTICIPLES = {verb: verb + verb[-1] + "ing" for verb in ("hop", "spin", "drop", "get", "hit", "pan")}


def third_person(verb: str) -> str:
    """What it does: "roll" gives "rolls"."""
    return _THIRD.get(verb, verb + "s")


def participle(verb: str) -> str:
    """What it is doing: "slide" gives "sliding"."""
    return _PARTICIPLES.get(verb, verb.removesuffix("e") + "ing")


def marked_verbs(phrase: str) -> tuple[str, ...]:
    """The verbs of a phrase that change their form."""
    return tuple(re.findall(r"\*(\w+)", phrase))


def inflected(phrase: str, form: str) -> str:
    """A phrase with its verbs as "third" person, as participles ("ing"), or as "is" and participles."""
    told = re.sub(r"\*(\w+)", lambda verb: third_person(verb[1]) if form == "third" else participle(verb[1]), phrase)
    return f"is {told}" if form == "is" else told


def family_of(motion: str) -> str:
    """What a motion is called when its direction is told apart: the four slides are "slide"."""
    return "slide" if motion.startswith("slide ") else motion
