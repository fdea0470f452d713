"""Shapes: where rays meet them is where a slow march along the ray enters them, and the pattern alternates."""

import math

import pytest
import torch
import torch.nn.functional as F

from data.world.caption import SHAPES
from data.world.motion import (
    CONE_HALF_HEIGHT,
    CONE_RADIUS,
    CUBE_HALF,
    CYLINDER_HALF_HEIGHT,
    CYLINDER_RADIUS,
    FORMS,
    TORUS_RING,
    TORUS_TUBE,
)
from data.world.shapes import FAR, TORUS_TOUCH, WEDGES, is_dark, meet

TOUCH = {shape: 1.2 * TORUS_TOUCH if shape == "torus" else 1e-9 for shape in SHAPES}  # how near a meeting is


def outside(shape: str, point: torch.Tensor) -> torch.Tensor:
    """How far points (3, ...) are outside a shape, at most; negative inside, by no more than the depth."""
    aside, above = torch.hypot(point[0], point[1]), point[2]
    match shape:
        case "sphere":
            return point.norm(dim=0) - 1.0
        case "cube":
            return point.abs().amax(0) - CUBE_HALF
        case "cylinder":
            return torch.maximum(aside - CYLINDER_RADIUS, above.abs() - CYLINDER_HALF_HEIGHT)
        case "cone":
            slope = CONE_RADIUS / (2.0 * CONE_HALF_HEIGHT)
            side = (aside - slope * (CONE_HALF_HEIGHT - above)) / math.hypot(1.0, slope)
            return torch.maximum(side, -CONE_HALF_HEIGHT - above)
    return torch.hypot(aside - TORUS_RING, above) - TORUS_TUBE


