"""What moves in the world, and how: pure functions of time, in seconds.

World axes: x to the right and y away from the camera as it stands at time 0, z up; the ground is z = 0.
Lengths are in world units (a large sphere is about one unit across). All functions are defined for every
time, so a clip may have any duration and frame rate.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange

# Half extents: in units for spheres, and for the other shapes as multiples of that radius.
RADIUS = {"small": 0.45, "large": 0.68}
CUBE_HALF = 0.80
CYLINDER_RADIUS = 0.78
CYLINDER_HALF_HEIGHT = 0.88

# Free fall in the world, units/s^2. Low, so that hops of 1 to 1.6 s are 0.45 to 1.2 units high.
GRAVITY = 3.6

CAMERA_TARGET = (0.0, 0.0, 0.5)
ZOOM_SECONDS = 10.0
ZOOM_FACTOR = 1.6

_HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "towards": (0.0, -1.0), "away": (0.0, 1.0)}


@dataclass(frozen=True)
class SceneObject:
    """One object: its words and the numbers of its motion.

    x, y: where it stands on the ground at time 0 (`orbit`: the centre of its circle), units. direction:
    "left", "right", "towards" or "away" for slides and rolls, "clockwise" or "counterclockwise" (seen from
    above) for orbits, else "". speed: units/s of slides and rolls. period: seconds of one hop or one turn.
    phase: where in the period it is at time 0, in [0, 1). path_radius: units, of orbits. yaw: its rotation
    about the vertical axis, radians.
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

    @property
    def rolls(self) -> bool:
        return self.motion == "roll"

    @property
    def radius(self) -> float:
        """The radius of the size, in units; a sphere's own radius."""
        return RADIUS[self.size]

    @property
    def rest_height(self) -> float:
        """Height of the centre when the object lies on the ground, in units."""
        if self.shape == "sphere":
            return self.radius
        if self.shape == "cube":
            return CUBE_HALF * self.radius
        return (CYLINDER_RADIUS if self.rolls else CYLINDER_HALF_HEIGHT) * self.radius

    @property
    def bounding_radius(self) -> float:
        """Radius of the sphere about the centre that holds the whole object, in units."""
        if self.shape == "sphere":
            return self.radius
        if self.shape == "cube":
            return math.sqrt(3.0) * CUBE_HALF * self.radius
        return math.hypot(CYLINDER_RADIUS, CYLINDER_HALF_HEIGHT) * self.radius


@dataclass(frozen=True)
class Camera:
    """The camera's motion: it always looks at `CAMERA_TARGET`.

    motion: "still", "orbit left", "orbit right", "zoom in" or "zoom out". azimuth: radians to the right of
    straight in front, at time 0. elevation: radians above the target. distance: units from the target, at
    time 0. speed: radians/s of an orbit.
    """

    motion: str
    azimuth: float
    elevation: float
    distance: float
    speed: float = 0.0


def frame_times(num_frames: int, frame_rate: float) -> torch.Tensor:
    """Times of a clip's frames: (t,) float64, in seconds, from 0. Raises ValueError for none."""
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1: use 1 for a picture, more for a clip")
    if not 0.0 < frame_rate < math.inf:
        raise ValueError(f"frame_rate={frame_rate} must be above 0: use frames per second, such as 8")
    return torch.arange(num_frames, dtype=torch.float64) / frame_rate


def velocity(obj: SceneObject) -> tuple[float, float]:
    """Velocity over the ground of what slides or rolls: x and y in units/s."""
    heading = _HEADINGS[obj.direction]
    return heading[0] * obj.speed, heading[1] * obj.speed


def positions(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """Centre of an object at `times` (t,) seconds: (t, 3) in units."""
    path = times.new_tensor((obj.x, obj.y, obj.rest_height)).repeat(times.shape[0], 1)  # t 3
    if obj.motion.startswith("slide") or obj.rolls:
        path[:, :2] += torch.outer(times, times.new_tensor(velocity(obj)))
    elif obj.motion == "bounce":
        part = torch.remainder(times / obj.period + obj.phase, 1.0)
        path[:, 2] += 0.5 * GRAVITY * obj.period**2 * part * (1.0 - part)
    elif obj.motion == "orbit":
        sign = 1.0 if obj.direction == "counterclockwise" else -1.0
        angle = 2.0 * math.pi * (obj.phase + sign * times / obj.period)
        path[:, 0] += obj.path_radius * torch.cos(angle)
        path[:, 1] += obj.path_radius * torch.sin(angle)
    else:
        raise ValueError(f"motion={obj.motion!r} has no path: use slide, roll, bounce or orbit")
    return path


def rotations(obj: SceneObject, times: torch.Tensor) -> torch.Tensor:
    """Rotation from an object's own axes to the world's at `times` (t,) seconds: (t, 3, 3).

    A shape's own axis is z. A rolling object lies with it along world y and turns about it without slipping.
    """
    if not obj.rolls:
        return _about_z(torch.full_like(times, obj.yaw))
    sign = 1.0 if obj.direction == "right" else -1.0
    spin = _about_z(obj.yaw + sign * obj.speed * times / obj.rest_height)
    lie = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=times.dtype, device=times.device)
    return lie @ spin


def camera_path(camera: Camera, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The camera at `times` (t,) seconds: position (t, 3), axes (t, 3, 3) with rows right, up, forward."""
    azimuth = torch.full_like(times, camera.azimuth)
    distance = torch.full_like(times, camera.distance)
    if camera.motion.startswith("orbit"):
        azimuth = azimuth + (1.0 if camera.motion == "orbit right" else -1.0) * camera.speed * times
    elif camera.motion.startswith("zoom"):
        sign = -1.0 if camera.motion == "zoom in" else 1.0
        distance = distance * torch.exp(sign * math.log(ZOOM_FACTOR) * _settle(times / ZOOM_SECONDS))
    flat = math.cos(camera.elevation)
    away = torch.stack(
        (
            flat * torch.sin(azimuth),
            -flat * torch.cos(azimuth),
            torch.full_like(times, math.sin(camera.elevation)),
        ),
        dim=-1,
    )
    target = torch.tensor(CAMERA_TARGET, dtype=times.dtype, device=times.device)
    position = target + rearrange(distance, "t -> t 1") * away
    right = torch.stack((torch.cos(azimuth), torch.sin(azimuth), torch.zeros_like(times)), dim=-1)
    forward = -away
    up = torch.linalg.cross(right, forward)
    return position, torch.stack((right, up, forward), dim=-2)


def _settle(part: torch.Tensor) -> torch.Tensor:
    """The identity up to 1, then a smooth approach to 1.4, its slope continuous: long zooms come to rest."""
    return torch.where(part <= 1.0, part, 1.4 - 0.4 * torch.exp((1.0 - part) / 0.4))


def _about_z(angle: torch.Tensor) -> torch.Tensor:
    """Rotation about z by `angle` (t,) radians: (t, 3, 3)."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return rearrange(torch.stack((c, -s, zero, s, c, zero, zero, zero, one), dim=-1), "t (i j) -> t i j", i=3)
