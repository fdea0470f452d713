"""The world's words: its vocabulary, the triples kept out of training, and captions.

The vocabulary and `is_held_out` decide what may ever be trained on. They must never change: not a word, not
the order, not the hash. Words the world cannot render yet are in the vocabulary already, for that reason.
"""

import hashlib
import random
from typing import TYPE_CHECKING

from data.world.motion import Camera, SceneObject

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
CAPTION_STYLES = ("exhaustive", "short")

_SLIDES = {
    "left": "slides to the left",
    "right": "slides to the right",
    "towards": "slides towards the camera",
    "away": "slides away from the camera",
}
_CAMERAS = {
    "still": "the camera is still",
    "orbit left": "the camera orbits slowly to the left",
    "orbit right": "the camera orbits slowly to the right",
    "zoom in": "the camera zooms in slowly",
    "zoom out": "the camera zooms out slowly",
}


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


def scene_caption(scene: "Scene", style: str = "exhaustive") -> str:
    """A true description of a scene, in lower case: one clause for each object, then one for the camera.

    "exhaustive" states every factor. "short" leaves out sizes, directions, manners or the still camera,
    which of them being drawn by the scene's seed. Raises ValueError for another style.
    """
    if style not in CAPTION_STYLES:
        raise ValueError(f"style={style!r} is no caption style: use one of {', '.join(CAPTION_STYLES)}")
    if style == "exhaustive":
        clauses = [_object_clause(obj, sized=True, directed=True) for obj in scene.objects]
        return ", ".join([*clauses, _CAMERAS[scene.camera.motion]])
    stream = keyed_random(scene.split, scene.seed, "short caption")
    sized, directed = stream.random() < 0.3, stream.random() < 0.5
    camera_directed, camera_named = stream.random() < 0.3, stream.random() < 0.5
    clauses = [_object_clause(obj, sized, directed) for obj in scene.objects]
    if scene.camera.motion != "still" or camera_named:
        clauses.append(_camera_clause(scene.camera, camera_directed))
    return ", ".join(clauses)


def _object_clause(obj: SceneObject, sized: bool, directed: bool) -> str:
    size = f"{obj.size} " if sized else ""
    return f"a {size}{obj.colour} {obj.shape} {_motion_words(obj, directed)}"


def _motion_words(obj: SceneObject, directed: bool) -> str:
    if obj.motion.startswith("slide"):
        return _SLIDES[obj.direction]  # the direction is what the motion is called
    if obj.motion == "roll":
        return f"rolls to the {obj.direction}" if directed else "rolls"
    if obj.motion == "bounce":
        return "bounces on the ground"
    return f"moves {obj.direction} in a circle" if directed else "moves in a circle"


def _camera_clause(camera: Camera, directed: bool) -> str:
    if camera.motion.startswith("orbit") and not directed:
        return "the camera orbits slowly"
    return _CAMERAS[camera.motion]
