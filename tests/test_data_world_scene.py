"""Scenes: pure functions of (split, seed), held-out triples stay out, nothing touches or leaves."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch

from data.world import is_held_out, sample_scene
from data.world.motion import Camera, SceneObject
from data.world.scene import Scene

SCENES = [sample_scene("train", seed) for seed in range(80)]


def held_out_objects(scene: Scene) -> list[bool]:
    return [is_held_out(obj.shape, obj.colour, obj.motion) for obj in scene.objects]


def two_spheres(near_y: float, far_y: float) -> Scene:
    near = SceneObject("sphere", "red", "large", "slide left", 0.0, near_y, "left", 0.0)
    far = SceneObject("sphere", "blue", "small", "slide left", 0.0, far_y, "left", 0.0)
    return Scene((near, far), Camera("still", 0.0, 0.1, 5.0), 0.8, 0.8, "all", 0)


def test_a_scene_is_a_pure_function_of_split_and_seed() -> None:
    assert [sample_scene("train", seed) for seed in range(20)] == SCENES[:20]
    assert len(set(SCENES)) == len(SCENES)
    assert sample_scene("val", 3).objects != SCENES[3].objects


def test_train_and_val_never_show_a_held_out_triple() -> None:
    assert not any(any(held_out_objects(scene)) for scene in SCENES)
    assert not any(any(held_out_objects(sample_scene("val", seed))) for seed in range(20))


def test_test_always_shows_a_held_out_triple_and_all_does_both() -> None:
    assert all(any(held_out_objects(sample_scene("test", seed))) for seed in range(8))
    assert len({any(held_out_objects(sample_scene("all", seed))) for seed in range(30)}) == 2


def test_another_split_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"split='dev'.*train, val, test, all"):
        sample_scene("dev", 0)


def test_the_mixture_is_as_meant() -> None:
    counts = Counter(len(scene.objects) for scene in SCENES)
    assert counts[1] > counts[2] > counts[3] > 0
    objects = [obj for scene in SCENES for obj in scene.objects]
    assert len({obj.shape for obj in objects}) == 3 and len({obj.colour for obj in objects}) == 7
    assert len({obj.motion for obj in objects}) == 7 and len({scene.camera.motion for scene in SCENES}) == 5
    assert not any(obj.shape == "cube" and obj.rolls for obj in objects)
    for scene in SCENES:
        assert len({(obj.shape, obj.colour) for obj in scene.objects}) == len(scene.objects)


def test_for_ten_seconds_all_stay_in_view_apart_and_mostly_unhidden() -> None:
    for scene in SCENES:
        truth = scene.truth(81, 8.0)
        for obj in truth.objects:
            assert obj.centres.min() > 0.05 and obj.centres.max() < 0.95
            assert obj.visible[0] and obj.visible.float().mean() > 0.75
        for (one, one_truth), (two, two_truth) in combinations(zip(scene.objects, truth.objects, strict=True), 2):
            apart = (one_truth.positions - two_truth.positions).norm(dim=1).min()
            assert apart > one.bounding_radius + two.bounding_radius


def test_objects_are_big_enough_to_see() -> None:
    for scene in SCENES:
        if scene.camera.motion == "still":
            truth = scene.truth(1, 8.0)
            for obj, seen in zip(scene.objects, truth.objects, strict=True):
                distance = float((seen.positions[0] - truth.camera_positions[0]).norm())
                share = obj.radius / distance / math.tan(math.radians(21.0))
                assert share > (0.20 if obj.size == "large" else 0.12)


def test_truth_has_its_shapes_and_agrees_across_frame_rates() -> None:
    scene = SCENES[0]
    truth, half = scene.truth(9, 8.0), scene.truth(5, 4.0)
    assert truth.camera_positions.shape == (9, 3) and truth.camera_axes.shape == (9, 3, 3)
    for one, two in zip(truth.objects, half.objects, strict=True):
        assert one.positions.shape == (9, 3) and one.centres.shape == (9, 2) and one.visible.dtype == torch.bool
        assert torch.equal(one.positions[::2], two.positions) and torch.equal(one.centres[::2], two.centres)


def test_another_aspect_keeps_the_shorter_side() -> None:
    truth = SCENES[1].truth(9, 8.0)
    wide, tall = truth.at_aspect(2.0), truth.at_aspect(0.5)
    for square, one, two in zip(truth.objects, wide.objects, tall.objects, strict=True):
        middle = square.centres - 0.5
        torch.testing.assert_close(one.centres - 0.5, middle * torch.tensor([0.5, 1.0]))
        torch.testing.assert_close(two.centres - 0.5, middle * torch.tensor([1.0, 0.5]))
        torch.testing.assert_close(truth.at_aspect(1.0).objects[0].centres, truth.objects[0].centres)


def test_an_aspect_of_nothing_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="aspect=0"):
        SCENES[0].truth(1, 8.0).at_aspect(0)


def test_what_stands_behind_another_is_not_visible() -> None:
    truth = two_spheres(-1.0, 1.0).truth(2, 8.0)
    assert not truth.at_aspect(2.0).objects[1].visible.any(), "nor in another aspect"
    near, far = truth.objects
    assert near.visible.all() and not far.visible.any() and not far.uncovered.any()
    far, near = two_spheres(1.0, -1.5).truth(2, 8.0).objects
    assert near.visible.all(), "what is behind does not hide"


def test_what_left_the_picture_is_not_visible() -> None:
    slide = SceneObject("sphere", "red", "large", "slide left", 0.0, 0.0, "left", 1.0)
    scene = Scene((slide,), Camera("still", 0.0, 0.25, 5.0), 0.8, 0.8, "all", 0)
    (seen,) = scene.truth(5, 1.0).objects
    assert seen.visible.tolist() == [True, True, False, False, False] and seen.uncovered.all()
    (wide,) = scene.truth(5, 1.0).at_aspect(3.0).objects
    assert wide.visible.all()
