"""Where the camera is, where it looks, and where points of the world are in its picture."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange

from data.world.motion import SETTLED, settle

HALF_VIEW = math.tan(math.radians(21.0))  # tangent of half the field of view, along the picture's shorter side
CAMERA_TARGET = (0.0, 0.0, 0.5)
ZOOM_SECONDS, ZOOM_FACTOR = 10.0, 1.6
PAN_SECONDS, PAN_ANGLE = 5.0, 0.15
MEAN_ELEVATION = 0.26  # radians above the target, of the cameras that are drawn


@dataclass(frozen=True)
class Camera:
    """The camera's motion: it looks at `CAMERA_TARGET`, or from side to side past it when it pans.

    motion: "still", "pan left", "pan right", "orbit left", "orbit right", "zoom in" or "zoom out". azimuth:
    radians to the right of straight in front, at time 0. elevation: radians above the target. distance: units
    from the target, at time 0. speed: radians/s of an orbit.
    """

    motion: str
    azimuth: float
    elevation: float
    distance: float
    speed: float = 0.0


def half_view(aspect: float) -> tuple[float, float]:
    """Tangents of half the field of view, horizontal and vertical, for aspect = width / height."""
    return HALF_VIEW * max(aspect, 1.0), HALF_VIEW * max(1.0 / aspect, 1.0)


def camera_path(camera: Camera, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The camera at `times` (t,) seconds: position (t, 3), axes (t, 3, 3) with rows right, up, forward."""
    azimuth = torch.full_like(times, camera.azimuth)
    distance = torch.full_like(times, camera.distance)
    turned = torch.zeros_like(times)  # to the right of the target
    if camera.motion.startswith("orbit"):
        azimuth = azimuth + (1.0 if camera.motion == "orbit right" else -1.0) * camera.speed * times
    elif camera.motion.startswith("zoom"):
        sign = -1.0 if camera.motion == "zoom in" else 1.0
        distance = distance * torch.exp(sign * math.log(ZOOM_FACTOR) * settle(times / ZOOM_SECONDS))
    elif camera.motion.startswith("pan"):
        sign = 1.0 if camera.motion == "pan right" else -1.0
        turned = sign * PAN_ANGLE * (settle(times / PAN_SECONDS) - 0.5 * SETTLED)
    target = torch.tensor(CAMERA_TARGET, dtype=times.dtype, device=times.device)
    position = target - rearrange(distance, "t -> t 1") * _view(azimuth, camera.elevation)
    forward = _view(azimuth - turned, camera.elevation)
    aside = azimuth - turned
    right = torch.stack((torch.cos(aside), torch.sin(aside), torch.zeros_like(times)), dim=-1)
    up = torch.linalg.cross(right, forward)
    return position, torch.stack((right, up, forward), dim=-2)


def _view(azimuth: torch.Tensor, elevation: float) -> torch.Tensor:
    """Unit vectors (t, 3) from a camera at `azimuth` (t,) and `elevation`, radians, to what it looks at."""
    flat, down = math.cos(elevation), torch.full_like(azimuth, -math.sin(elevation))
    return torch.stack((-flat * torch.sin(azimuth), flat * torch.cos(azimuth), down), dim=-1)


def project(
    points: torch.Tensor, eyes: torch.Tensor, axes: torch.Tensor, aspect: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (t, 3) in the picture: x from the left, y from the top (t, 2) in [0, 1]; and if inside (t,)."""
    right, up, forward = (axes @ (points - eyes).unsqueeze(-1)).squeeze(-1).unbind(-1)
    half_x, half_y = half_view(aspect)
    ahead = forward.clamp(min=1e-3)
    centres = torch.stack((0.5 + 0.5 * right / (ahead * half_x), 0.5 - 0.5 * up / (ahead * half_y)), dim=-1)
    inside = (forward > 1e-3) & ((centres >= 0.0) & (centres <= 1.0)).all(-1)
    return centres, inside


def unproject(centres: torch.Tensor, depths: torch.Tensor, aspect: float) -> torch.Tensor:
    """What undoes `project`: where points are from the camera, right, up and ahead, units (..., 3), of their places in
    a picture (..., 2) of `aspect` = width / height, and how far ahead they are, units (..., 1)."""
    half_x, half_y = half_view(aspect)
    aside = centres.new_tensor([half_x, -half_y]) * (2.0 * centres - 1.0)
    return torch.cat((aside, torch.ones_like(depths)), dim=-1) * depths
