"""Labels: the truth about a clip as tensors, its mirror image, and motions with their directions."""

import pytest
import torch

from data.world import sample_scene
from data.world.camera import Camera, camera_path
from data.world.caption import CAMERAS, MOTIONS
from data.world.labels import (
    MAX_OBJECTS,
    MOTION_CLASSES,
    OBJECT_WORDS,
    camera_way,
    from_the_start,
    mirrored,
    motion_class,
    parted_motion,
    scene_labels,
)
from data.world.motion import frame_times
from data.world.words import MOTION_WAYS, family_of

SCENES = [sample_scene("all", seed) for seed in range(40)]


def test_every_motion_with_every_direction_is_a_class_and_is_parted_again() -> None:
    told = {
        (family_of(motion), way)
        for motion in MOTIONS
        for way in MOTION_WAYS.get(family_of(motion), ("",))
        if not motion.startswith("slide") or motion.endswith(way)
    }
    assert {parted_motion(word) for word in MOTION_CLASSES} == told
    assert len(set(MOTION_CLASSES)) == len(MOTION_CLASSES) == len(told)


def test_labels_say_what_the_scene_is() -> None:
    for scene in SCENES:
        labels, truth = scene_labels(scene, 9, 48, 80, 8.0), scene.truth(9, 8.0).at_aspect(80 / 48)
        n = len(scene.objects)
        assert int(labels["count"]) == n and CAMERAS[int(labels["camera"])] == scene.camera.motion
        for i, (obj, seen) in enumerate(zip(scene.objects, truth.objects, strict=True)):
            for name in ("shape", "colour", "size", "material"):
                assert OBJECT_WORDS[name][int(labels[name][i])] == getattr(obj, name)
            assert MOTION_CLASSES[int(labels["motion"][i])] == motion_class(obj.motion, obj.direction)
            assert parted_motion(motion_class(obj.motion, obj.direction)) == (family_of(obj.motion), obj.direction)
            assert torch.equal(labels["centres"][i], seen.centres) and torch.equal(labels["visible"][i], seen.visible)
        torch.testing.assert_close(labels["depths"][:n].exp(), truth.depths)
        moves = {"pan": (0, 0, 1), "zoom": (0, 1, 0), "orbit": (1, 1, 1), "still": (0, 0, 0)}
        family, _, way = scene.camera.motion.partition(" ")
        right, up, ahead, grown = labels["paths"][:n].unbind(-1)  # each n t
        gone = torch.stack([seen.positions - seen.positions[0] for seen in truth.objects])  # n t 3
        axes = truth.camera_axes[0]
        there = right.unsqueeze(-1) * axes[0] + up.unsqueeze(-1) * axes[1] + ahead.unsqueeze(-1) * axes[2]
        torch.testing.assert_close(there, gone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(grown.exp(), torch.stack([seen.radii / seen.radii[0] for seen in truth.objects]))
        view = labels["view"][-1]
        assert ((view.abs() > 0.03).int().tolist()) == list(moves[family])
        assert family != "pan" or (view[2] > 0) == (way == "right")
        assert family != "zoom" or (view[1] > 0) == (way == "in")
        assert family != "orbit" or (view[0] > 0) == (way == "right") == (view[2] < 0)
        assert labels["centres"].shape == (MAX_OBJECTS, 9, 2) and not labels["visible"][n:].any()


def test_a_mirror_swaps_sides_and_turns_and_nothing_else() -> None:
    for scene in SCENES:
        labels = scene_labels(scene, 5, 32, 32, 8.0)
        flipped = mirrored(labels)
        for name in ("count", "shape", "colour", "size", "material", "ground", "time_of_day", "depths", "visible"):
            assert torch.equal(flipped[name], labels[name])
        torch.testing.assert_close(flipped["view"], labels["view"] * torch.tensor([-1.0, 1.0, -1.0]))
        torch.testing.assert_close(flipped["paths"][..., 0], -labels["paths"][..., 0])
        assert torch.equal(flipped["paths"][..., 1:], labels["paths"][..., 1:])
        torch.testing.assert_close(flipped["centres"][..., 0], 1.0 - labels["centres"][..., 0])
        assert torch.equal(flipped["centres"][..., 1], labels["centres"][..., 1])
        again = mirrored(flipped)
        assert all(torch.equal(again[name], labels[name]) for name in ("motion", "camera"))
        for i, obj in enumerate(scene.objects):
            family, way = parted_motion(MOTION_CLASSES[int(flipped["motion"][i])])
            other = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
            assert (family, way) == (family_of(obj.motion), other.get(obj.direction, obj.direction))


def test_a_mirror_shows_what_the_flipped_labels_say() -> None:
    """Where the world itself is mirrored, the path of an object is the flipped one."""
    scene = next(s for s in SCENES if any(obj.motion == "orbit" for obj in s.objects))
    labels = mirrored(scene_labels(scene, 17, 32, 32, 4.0))
    i = next(i for i, obj in enumerate(scene.objects) if obj.motion == "orbit")
    path = labels["centres"][i] - labels["centres"][i].mean(0)
    turning = float((path[:-1, 0] * path[1:, 1] - path[:-1, 1] * path[1:, 0]).sum())
    word = MOTION_CLASSES[int(labels["motion"][i])]
    # seen from above and in front, counterclockwise on the ground is counterclockwise in a picture, whose y goes down
    assert word == ("orbit counterclockwise" if turning < 0 else "orbit clockwise")


@pytest.mark.parametrize("motion", CAMERAS)
def test_what_stands_still_is_seen_to_do_so_from_the_start(motion: str) -> None:
    eyes, axes = camera_path(Camera(motion, 0.05, 0.25, 5.0, speed=0.2), frame_times(100, 25.0))
    point = torch.tensor([0.7, -0.4, 0.9], dtype=torch.float64)
    seen = (axes @ (point - eyes).unsqueeze(-1)).squeeze(-1)  # t 3
    still = from_the_start(seen, camera_way(eyes, axes))
    moved = (still - still[0]).norm(dim=1).max()
    assert moved < (0.3 if motion.startswith("zoom") else 0.06)  # zooms do not move levelly
    if motion != "still":
        assert moved < 0.3 * (seen - seen[0]).norm(dim=1).max()
