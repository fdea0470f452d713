"""Rays against the five shapes, each of radius 1 in its own axes, and the checkered pattern on them.

Rays are (3, n) origins and directions of any length; a meeting is told as a multiple of the direction.
"""

import math

import torch

from data.world.motion import (
    CONE_HALF_HEIGHT,
    CONE_RADIUS,
    CUBE_HALF,
    CYLINDER_HALF_HEIGHT,
    CYLINDER_RADIUS,
    TORUS_RING,
    TORUS_TUBE,
)

FAR = 1e9
NEAR = 1e-4  # meetings nearer than this are with the surface that the ray starts on
WEDGES = 6  # dark and light ones about a shape's own axis
MARCHES = 24  # steps along a ray towards a torus, which has no short closed form
TORUS_TOUCH = 0.008  # distance from a torus at which a ray has met it

Meeting = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Distance (n,), `FAR` where the ray misses; point and normal (3, n) in the shape's own axes."""


def meet(shape: str, origin: torch.Tensor, ray: torch.Tensor) -> Meeting:
    """First meeting of rays with a shape; the normal has length 1 where there is one."""
    if shape == "sphere":
        return _meet_sphere(origin, ray)
    if shape == "cube":
        return _meet_cube(origin, ray)
    if shape == "cylinder":
        return _meet_cylinder(origin, ray)
    if shape == "cone":
        return _meet_cone(origin, ray)
    assert shape == "torus", shape
    return _meet_torus(origin, ray)


def is_dark(shape: str, point: torch.Tensor) -> torch.Tensor:
    """Which points (3, n) of a shape lie on a dark field of its checkered pattern: (n,) bool."""
    if shape == "cube":
        return (point[0] > 0.0) ^ (point[1] > 0.0) ^ (point[2] > 0.0)
    wedge = torch.floor(torch.atan2(point[1], point[0]) * (WEDGES / (2.0 * math.pi)))
    odd = torch.remainder(wedge, 2.0) > 0.5
    if shape == "torus":
        return odd
    return odd ^ (point[2] > (-0.25 if shape == "cone" else 0.0))


def _meet_sphere(origin: torch.Tensor, ray: torch.Tensor) -> Meeting:
    enter, leave = _within_round(origin, ray, 1.0)
    hit = torch.where((enter < leave) & (enter > NEAR), enter, FAR)
    point = origin + enter * ray
    return hit, point, point


def _meet_cube(origin: torch.Tensor, ray: torch.Tensor) -> Meeting:
    low, high = _within_slab(origin, ray, CUBE_HALF)
    enter, leave = low.amax(0), high.amin(0)
    hit = torch.where((enter < leave) & (enter > NEAR), enter, FAR)
    face = (low == enter).to(origin.dtype)
    return hit, origin + enter * ray, -torch.sign(ray) * face / face.sum(0)


def _meet_cylinder(origin: torch.Tensor, ray: torch.Tensor) -> Meeting:
    side_in, side_out = _within_round(origin[:2], ray[:2], CYLINDER_RADIUS)
    end_in, end_out = _within_slab(origin[2], ray[2], CYLINDER_HALF_HEIGHT)
    enter, leave = torch.maximum(side_in, end_in), torch.minimum(side_out, end_out)
    hit = torch.where((enter < leave) & (enter > NEAR), enter, FAR)
    point = origin + enter * ray
    zero = torch.zeros_like(enter)
    side = torch.stack((point[0] / CYLINDER_RADIUS, point[1] / CYLINDER_RADIUS, zero))
    end = torch.stack((zero, zero, -torch.sign(ray[2])))
    return hit, point, torch.where(end_in > side_in, end, side)


