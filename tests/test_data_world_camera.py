"""Camera: it looks at the target, moves as it is called, and its picture is a pin-hole camera's."""

import math

import pytest
import torch
import torch.nn.functional as F

from data.world.camera import (
    CAMERA_TARGET,
    HALF_VIEW,
    PAN_ANGLE,
    PAN_SECONDS,
    ZOOM_FACTOR,
    Camera,
    camera_path,
    half_view,
    project,
    unproject,
)
from data.world.caption import CAMERAS
from data.world.motion import SETTLED, frame_times

TIMES = frame_times(200, 25.0)
TARGET = torch.tensor(CAMERA_TARGET, dtype=torch.float64)


def camera(motion: str, azimuth: float = 0.05) -> Camera:
    return Camera(motion, azimuth, 0.25, 5.0, 0.2 if motion.startswith("orbit") else 0.0)


def look_at_matrix(eye: torch.Tensor, target: torch.Tensor, aspect: float) -> torch.Tensor:
    """World to clip space, (4, 4), as graphics libraries build it; 42 degrees along the shorter side."""
    back = F.normalize(eye - target, dim=0)
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], dtype=eye.dtype), back), dim=0)
    view = torch.eye(4, dtype=eye.dtype)
    view[:3, :3] = torch.stack((right, torch.linalg.cross(back, right), back))
    view[:3, 3] = -view[:3, :3] @ eye
    focal = 1.0 / math.tan(math.radians(21.0))
    lens = torch.diag(torch.tensor([focal / max(aspect, 1.0), focal * min(aspect, 1.0), -1.0, 0.0], dtype=eye.dtype))
    lens[3, 2] = -1.0
    return lens @ view


@pytest.mark.parametrize("motion", CAMERAS)
def test_axes_are_upright_and_right_handed(motion: str) -> None:
    _, axes = camera_path(camera(motion), TIMES)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3, dtype=torch.float64).expand_as(axes))
    assert (axes[:, 0, 2].abs() < 1e-9).all() and (axes[:, 1, 2] > 0).all()
    torch.testing.assert_close(torch.linalg.cross(axes[:, 0], axes[:, 1]), -axes[:, 2])


@pytest.mark.parametrize("motion", [motion for motion in CAMERAS if not motion.startswith("pan")])
def test_cameras_that_do_not_pan_look_at_the_target(motion: str) -> None:
    eyes, axes = camera_path(camera(motion), TIMES)
    torch.testing.assert_close(axes[:, 2], F.normalize(TARGET - eyes, dim=1))


@pytest.mark.parametrize("motion", CAMERAS)
def test_distance_and_height_are_kept_by_all_but_zooms(motion: str) -> None:
    eyes, _ = camera_path(camera(motion), TIMES)
    distance = (eyes - TARGET).norm(dim=1)
    assert math.isclose(distance[0], 5.0, rel_tol=1e-12)
    torch.testing.assert_close((eyes[:, 2] - TARGET[2]) / distance, torch.full_like(distance, math.sin(0.25)))
    if not motion.startswith("zoom"):
        torch.testing.assert_close(distance, torch.full_like(distance, 5.0))


@pytest.mark.parametrize("azimuth", [-0.4, 0.0, 0.4])
def test_a_positive_azimuth_stands_to_the_right(azimuth: float) -> None:
    eyes, _ = camera_path(camera("still", azimuth), TIMES)
    assert (eyes == eyes[0]).all()
    assert math.isclose(math.atan2(eyes[0, 0], -eyes[0, 1]), azimuth, abs_tol=1e-12)


def test_orbits_go_to_the_side_they_name_at_their_speed() -> None:
    for motion, side in (("orbit left", -1.0), ("orbit right", 1.0)):
        eyes, axes = camera_path(camera(motion, 0.0), TIMES)
        assert ((eyes.diff(dim=0) * axes[:-1, 0]).sum(1) * side > 0).all()
        around = torch.atan2(eyes[:, 0], -eyes[:, 1])
        torch.testing.assert_close(around, side * 0.2 * TIMES)


def test_zooms_reach_their_factor_in_ten_seconds_and_then_settle() -> None:
    times = frame_times(1200, 10.0)
    for motion, sign in (("zoom in", -1.0), ("zoom out", 1.0)):
        eyes, _ = camera_path(camera(motion), times)
        distance = (eyes - TARGET).norm(dim=1)
        assert math.isclose(distance[100], 5.0 * ZOOM_FACTOR**sign, rel_tol=1e-9)
        assert (distance.diff()[:300] * sign > 0).all()
        assert 0.45 < distance[-1] / 5.0 < 2.2
        assert distance.log().diff().diff().abs().max() < 2e-3, "a jolt"


