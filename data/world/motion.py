"""What moves in the world, and how: pure functions of time, in seconds.

World axes: x to the right and y away from the camera as it stands at time 0, z up; the ground is z = 0.
Lengths are in world units (a large sphere is about one unit across). All functions are defined for every
time, so a clip may have any duration and frame rate.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange

RADIUS = {"small": 0.45, "large": 0.68}  # units; a sphere's own, the measure of the other shapes
CUBE_HALF = 0.80
CYLINDER_RADIUS = 0.78
CYLINDER_HALF_HEIGHT = 0.88
CONE_RADIUS = 0.88
CONE_HALF_HEIGHT = 0.88
TORUS_RING = 0.70  # from the centre to the middle of the tube; a torus stands upright, as a wheel does
TORUS_TUBE = 0.25


@dataclass(frozen=True)
class Form:
    """A shape's measures for a radius of 1: half its height as it stands, how far it reaches along x from its
    centre (its `foot`), the radii of the upright cylinder and of the sphere that hold it, and its volume."""

    half_height: float
    foot: float
    girth: float
    bound: float
    volume: float


FORMS = {
    "sphere": Form(1.0, 1.0, 1.0, 1.0, 4.0 / 3.0 * math.pi),
    "cube": Form(CUBE_HALF, CUBE_HALF, math.sqrt(2.0) * CUBE_HALF, math.sqrt(3.0) * CUBE_HALF, (2.0 * CUBE_HALF) ** 3),
    "cylinder": Form(
        CYLINDER_HALF_HEIGHT,
        CYLINDER_RADIUS,
        CYLINDER_RADIUS,
        math.hypot(CYLINDER_RADIUS, CYLINDER_HALF_HEIGHT),
        2.0 * math.pi * CYLINDER_RADIUS**2 * CYLINDER_HALF_HEIGHT,
    ),
    "cone": Form(
        CONE_HALF_HEIGHT,
        CONE_RADIUS,
        CONE_RADIUS,
        math.hypot(CONE_RADIUS, CONE_HALF_HEIGHT),
        2.0 / 3.0 * math.pi * CONE_RADIUS**2 * CONE_HALF_HEIGHT,
    ),
    "torus": Form(
        TORUS_RING + TORUS_TUBE,
        TORUS_RING + TORUS_TUBE,
        TORUS_RING + TORUS_TUBE,
        TORUS_RING + TORUS_TUBE,
        2.0 * math.pi**2 * TORUS_RING * TORUS_TUBE**2,
    ),
}

# Free fall in the world, units/s^2. Low, so that hops of 1 to 1.6 s are 0.45 to 1.2 units high.
GRAVITY = 3.6
REBOUND = 0.35  # speed after landing over speed before, of what falls
REBOUNDS = 4

GROW_SECONDS, GROW_FACTOR = 5.0, 1.6
RISE_SECONDS = 5.0
# How long what slides or rolls keeps its speed before it slows down and comes to rest; the same after a collision.
RUN_SECONDS = 5.0
HIT_SECONDS = 2.5

SETTLED = 1.4  # where `settle` comes to rest
HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "towards": (0.0, -1.0), "away": (0.0, 1.0)}


@dataclass(frozen=True)
class SceneObject:
    """One object: its words and the numbers of its motion.

    x, y: where it stands on the ground at time 0 (`orbit`: the centre of its circle), units. direction:
    "left", "right", "towards" or "away" for slides, "left" or "right" for what rolls, collides or passes
    behind, "clockwise" or "counterclockwise" (seen from above) for orbits and spins, else "". speed: units/s
    at first of what slides, rolls or passes, and before a collision; 0 for the one that is hit. period: seconds of one
    hop or one turn. phase: where in the period it is at time 0, in [0, 1). path_radius: units, of orbits. yaw:
    its rotation about the vertical axis at time 0, radians. height: units, of a fall at time 0, of a rise after
    `RISE_SECONDS`. event: seconds, of a collision. after: units/s along the direction after it, negative for
    what is thrown back. material: "matte", "shiny" or "checkered".
    """

    shape: str
    colour: str
    size: str
    motion: str
    x: float
    y: float
    direction: str = ""
    speed: float = 0.0
    period: float = 1.0
    phase: float = 0.0
    path_radius: float = 0.0
    yaw: float = 0.0
    height: float = 0.0
    event: float = 0.0
    after: float = 0.0
    material: str = "matte"

    @property
    def rolls(self) -> bool:
        return self.motion == "roll"

    @property
    def radius(self) -> float:
        """The radius of the size, in units: a sphere's own radius at time 0."""
        return RADIUS[self.size]

    @property
    def rest_height(self) -> float:
        """Height of the centre when the object lies on the ground, in units, at time 0."""
        lies = self.rolls and self.shape == "cylinder"
        return (CYLINDER_RADIUS if lies else FORMS[self.shape].half_height) * self.radius

    @property
    def foot(self) -> float:
        """How far it reaches along x from its centre when its yaw is 0, in units, at time 0."""
        return FORMS[self.shape].foot * self.radius

    @property
    def girth(self) -> float:
        """Radius of the upright cylinder about the centre that holds the object, in units, at time 0."""
        lies = self.rolls and self.shape == "cylinder"
        form = FORMS[self.shape]
        return (form.bound if lies else form.girth) * self.radius

    @property
    def volume(self) -> float:
        """Units cubed, at time 0; all objects are equally dense, so it stands for the mass."""
        return FORMS[self.shape].volume * self.radius**3


