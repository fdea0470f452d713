"""Rendering: what the truth says is what the pixels show, at any size, duration and frame rate."""

from dataclasses import replace

import pytest
import torch

from data.world import render, sample_scene
from data.world.caption import COLOURS
from data.world.motion import Camera, SceneObject
from data.world.render import ALBEDO, render_scene
from data.world.scene import Scene

SPHERE = SceneObject("sphere", "red", "large", "slide left", 0.2, 0.0, "left", 0.0)
STILL = Camera("still", 0.0, 0.25, 5.0)


def world(*objects: SceneObject, camera: Camera = STILL) -> Scene:
    return Scene(objects, camera, 1.0, 0.8, "all", 0)


def changed(scene: Scene, height: int, width: int, frames: int = 1) -> torch.Tensor:
    """Where the objects and their shadows are: how far each pixel is from the empty world, (t, h, w)."""
    empty = replace(scene, objects=())
    with_objects, without = (s.render(frames, height, width, 8.0).int() for s in (scene, empty))
    return (with_objects - without).abs().amax(-1)


def redness(frames: torch.Tensor) -> torch.Tensor:
    return frames[..., 0].int() - frames[..., 1:].int().amax(-1)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (3, 48, 80), (2, 33, 17), (5, 16, 64)])
def test_any_size_and_duration(frames: int, height: int, width: int) -> None:
    clip = sample_scene("train", 4).render(frames, height, width, 8.0)
    assert clip.shape == (frames, height, width, 3) and clip.dtype == torch.uint8 and clip.is_contiguous()


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_same_arguments_same_bytes_and_frames_depend_on_time_alone(seed: int) -> None:
    scene = sample_scene("train", seed)
    clip = scene.render(9, 32, 32, 8.0)
    assert torch.equal(clip, scene.render(9, 32, 32, 8.0))
    assert torch.equal(clip[:4], scene.render(4, 32, 32, 8.0))
    assert torch.equal(clip[::2], scene.render(5, 32, 32, 4.0))


def test_chunks_of_frames_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = next(s for s in map(sample_scene, ["train"] * 40, range(40)) if len(s.objects) == 2)
    whole = scene.render(7, 24, 24, 8.0)
    monkeypatch.setitem(render.RAYS_AT_ONCE, "cpu", 24 * 24 * 4 * 2)
    assert torch.equal(whole, scene.render(7, 24, 24, 8.0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (96, 48)])
@pytest.mark.parametrize("camera", ["still", "orbit left", "zoom in"])
def test_pixels_are_where_the_truth_says(height: int, width: int, camera: str) -> None:
    obj = replace(SPHERE, motion="bounce", x=0.6, y=0.4)
    scene = world(obj, camera=Camera(camera, 0.05, 0.25, 5.0, 0.2))
    mask = redness(scene.render(9, height, width, 4.0)) > 60
    (seen,) = scene.truth(9, 4.0).at_aspect(width / height).objects
    for t in range(9):
        rows, columns = torch.nonzero(mask[t]).float().add(0.5).mean(0)
        assert abs(columns / width - seen.centres[t, 0]) < 0.015
        assert abs(rows / height - seen.centres[t, 1]) < 0.015


@pytest.mark.parametrize("shape", ["sphere", "cube", "cylinder"])
def test_shapes_have_their_extent(shape: str) -> None:
    camera = Camera("still", 0.0, 0.02, 30.0)  # far away and level: nearly parallel rays
    obj = replace(SPHERE, shape=shape, x=0.0)
    pixel = 30.0 * 2 * render.HALF_VIEW / 768
    mask = redness(world(obj, camera=camera).render(1, 768, 768, 8.0))[0] > 40
    height, width = (int(mask.any(axis).sum()) * pixel for axis in (1, 0))
    half_width = {"sphere": 1.0, "cube": 0.80, "cylinder": 0.78}[shape] * obj.radius
    assert width == pytest.approx(2 * half_width, abs=4 * pixel)
    assert height == pytest.approx(2 * obj.rest_height, abs=4 * pixel)