@pytest.mark.parametrize(("motion", "side"), [("pan left", -1.0), ("pan right", 1.0)])
def test_pans_turn_on_the_spot_to_the_side_they_name_and_settle(motion: str, side: float) -> None:
    times = frame_times(1000, 20.0)
    eyes, axes = camera_path(camera(motion), times)
    torch.testing.assert_close(eyes, camera_path(camera("still"), times)[0])
    forward = axes[:, 2]
    torch.testing.assert_close(forward[:, 2], torch.full_like(times, -math.sin(0.25)))
    heading = torch.atan2(forward[:, 0], forward[:, 1]) * side
    turned = heading - heading[0]
    assert (turned.diff()[:500] > 0).all()
    assert math.isclose(turned[round(PAN_SECONDS * 20)], PAN_ANGLE, rel_tol=1e-9)
    assert math.isclose(turned[-1], PAN_ANGLE * SETTLED, rel_tol=1e-6), "it comes to rest"
    assert turned.diff()[-20:].max() < 1e-6
    assert turned.diff().diff().abs().max() < 1e-3, "a jolt"


@pytest.mark.parametrize("motion", ["pan left", "pan right"])
def test_pans_are_symmetric_about_the_target(motion: str) -> None:
    times = torch.tensor([0.0, 1000.0], dtype=torch.float64)
    places, inside = project(TARGET.expand(2, 3), *camera_path(camera(motion), times), aspect=1.0)
    first, last = (places[:, 0] - 0.5).tolist()
    assert math.isclose(first, -last, rel_tol=1e-9) and inside.all()
    assert (first > 0.1) if motion == "pan right" else (first < -0.1), "the world goes the other way"


@pytest.mark.parametrize("aspect", [0.5, 1.0, 16 / 9])
@pytest.mark.parametrize("azimuth", [-0.3, 0.2])
def test_project_is_an_independent_pin_hole(aspect: float, azimuth: float) -> None:
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = 5.0 * math.cos(0.25)
    eye = TARGET + torch.tensor(
        [flat * math.sin(azimuth), -flat * math.cos(azimuth), 5.0 * math.sin(0.25)], dtype=torch.float64
    )
    clip = F.pad(points, (0, 1), value=1.0) @ look_at_matrix(eye, TARGET, aspect).T
    wanted = torch.stack((0.5 + 0.5 * clip[:, 0] / clip[:, 3], 0.5 - 0.5 * clip[:, 1] / clip[:, 3]), dim=1)
    eyes, axes = camera_path(camera("still", azimuth), torch.zeros(200, dtype=torch.float64))
    places, inside = project(points, eyes, axes, aspect)
    torch.testing.assert_close(places, wanted)
    assert torch.equal(inside, ((wanted > 0) & (wanted < 1)).all(1)) and 0 < inside.sum() < 200


def test_inside_is_in_front_and_within_the_border() -> None:
    eyes, axes = camera_path(camera("still"), torch.zeros(1, dtype=torch.float64))
    right, up, forward = axes[0]
    half_x, half_y = half_view(2.0)
    assert (half_x, half_y) == (2.0 * HALF_VIEW, HALF_VIEW)
    for aside, above, ahead, wanted in (
        (0.0, 0.0, 1.0, True),
        (0.0, 0.0, -1.0, False),
        (0.999, -0.999, 3.0, True),
        (1.001, 0.0, 3.0, False),
        (-1.001, 0.0, 3.0, False),
        (0.0, 1.001, 3.0, False),
        (0.0, -1.001, 3.0, False),
    ):
        point = eyes[0] + ahead * (forward + aside * half_x * right + above * half_y * up)
        _, inside = project(point[None], eyes, axes, aspect=2.0)
        assert bool(inside) is wanted, (aside, above, ahead)


@pytest.mark.parametrize("aspect", [1.0, 1.6, 0.5])
@pytest.mark.parametrize("motion", CAMERAS)
def test_points_come_back_out_of_the_picture(motion: str, aspect: float) -> None:
    eyes, axes = camera_path(camera(motion), TIMES)
    point = torch.tensor([0.7, -0.4, 0.9], dtype=torch.float64)
    seen = (axes @ (point - eyes).unsqueeze(-1)).squeeze(-1)  # t 3
    centres, _ = project(point.expand_as(eyes), eyes, axes, aspect)
    torch.testing.assert_close(unproject(centres, seen[:, 2:], aspect), seen)