def random_rays(count: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins 4 away from the shape's centre, rays of any length towards places in and around the shape: (3, n)."""
    stream = torch.Generator().manual_seed(0)
    origin, aim, length = (torch.randn(k, count, generator=stream, dtype=torch.float64) for k in (3, 3, 1))
    origin = 4.0 * F.normalize(origin, dim=0)
    return origin.to(dtype), ((0.6 * aim - origin) * length.abs().add(0.1)).to(dtype)


def surface(shape: str, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and normals (3, n) that random rays meet."""
    hit, point, normal = meet(shape, *random_rays(count))
    return point[:, hit < FAR], normal[:, hit < FAR]


@pytest.mark.parametrize("shape", SHAPES)
def test_meetings_lie_on_the_surface_and_on_the_ray(shape: str) -> None:
    origin, ray = random_rays(2000)
    hit, point, _ = meet(shape, origin, ray)
    met = hit < FAR
    assert 400 < met.sum() < 1900
    assert (outside(shape, point[:, met]).abs() <= TOUCH[shape]).all()
    torch.testing.assert_close(point[:, met], (origin + hit * ray)[:, met])


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_unit_point_outwards_and_against_the_ray(shape: str) -> None:
    origin, ray = random_rays(2000)
    hit, point, normal = meet(shape, origin, ray)
    met = hit < FAR
    point, normal, ray = point[:, met].requires_grad_(), normal[:, met], F.normalize(ray[:, met], dim=0)
    torch.testing.assert_close(normal.norm(dim=0), torch.ones(point.shape[1], dtype=torch.float64))
    assert ((normal * ray).sum(0) < (0.3 if shape == "torus" else 1e-9)).all(), "a grazed torus is met a little late"
    assert ((normal * ray).sum(0) < 1e-9).double().mean() > 0.97
    (outwards,) = torch.autograd.grad(outside(shape, point).sum(), point)
    torch.testing.assert_close(normal, outwards)


@pytest.mark.parametrize("shape", SHAPES)
def test_meetings_agree_with_a_march_along_the_ray(shape: str) -> None:
    origin, ray = random_rays(1000)
    length = ray.norm(dim=0)
    step = 0.004
    reached = torch.arange(2.5, 5.5, step, dtype=torch.float64)
    places = origin[..., None] + (ray / length)[..., None] * reached  # 3 n steps
    gap = outside(shape, places)
    hit, _, _ = meet(shape, origin, ray)
    nearest = gap.amin(1)
    missed = (hit[nearest < -0.01] == FAR).double().mean()
    assert missed <= (0.01 if shape == "torus" else 0.0), "few rays that graze a torus first are lost, no others"
    assert (hit[nearest > 0.01] == FAR).all(), "it meets what the ray passes by"
    assert ((nearest.abs() < 0.01).double().mean() < 0.05) and (hit < FAR).any() and (hit == FAR).any()
    clear = (nearest < -0.05) & (hit < FAR)
    late = (reached[(gap < 0.0).double().argmax(1)] - hit * length)[clear]
    assert (late > -1e-9).all(), "not later than the march"
    assert (late < step).double().mean() > (0.9 if shape == "torus" else 0.999), "nor earlier, but what grazes a torus"


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_changes_little(shape: str) -> None:
    fine, coarse = (meet(shape, *random_rays(4000, dtype))[0].double() for dtype in (torch.float64, torch.float32))
    same = (fine < FAR) == (coarse < FAR)
    assert same.double().mean() > 0.998
    met = same & (fine < FAR)
    assert ((fine - coarse)[met].abs() < 1e-4 * fine[met]).double().mean() > 0.99


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_that_leave_the_surface_do_not_meet_it_at_once(shape: str) -> None:
    point, normal = surface(shape)
    point = point - outside(shape, point) * normal  # what touches a torus may be a little off it
    ray = torch.randn(point.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ray = F.normalize(ray, dim=0)
    facing = (ray * normal).sum(0)
    ray = torch.where(facing < 0.0, ray - 2.0 * facing * normal, ray)  # all leave
    leaving = facing.abs() > 0.1
    hit, _, _ = meet(shape, point[:, leaving], ray[:, leaving])
    assert hit.min() > (0.1 if shape == "torus" else FAR / 2), "only a torus may be met again, across its hole"


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_behind_the_start_of_a_ray_is_not_met(shape: str) -> None:
    origin, ray = random_rays(500)
    assert (meet(shape, origin, -ray)[0] == FAR).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_along_an_axis_are_met_where_the_constants_say(shape: str) -> None:
    form = FORMS[shape]
    off = 1e-3 if shape != "torus" else TORUS_RING
    side, top = torch.tensor([[5.0], [0.0], [0.0]]), torch.tensor([[off], [0.0], [5.0]])
    if shape == "cone":
        side[2] = 1e-3 - CONE_HALF_HEIGHT
    across, down = (meet(shape, start, torch.tensor(way))[0] for start, way in ((side, X), (top, Z)))
    height = TORUS_TUBE if shape == "torus" else form.half_height
    assert float(across) == pytest.approx(5.0 - form.foot, abs=TORUS_TOUCH)
    assert float(down) == pytest.approx(5.0 - height, abs=TORUS_TOUCH)


X, Z = [[-1.0], [0.0], [0.0]], [[0.0], [0.0], [-1.0]]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_measures_of_a_shape_are_those_of_its_surface(shape: str) -> None:
    form = FORMS[shape]
    point, _ = surface(shape, 40000)
    if shape == "torus":  # it stands upright, its axis along y
        point = torch.stack((point[0], point[2], point[1]))
    measured = {
        "half_height": point[2].abs().max(),
        "foot": point[0].abs().max(),
        "girth": point[:2].norm(dim=0).max(),
        "bound": point.norm(dim=0).max(),
    }
    for name, value in measured.items():
        assert float(value) == pytest.approx(getattr(form, name), abs=0.03), name
        assert value <= getattr(form, name) + TOUCH[shape], name
    places = torch.rand(3, 200_000, generator=torch.Generator().manual_seed(2)) * 3.0 - 1.5
    assert float((outside(shape, places) < 0.0).double().mean()) * 27.0 == pytest.approx(form.volume, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_dark_fields_cover_about_half(shape: str) -> None:
    point, _ = surface(shape)
    assert 0.42 < is_dark(shape, point).double().mean() < 0.58


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "cube"])
@pytest.mark.parametrize("above", [-0.4, 0.3])
def test_dark_and_light_wedges_alternate_around_the_axis(shape: str, above: float) -> None:
    angle = (torch.arange(3600) + 0.5) * (2.0 * math.pi / 3600)
    ring = torch.stack((0.5 * angle.cos(), 0.5 * angle.sin(), torch.full_like(angle, above)))
    dark = is_dark(shape, ring)
    changes = torch.nonzero(dark != dark.roll(1)).squeeze(1)
    assert len(changes) == WEDGES and (changes.diff() == 3600 // WEDGES).all()
    upside_down = is_dark(shape, ring * torch.tensor([[1.0], [1.0], [-1.0]]))
    assert (dark == upside_down).all() if shape == "torus" else (dark != upside_down).all(), "as on a chess board"


def test_neighbouring_fields_of_a_cube_differ() -> None:
    point, _ = surface("cube")
    for axis in range(3):
        across = point.clone()
        across[axis] *= -1.0
        assert (is_dark("cube", point) != is_dark("cube", across)).all()
