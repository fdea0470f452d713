"""Rendering: what the truth says is what the pixels show, at any size, duration and frame rate."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from data.world import render, sample_scene
from data.world.camera import HALF_VIEW, Camera
from data.world.caption import COLOURS, GROUNDS, MATERIALS, SHAPES, TIMES_OF_DAY
from data.world.motion import FORMS, SceneObject
from data.world.render import ALBEDO, DARK, LIGHTS, render_scene
from data.world.scene import SUN_ELEVATIONS, Scene

SPHERE = SceneObject("sphere", "red", "large", "stay", 0.2, 0.0)
STILL = Camera("still", 0.0, 0.25, 5.0)
SETTINGS = list(product(GROUNDS, TIMES_OF_DAY))


def world(*objects: SceneObject, camera: Camera = STILL, ground: str = "sand", time_of_day: str = "day") -> Scene:
    elevation = sum(SUN_ELEVATIONS[time_of_day]) / 2.0
    return Scene(objects, camera, 1.0, elevation, "all", 0, ground, time_of_day)


def changed(scene: Scene, height: int, width: int, frames: int = 1) -> torch.Tensor:
    """Where the objects and their shadows are: how far each pixel is from the empty world, (t, h, w)."""
    empty = replace(scene, objects=())
    with_objects, without = (s.render(frames, height, width, 8.0).int() for s in (scene, empty))
    return (with_objects - without).abs().amax(-1)


def linear(frames: torch.Tensor) -> torch.Tensor:
    """Light, each channel in [0, 1], of encoded frames."""
    return (frames.double() / 255.0).pow(2.2)


def silhouette(scene: Scene, size: int, wider: int = 0) -> torch.Tensor:
    """Where the first object is, and not its shadow, by how its colour changes the picture: (h, w) bool.

    wider: by so many pixels on each side; narrower if negative.
    """
    first, *others = scene.objects
    frames = [
        replace(scene, objects=(replace(first, colour=colour, material="matte"), *others)).render(1, size, size, 8.0)
        for colour in ("red", "cyan")
    ]
    mask = ((frames[0].int() - frames[1].int()).abs().amax(-1) > 30).float()
    sign = 1.0 if wider >= 0 else -1.0
    return F.max_pool2d(sign * mask, 2 * abs(wider) + 1, 1, abs(wider))[0] * sign > 0.5


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
    scene = next(s for s in map(sample_scene, ["train"] * 40, range(40)) if len(s.objects) > 1)
    whole = scene.render(7, 24, 24, 8.0)
    monkeypatch.setitem(render.RAYS_AT_ONCE, "cpu", 24 * 24 * 4 * 2)
    assert torch.equal(whole, scene.render(7, 24, 24, 8.0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (96, 48)])
@pytest.mark.parametrize("camera", ["still", "pan right", "orbit left", "zoom in"])
def test_pixels_are_where_the_truth_says(height: int, width: int, camera: str) -> None:
    obj = replace(SPHERE, motion="bounce", x=0.6, y=0.4)
    scene = world(obj, camera=Camera(camera, 0.05, 0.25, 5.0, 0.2))
    mask = redness(scene.render(9, height, width, 4.0)) > 60
    (seen,) = scene.truth(9, 4.0).at_aspect(width / height).objects
    for t in range(9):
        rows, columns = torch.nonzero(mask[t]).float().add(0.5).mean(0)
        assert abs(columns / width - seen.centres[t, 0]) < 0.015
        assert abs(rows / height - seen.centres[t, 1]) < 0.015


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_their_extent(shape: str) -> None:
    camera = Camera("still", 0.0, 0.02, 30.0)  # far away and level: nearly parallel rays
    obj = replace(SPHERE, shape=shape, x=0.0)
    pixel = 30.0 * 2 * HALF_VIEW / 768
    mask = redness(world(obj, camera=camera).render(1, 768, 768, 8.0))[0] > 40
    height, width = (int(mask.any(axis).sum()) * pixel for axis in (1, 0))
    assert width == pytest.approx(2 * FORMS[shape].foot * obj.radius, abs=4 * pixel)
    assert height == pytest.approx(2 * obj.rest_height, abs=4 * pixel)


def test_what_grows_is_seen_to_grow() -> None:
    frames = world(replace(SPHERE, x=0.0, size="small", motion="grow")).render(2, 96, 96, 0.2)  # at 0 and at 5 s
    before, after = (redness(frames) > 60).sum((1, 2)).tolist()
    assert 1.4**2 * before < after < 1.9**2 * before, "1.6 times as wide"


def test_a_torus_has_a_hole() -> None:
    scene = world(replace(SPHERE, shape="torus", x=0.0))
    red = redness(scene.render(1, 96, 96, 8.0))[0] > 60
    row, column = (scene.truth(1, 8.0).objects[0].centres[0].flip(0) * 96).long().tolist()
    assert not red[row, column]
    assert red[row, :column].any() and red[row, column:].any() and red[:row, column].any() and red[row:, column].any()


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
    edge = F.max_pool2d(red[None].float(), 5, 1, 2)[0] > 0
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


def test_turning_shows_on_what_is_checkered_and_nowhere_else() -> None:
    for material, shown in (("checkered", True), ("matte", False), ("shiny", False)):
        obj = replace(SPHERE, motion="roll", direction="left", colour="white", material=material)
        turned = replace(obj, yaw=0.7)
        same = torch.equal(world(obj).render(1, 48, 48, 8.0), world(turned).render(1, 48, 48, 8.0))
        assert same is not shown


@pytest.mark.parametrize("shape", SHAPES)
def test_checkered_shows_two_tones_of_the_colour(shape: str) -> None:
    obj = replace(SPHERE, shape=shape, colour="white", yaw=0.4)
    scene = world(obj)
    body = silhouette(scene, 96, wider=-1)
    matte, checkered = (
        linear(world(replace(obj, material=material)).render(1, 96, 96, 8.0)[0, body])
        for material in ("matte", "checkered")
    )
    tone = (checkered / matte).mean(1)
    light, dark = tone > 0.9, (tone - DARK).abs() < 0.15
    assert 0.2 < light.double().mean() < 0.8 and 0.2 < dark.double().mean() < 0.8
    assert (light | dark).double().mean() > 0.75, "sharp edges between"


@pytest.mark.parametrize("time_of_day", TIMES_OF_DAY)
@pytest.mark.parametrize("shape", ["sphere", "torus"])
def test_what_is_shiny_has_a_brighter_highlight_than_what_is_matte(shape: str, time_of_day: str) -> None:
    scenes = [
        world(replace(SPHERE, shape=shape, yaw=0.4, material=material), time_of_day=time_of_day)
        for material in ("matte", "shiny")
    ]
    body = silhouette(scenes[0], 96, wider=-2)
    matte, shiny = (linear(scene.render(1, 96, 96, 8.0)[0, body]) for scene in scenes)
    whitest = [light.amin(1).amax() for light in (matte, shiny)]  # a highlight has the sun's colour, not its own
    assert whitest[1] > 2.0 * whitest[0]


@pytest.mark.parametrize("time_of_day", TIMES_OF_DAY)
def test_grounds_differ_in_colour_and_have_a_pattern(time_of_day: str) -> None:
    frames = [world(ground=ground, time_of_day=time_of_day).render(1, 64, 64, 8.0)[0, 32:] for ground in GROUNDS]
    colours = torch.stack([frame.double().mean((0, 1)) for frame in frames])
    assert torch.pdist(colours).min() > 15.0
    for frame in frames:
        rows = frame.double().mean(-1)
        assert (rows - rows.mean(1, keepdim=True)).std() > 2.0, "it changes along a row"
    shares = colours / colours.sum(1, keepdim=True)
    assert shares.argmax(0).tolist() == [0, 1, 2], "sand is the reddest, grass the greenest, stone the bluest"


@pytest.mark.parametrize("ground", GROUNDS)
def test_nights_are_darker_than_dusk_and_day(ground: str) -> None:
    for obj in ((), (replace(SPHERE, colour="white"),)):
        day, dusk, night = (
            linear(world(*obj, ground=ground, time_of_day=time).render(1, 32, 32, 8.0)).mean() for time in TIMES_OF_DAY
        )
        assert night < 0.5 * dusk < dusk < day


@pytest.mark.parametrize(("ground", "time_of_day"), SETTINGS)
def test_colours_are_told_apart_in_every_setting_and_material(ground: str, time_of_day: str) -> None:
    obj = replace(SPHERE, x=0.0)
    setting = {"ground": ground, "time_of_day": time_of_day}
    empty = world(**setting).render(1, 32, 32, 8.0)[0].double()
    body = silhouette(world(obj), 32)
    for material in MATERIALS:
        scenes = (world(replace(obj, colour=colour, material=material), **setting) for colour in COLOURS)
        seen = torch.stack([scene.render(1, 32, 32, 8.0)[0, body].double() for scene in scenes])  # colours pixels 3
        assert torch.pdist(seen.mean(1)).min() > 35.0, material
        assert (seen - empty[body]).norm(dim=-1).mean(1).min() > 25.0, "from the background"


def shaded(height: float) -> torch.Tensor:
    """How much of the sun's light an object so high above the ground takes from it, over the most it takes anywhere."""
    scene = world(replace(SPHERE, x=0.0, motion="fall", height=height))
    with_shadow, without = (
        linear(render_scene(one, 1, 128, 128, 8.0, supersample=1)[0]) for one in (scene, replace(scene, objects=()))
    )
    lost = 1.0 - (with_shadow / without.clamp(min=1e-3)).mean(-1)
    lost = lost[~silhouette(scene, 128, wider=2)]
    return lost[lost > 0.02] / lost.max()


