"""Motion: paths are what their names say, rolling does not slip, cameras look at the target."""

import math

import pytest
import torch

from data.world.motion import (
    CAMERA_TARGET,
    GRAVITY,
    ZOOM_FACTOR,
    Camera,
    SceneObject,
    camera_path,
    frame_times,
    positions,
    rotations,
)

TIMES = frame_times(200, 25.0)


def thing(motion: str, direction: str = "", shape: str = "sphere") -> SceneObject:
    return SceneObject(shape, "red", "large", motion, 0.3, -0.2, direction, 0.25, 1.3, 0.4, 0.7, 0.5)


def test_frame_times_start_at_zero_and_step_by_the_rate() -> None:
    assert frame_times(3, 8.0).tolist() == [0.0, 0.125, 0.25]


@pytest.mark.parametrize(("frames", "rate", "name"), [(0, 8.0, "num_frames=0"), (4, 0.0, "frame_rate=0.0")])
def test_no_frames_or_no_rate_is_one_clear_line(frames: int, rate: float, name: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        frame_times(frames, rate)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("direction", "heading"),
    [("left", (-1, 0)), ("right", (1, 0)), ("towards", (0, -1)), ("away", (0, 1))],
)
def test_slides_go_steadily_where_they_say(direction: str, heading: tuple[int, int]) -> None:
    steps = positions(thing(f"slide {direction}", direction), TIMES).diff(dim=0) * 25.0
    wanted = 0.25 * torch.tensor([*heading, 0], dtype=torch.float64)
    torch.testing.assert_close(steps, wanted.expand_as(steps), atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
@pytest.mark.parametrize("direction", ["left", "right"])
def test_rolling_does_not_slip(shape: str, direction: str) -> None:
    obj = thing("roll", direction, shape)
    step = 1e-4
    times = torch.tensor([1.0 - step, 1.0, 1.0 + step], dtype=torch.float64)
    centres, turns = positions(obj, times), rotations(obj, times)
    ground = torch.tensor([0.0, 0.0, -obj.rest_height], dtype=torch.float64)
    touching = turns[1].T @ ground  # the point of the body that touches the ground at 1 s, in its own axes
    places = centres + turns @ touching
    assert places[1, 2].abs() < 1e-9
    assert ((places[2] - places[0]) / (2 * step)).norm() < 1e-6


@pytest.mark.parametrize("motion", ["roll", "bounce", "orbit"])
def test_rotations_are_rotations(motion: str) -> None:
    turns = rotations(thing(motion, "left"), TIMES)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3, dtype=torch.float64).expand_as(turns))
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(200, dtype=torch.float64))


def test_bounces_fall_freely_and_touch_the_ground() -> None:
    obj = thing("bounce")
    times = frame_times(4000, 1000.0)
    height = positions(obj, times)[:, 2] - obj.rest_height
    assert height.min() >= 0 and height.min() < 1e-2
    acceleration = height.diff(n=2) * 1000.0**2
    falling = acceleration < 0
    assert falling.double().mean() > 0.99
    torch.testing.assert_close(acceleration[falling].median(), torch.tensor(-GRAVITY, dtype=torch.float64))
    assert height.diff().abs().max() < 2.5 * 1e-3, "a jump in height"


def test_orbits_keep_their_radius_period_and_sense() -> None:
    for direction, sign in (("clockwise", -1.0), ("counterclockwise", 1.0)):
        obj = thing("orbit", direction)
        arm = positions(obj, TIMES)[:, :2] - torch.tensor([obj.x, obj.y], dtype=torch.float64)
        torch.testing.assert_close(arm.norm(dim=1), torch.full((200,), 0.7, dtype=torch.float64))
        turning = arm[:-1, 0] * arm[1:, 1] - arm[:-1, 1] * arm[1:, 0]
        assert (turning * sign > 0).all()
        torch.testing.assert_close(
            positions(obj, torch.tensor([0.2])), positions(obj, torch.tensor([0.2 + obj.period]))
        )


def test_a_motion_without_a_path_is_an_error() -> None:
    with pytest.raises(ValueError, match="motion='fly'"):
        positions(thing("fly"), TIMES)


@pytest.mark.parametrize("motion", ["still", "orbit left", "orbit right", "zoom in", "zoom out"])
def test_cameras_look_at_the_target_upright(motion: str) -> None:
    eyes, axes = camera_path(Camera(motion, 0.05, 0.25, 5.0, 0.2), TIMES)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3, dtype=torch.float64).expand_as(axes))
    towards = torch.nn.functional.normalize(torch.tensor(CAMERA_TARGET, dtype=torch.float64) - eyes, dim=1)
    torch.testing.assert_close(axes[:, 2], towards)
    assert (axes[:, 0, 2].abs() < 1e-9).all() and (axes[:, 1, 2] > 0).all()
    torch.testing.assert_close(torch.linalg.cross(axes[:, 0], axes[:, 1]), -axes[:, 2])


def test_cameras_move_as_they_are_called() -> None:
    for motion, side in (("orbit left", -1.0), ("orbit right", 1.0)):
        eyes, axes = camera_path(Camera(motion, 0.0, 0.25, 5.0, 0.2), TIMES)
        moved = (eyes.diff(dim=0) * axes[:-1, 0]).sum(1)
        assert (moved * side > 0).all()
    still, _ = camera_path(Camera("still", 0.0, 0.25, 5.0), TIMES)
    assert (still == still[0]).all()


def test_zooms_reach_their_factor_in_ten_seconds_and_then_settle() -> None:
    times = frame_times(1200, 10.0)
    for motion, sign in (("zoom in", -1.0), ("zoom out", 1.0)):
        eyes, _ = camera_path(Camera(motion, 0.0, 0.25, 5.0), times)
        distance = (eyes - torch.tensor(CAMERA_TARGET, dtype=torch.float64)).norm(dim=1)
        assert math.isclose(distance[100], 5.0 * ZOOM_FACTOR**sign, rel_tol=1e-9)
        assert (distance.diff()[:300] * sign > 0).all()
        assert 0.45 < distance[-1] / 5.0 < 2.2
        assert distance.log().diff().diff().abs().max() < 2e-3, "a jolt"