def _meet_cone(origin: torch.Tensor, ray: torch.Tensor) -> Meeting:
    """Apex up: x² + y² = (slope·(top − z))² between the bottom and the top, closed by a disc at the bottom."""
    slope = CONE_RADIUS / (2.0 * CONE_HALF_HEIGHT)
    down, fall = CONE_HALF_HEIGHT - origin[2], -ray[2]  # depth below the apex, and how fast the ray gains it
    a = ray[0] ** 2 + ray[1] ** 2 - (slope * fall) ** 2
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    b = origin[0] * ray[0] + origin[1] * ray[1] - slope**2 * down * fall
    c = origin[0] ** 2 + origin[1] ** 2 - (slope * down) ** 2
    root = b * b - a * c
    half = root.clamp(min=0.0).sqrt()
    hit = torch.full_like(a, FAR)
    for distance in ((-b - half) / a, (half - b) / a):
        depth = down + distance * fall
        on_side = (root > 0.0) & (distance > NEAR) & (depth > 0.0) & (depth < 2.0 * CONE_HALF_HEIGHT)
        hit = torch.where(on_side & (distance < hit), distance, hit)
    bottom = (2.0 * CONE_HALF_HEIGHT - down) / torch.where(fall.abs() < 1e-9, 1e-9, fall)
    aside = (origin[0] + bottom * ray[0]) ** 2 + (origin[1] + bottom * ray[1]) ** 2
    below = (bottom > NEAR) & (bottom < hit) & (aside < CONE_RADIUS**2)
    hit = torch.where(below, bottom, hit)
    point = origin + torch.where(hit < FAR, hit, 0.0) * ray
    away = torch.hypot(point[0], point[1]).clamp(min=1e-6) * math.hypot(1.0, slope)
    rise = torch.full_like(hit, slope / math.hypot(1.0, slope))
    side = torch.stack((point[0] / away, point[1] / away, rise))
    zero = torch.zeros_like(hit)
    return hit, point, torch.where(below, torch.stack((zero, zero, zero - 1.0)), side)


def _meet_torus(origin: torch.Tensor, ray: torch.Tensor) -> Meeting:
    """Sphere tracing (Hart 1996): as far along the ray at a time as the torus is away."""
    hit, point, normal = torch.full_like(origin[0], FAR), torch.zeros_like(origin), torch.zeros_like(origin)
    low, high = _within_slab(origin[2], ray[2], TORUS_TUBE)
    enter, leave = _within_round(origin[:2], ray[:2], TORUS_RING + TORUS_TUBE)
    start, stop = torch.maximum(low, enter).clamp(min=0.0), torch.minimum(high, leave)
    near = torch.nonzero(start < stop).squeeze(1)
    o, d = origin[:, near], ray[:, near]
    length = d.square().sum(0).sqrt()
    distance, gap = start[near] * length, torch.zeros_like(length)
    d = d / length
    for _ in range(MARCHES):
        place = o + distance * d
        aside = torch.hypot(place[0], place[1])
        gap = torch.hypot(aside - TORUS_RING, place[2]) - TORUS_TUBE
        distance = distance + gap
    met = (gap < TORUS_TOUCH) & (distance > NEAR) & (distance < stop[near] * length)
    place = o + distance * d
    aside = torch.hypot(place[0], place[1]).clamp(min=1e-6)
    ring = 1.0 - TORUS_RING / aside
    outward = torch.stack((place[0] * ring, place[1] * ring, place[2]))
    hit[near] = torch.where(met, distance / length, FAR)
    point[:, near] = place
    normal[:, near] = outward / outward.square().sum(0).sqrt().clamp(min=1e-6)
    return hit, point, normal


def _within_round(origin: torch.Tensor, ray: torch.Tensor, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays (k, n) enter and leave a ball (k = 3) or an endless cylinder about z (k = 2), if they do."""
    a = (ray * ray).sum(0).clamp(min=1e-12)
    b = (origin * ray).sum(0)
    root = b * b - a * ((origin * origin).sum(0) - radius**2)
    half = root.clamp(min=0.0).sqrt()
    missed = root <= 0.0
    return torch.where(missed, FAR, (-b - half) / a), torch.where(missed, -FAR, (half - b) / a)


def _within_slab(origin: torch.Tensor, ray: torch.Tensor, half: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays enter and leave -half <= coordinate <= half."""
    ray = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    one, two = (-half - origin) / ray, (half - origin) / ray
    return torch.minimum(one, two), torch.maximum(one, two)