def test_shadows_have_soft_edges_that_widen_with_height() -> None:
    shares = []
    for height in (0.0, 1.0):
        lost = shaded(height)
        assert (lost > 0.9).double().mean() > 0.3, "the core is dark"
        shares.append(float(((lost > 0.1) & (lost < 0.85)).double().mean()))
    assert 0.01 < shares[0] < shares[1] < 0.7
    lost = shaded(1.0)
    assert all(((lost > low) & (lost < low + 0.2)).any() for low in (0.15, 0.4, 0.65)), "in several steps"


@pytest.mark.parametrize(("ground", "time_of_day"), SETTINGS)
def test_distant_ground_fades_into_the_horizon(ground: str, time_of_day: str) -> None:
    frame = world(ground=ground, time_of_day=time_of_day).render(1, 128, 128, 8.0)[0]
    horizon = torch.tensor(LIGHTS[time_of_day].horizon).pow(1 / 2.2) * 255.0
    away = (frame.float() - horizon).norm(dim=-1).mean(1)  # by row, from the top
    nearest = int(away.argmin())
    assert 0 < nearest < 40 and away[nearest] < 10.0
    near_ground = away[nearest + 2 :: 8]
    assert (near_ground.diff() > -0.05 * near_ground[-1]).all() and near_ground[-1] > 4.0 * near_ground[0]


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