def test_every_colour_is_nearest_to_itself() -> None:
    palette = torch.tensor([ALBEDO[colour] for colour in COLOURS]).pow(1 / 2.2) * 255
    for index, colour in enumerate(COLOURS):
        frame = world(replace(SPHERE, colour=colour, x=0.0)).render(1, 64, 64, 8.0)[0].float()
        (seen,) = world(replace(SPHERE, x=0.0)).truth(1, 8.0).objects
        column, row = (seen.centres[0] * 64).long().tolist()
        patch = frame[row - 2 : row + 3, column - 2 : column + 3].mean((0, 1))
        assert int((palette - patch).norm(dim=1).argmin()) == index, colour


def test_the_nearer_object_is_seen_whatever_the_order() -> None:
    near, far = replace(SPHERE, x=0.0, y=-1.0), replace(SPHERE, colour="blue", x=0.0, y=1.2)
    one, two = (world(*order).render(1, 64, 64, 8.0) for order in ((near, far), (far, near)))
    assert torch.equal(one, two)
    (seen, _) = world(near, far).truth(1, 8.0).objects
    column, row = (seen.centres[0] * 64).long().tolist()
    assert redness(one)[0, row, column] > 60


def test_the_ground_is_dark_away_from_the_sun_and_only_there() -> None:
    obj = replace(SPHERE, motion="bounce", x=0.0, phase=0.5, period=1.2)  # in the air: the shadow is apart
    scene = world(obj)
    frame, empty = (s.render(1, 96, 96, 8.0)[0].int() for s in (scene, world()))
    red = redness(frame) > 60
    edge = torch.nn.functional.max_pool2d(red[None].float(), 5, 1, 2)[0] > 0
    dark = ((empty - frame).amin(-1) > 15) & ~edge
    sky = empty[..., 2] - empty[..., 0] > 25
    assert dark.sum() > 40 and not (dark & sky).any()
    object_column = torch.nonzero(red)[:, 1].float().mean()
    assert torch.nonzero(dark)[:, 1].float().mean() < object_column - 5, "the sun is on the right"
    assert torch.nonzero(dark)[:, 0].float().mean() > torch.nonzero(red)[:, 0].float().mean()


def test_objects_shade_each_other() -> None:
    lit = replace(SPHERE, x=-0.5, y=0.9, colour="white")
    blocker = replace(SPHERE, x=0.35, y=0.35, motion="bounce", phase=0.5, period=1.5)
    sun = {"sun_azimuth": 1.0, "sun_elevation": 0.8}
    alone, both = (replace(world(*objs), **sun).render(1, 96, 96, 8.0)[0].int() for objs in ((lit,), (lit, blocker)))
    on_lit = changed(world(lit), 96, 96)[0] > 30
    darker = (alone - both).amin(-1) > 40
    assert (on_lit & darker & (redness(both) < 20)).sum() > 20


def test_rolling_shows_and_sliding_does_not_turn() -> None:
    for motion, shown in (("roll", True), ("slide left", False)):
        obj = replace(SPHERE, motion=motion, speed=0.0, colour="white", yaw=0.0)
        turned = replace(obj, yaw=0.7)
        same = torch.equal(world(obj).render(1, 48, 48, 8.0), world(turned).render(1, 48, 48, 8.0))
        assert same is not shown


def test_more_rays_change_little() -> None:
    scene = sample_scene("train", 4)
    coarse, fine = (render_scene(scene, 3, 48, 48, 2.0, supersample=n).float() for n in (2, 6))
    assert (coarse - fine).abs().mean() < 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 7}, "height=7.*use 8"),
        ({"width": 0}, "width=0.*use 8"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"frame_rate": -1.0}, "frame_rate=-1"),
        ({"supersample": 0}, "supersample=0"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        render_scene(world(SPHERE), **{"num_frames": 1, "height": 16, "width": 16, "frame_rate": 8.0} | arguments)
    assert "\n" not in str(error.value)