def frame_times(num_frames: int, frame_rate: float) -> torch.Tensor:
    """Times of a clip's frames: (t,) float64, in seconds, from 0. Raises ValueError for none."""
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1: use 1 for a picture, more for a clip")
    if not 0.0 < frame_rate < math.inf:
        raise ValueError(f"frame_rate={frame_rate} must be above 0: use frames per second, such as 8")
    return torch.arange(num_frames, dtype=torch.float64) / frame_rate


def runs(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """How far an object has gone along its direction at `times` (t,) seconds: (t,) units.

    It keeps its speed for `RUN_SECONDS` (after a collision, for `HIT_SECONDS`) and then comes smoothly to rest.
    """
    if obj.motion != "collide":
        return obj.speed * RUN_SECONDS * settle(times / RUN_SECONDS)
    since = (times - obj.event).clamp(min=0.0)
    return obj.speed * times.clamp(max=obj.event) + obj.after * HIT_SECONDS * settle(since / HIT_SECONDS)


def contact_distance(one: SceneObject, two: SceneObject) -> float:
    """Distance between the centres, along x, of two objects on the ground that touch; both with yaw 0.

    Seen from the side an object is a circle (sphere, torus), a wall (cube, cylinder) or a slope (cone).
    """
    rounds = [obj for obj in (one, two) if obj.shape in ("sphere", "torus")]
    others = [obj for obj in (one, two) if obj.shape not in ("sphere", "torus")]
    if len(rounds) == 2:
        return 2.0 * math.sqrt(one.foot * two.foot)
    if rounds and others[0].shape == "cone":
        (ball,), (cone,) = rounds, others
        slope = math.hypot(CONE_RADIUS, 2.0 * CONE_HALF_HEIGHT)
        return cone.foot + ball.foot * (slope - CONE_RADIUS) / (2.0 * CONE_HALF_HEIGHT)
    return one.foot + two.foot


def speeds_after(mover: SceneObject, hit: SceneObject) -> tuple[float, float]:
    """Speeds of both along the mover's direction after an elastic collision, `hit` being at rest before."""
    total = mover.volume + hit.volume
    return mover.speed * (mover.volume - hit.volume) / total, mover.speed * 2.0 * mover.volume / total


def scales(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """Size of an object over its size at time 0, at `times` (t,) seconds: (t,)."""
    sign = {"grow": 1.0, "shrink": -1.0}.get(obj.motion, 0.0)
    return torch.exp(sign * math.log(GROW_FACTOR) * settle(times / GROW_SECONDS))


def spins(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """Rotation about the vertical since time 0, at `times` (t,) seconds: (t,) radians, counterclockwise."""
    if obj.motion != "spin":
        return torch.zeros_like(times)
    return (1.0 if obj.direction == "counterclockwise" else -1.0) * 2.0 * math.pi * times / obj.period


def positions(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """Centre of an object at `times` (t,) seconds: (t, 3) in units."""
    path = times.new_tensor((obj.x, obj.y, obj.rest_height)).repeat(times.shape[0], 1)  # t 3
    match obj.motion:
        case "slide left" | "slide right" | "slide towards" | "slide away" | "roll" | "pass behind" | "collide":
            path[:, :2] += torch.outer(runs(obj, times), times.new_tensor(HEADINGS[obj.direction]))
        case "bounce":
            path[:, 2] += _hop(torch.remainder(times / obj.period + obj.phase, 1.0) * obj.period, obj.period)
        case "orbit":
            sign = 1.0 if obj.direction == "counterclockwise" else -1.0
            angle = 2.0 * math.pi * (obj.phase + sign * times / obj.period)
            path[:, 0] += obj.path_radius * torch.cos(angle)
            path[:, 1] += obj.path_radius * torch.sin(angle)
        case "rise":
            path[:, 2] += obj.height * settle(times / RISE_SECONDS)
        case "fall":
            path[:, 2] += _fall(times, obj.height)
        case "grow" | "shrink":
            path[:, 2] *= scales(obj, times)
        case "stay" | "spin":
            pass
        case _:
            raise ValueError(f"motion={obj.motion!r} has no path: use one of the world's motions")
    return path


def rotations(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """Rotation from an object's own axes to the world's at `times` (t,) seconds: (t, 3, 3).

    A shape's own axis is z. A rolling object lies with it along world y and turns about it without slipping; a
    torus stands upright with it.
    """
    lie = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=times.dtype, device=times.device)
    if obj.rolls:
        sign = 1.0 if obj.direction == "right" else -1.0
        return lie @ _about_z(obj.yaw + sign * runs(obj, times) / obj.rest_height)
    turn = _about_z(obj.yaw + spins(obj, times))
    return turn @ lie if obj.shape == "torus" else turn


def settle(part: torch.Tensor) -> torch.Tensor:
    """The identity up to 1, then a smooth approach to 1.4, its slope continuous: long motions come to rest."""
    return torch.where(part <= 1.0, part, SETTLED - (SETTLED - 1.0) * torch.exp((1.0 - part) / (SETTLED - 1.0)))


def _hop(since: torch.Tensor, period: float) -> torch.Tensor:
    """Height of a throw that lands after `period` seconds, `since` seconds after it."""
    return 0.5 * GRAVITY * since * (period - since)


def _fall(times: torch.Tensor, height: float) -> torch.Tensor:
    """Height above its rest of what is let go at time 0, lands and rebounds less and less: (t,)."""
    landing = math.sqrt(2.0 * height / GRAVITY)
    above = torch.where(times < landing, height - 0.5 * GRAVITY * times**2, 0.0)
    period = 2.0 * landing
    for _ in range(REBOUNDS):
        period *= REBOUND
        since = times - landing
        above = torch.where((since >= 0.0) & (since < period), _hop(since, period), above)
        landing += period
    return above


def _about_z(angle: torch.Tensor) -> torch.Tensor:
    """Rotation about z by `angle` (t,) radians: (t, 3, 3)."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return rearrange(torch.stack((c, -s, zero, s, c, zero, zero, zero, one), dim=-1), "t (i j) -> t i j", i=3)
