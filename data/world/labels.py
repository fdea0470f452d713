"""What there is to read off a clip, as tensors: the words and places of its objects, and its setting."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from data.world.camera import MEAN_ELEVATION
from data.world.caption import CAMERAS, COLOURS, GROUNDS, MATERIALS, MOTIONS, RELATIONS, SHAPES, SIZES, TIMES_OF_DAY
from data.world.scene import Scene
from data.world.words import MOTION_WAYS, WAY_PHRASES

MAX_OBJECTS = 4
TURN = 4.0  # units of a radian, so that a camera's ways and its turns are numbers of about one size
MOTION_CLASSES = tuple(
    f"{motion} {direction}".strip() for motion in MOTIONS for direction in MOTION_WAYS.get(motion, ("",))
)
"""Each motion with its direction: "slide left", "roll right", "orbit clockwise", "stay" …"""

OBJECT_WORDS: Mapping[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "material": MATERIALS,
    "motion": MOTION_CLASSES,
}
SCENE_WORDS: Mapping[str, tuple[str, ...]] = {"camera": CAMERAS, "ground": GROUNDS, "time_of_day": TIMES_OF_DAY}


def motion_class(motion: str, direction: str) -> str:
    """The one of `MOTION_CLASSES` that a scene's object belongs to."""
    return motion if motion.startswith("slide") else f"{motion} {direction}".strip()


def parted_motion(word: str) -> tuple[str, str]:
    """A word of `MOTION_CLASSES` as the motion and its direction, "" for none: "slide left" is ("slide", "left")."""
    motion, _, direction = word.rpartition(" ")
    return (motion, direction) if direction in WAY_PHRASES else (word, "")


def word_labels(scene: Scene) -> dict[str, Tensor]:
    """The words of a scene: "count" () and, for each name in `SCENE_WORDS`, () int64; for each name in `OBJECT_WORDS`,
    (MAX_OBJECTS,) int64, 0 where there is no object."""
    labels = {"count": torch.tensor(len(scene.objects))}
    for name, words in SCENE_WORDS.items():
        word = scene.camera.motion if name == "camera" else getattr(scene, name)
        labels[name] = torch.tensor(words.index(word))
    for name, words in OBJECT_WORDS.items():
        labels[name] = torch.zeros(MAX_OBJECTS, dtype=torch.int64)
        for i, obj in enumerate(scene.objects):
            word = motion_class(obj.motion, obj.direction) if name == "motion" else getattr(obj, name)
            labels[name][i] = words.index(word)
    return labels


def relation_labels(scene: Scene) -> Tensor:
    """Which of `RELATIONS` hold between two objects, ``(MAX_OBJECTS, MAX_OBJECTS, relations)``, 1 or 0 fp32."""
    holds = torch.zeros(MAX_OBJECTS, MAX_OBJECTS, len(RELATIONS))
    for told in scene.relations:
        holds[told.first, told.second, RELATIONS.index(told.word)] = 1.0
    return holds


def scene_labels(scene: Scene, num_frames: int, height: int, width: int, frame_rate: float) -> dict[str, Tensor]:
    """The truth about a clip for `data.world.judge.Judge` to learn.

    Returns what `word_labels` does, and "centres" (MAX_OBJECTS, t, 2) in [0, 1] of the picture;
    "depths" (MAX_OBJECTS, t), the log of the distance ahead of the camera, units; "visible" (MAX_OBJECTS, t) bool;
    "paths" (MAX_OBJECTS, t, 4), how far each has gone since time 0 to the right, up and ahead as the camera stood then,
    units, and the log of how much it has grown; "view" (t, 3), how far the camera has gone to its right and ahead since
    time 0, units, and turned to its right, radians times `TURN`.
    """
    truth = scene.truth(num_frames, frame_rate).at_aspect(width / height)
    labels = word_labels(scene)
    labels["centres"] = torch.zeros(MAX_OBJECTS, num_frames, 2)
    labels["depths"] = torch.zeros(MAX_OBJECTS, num_frames)
    labels["visible"] = torch.zeros(MAX_OBJECTS, num_frames, dtype=torch.bool)
    labels["paths"] = torch.zeros(MAX_OBJECTS, num_frames, 4)
    labels["view"] = camera_way(truth.camera_positions, truth.camera_axes)
    for i, seen in enumerate(truth.objects):
        labels["centres"][i], labels["visible"][i] = seen.centres, seen.visible
        labels["depths"][i] = truth.depths[i].clamp(min=0.1).log()
        labels["paths"][i, :, :3] = (seen.positions - seen.positions[0]) @ truth.camera_axes[0].T
        labels["paths"][i, :, 3] = (seen.radii / seen.radii[0]).log()
    return labels


def camera_way(eyes: Tensor, axes: Tensor) -> Tensor:
    """The camera's way since time 0, of its places (t, 3) and axes (t, 3, 3): (t, 3), as `scene_labels` tells it."""
    right, _, forward = axes[0]
    gone = eyes - eyes[0]
    heading = axes[:, 2]
    turned = torch.atan2(heading @ right, heading @ forward)
    return torch.stack((gone @ right, gone @ forward, TURN * turned), dim=-1)


def from_the_start(places: Tensor, moved: Tensor) -> Tensor:
    """Places as seen from the camera (..., 3) as they would be from where it stood at time 0, of how it has moved since
    (..., 3), as `camera_way` tells it: about so, for a camera at `MEAN_ELEVATION` that moves levelly.
    """
    down, up = math.sin(MEAN_ELEVATION), math.cos(MEAN_ELEVATION)
    right, above, ahead = places.unbind(-1)
    above, ahead = up * above - down * ahead, up * ahead + down * above  # as if it looked level
    angle = moved[..., 2] / (TURN * up)
    turned = angle.cos() * right + angle.sin() * ahead + moved[..., 0]
    ahead = angle.cos() * ahead - angle.sin() * right + moved[..., 1] / up
    return torch.stack((turned, up * above + down * ahead, up * ahead - down * above), dim=-1)


def mirrored(labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The labels of the clip seen in a mirror: left and right change places, and so do the ways to turn."""
    other = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
    flipped = dict(labels)
    for name, words in (("motion", MOTION_CLASSES), ("camera", CAMERAS)):
        swapped = [" ".join(other.get(part, part) for part in word.split(" ")) for word in words]
        flipped[name] = torch.tensor([words.index(word) for word in swapped])[labels[name]]
    flipped["paths"] = labels["paths"] * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    flipped["view"] = labels["view"] * torch.tensor([-1.0, 1.0, -1.0])
    flipped["centres"] = labels["centres"] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    return flipped
