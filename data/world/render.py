"""Ray casting of a scene: all frames of a clip at once, float32, on any device.

Each pixel's ray meets the ground or the sky in closed form; an object is intersected only by rays that come
within its bounding sphere, a shadow only looked up where a bounding sphere stands between the ground and
the sun. Light is added up linearly, averaged over the samples of a pixel and then encoded for display.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange

from data.world.motion import (
    CUBE_HALF,
    CYLINDER_HALF_HEIGHT,
    CYLINDER_RADIUS,
    SceneObject,
    camera_path,
    frame_times,
    positions,
    rotations,
)

if TYPE_CHECKING:
    from data.world.scene import Scene

HALF_VIEW = math.tan(math.radians(21.0))  # tangent of half the field of view, along the picture's shorter side
# Frames are rendered in chunks of about so many rays: what stays near a cache, or fits in memory.
RAYS_AT_ONCE = {"cpu": 2**20, "cuda": 2**24}

# Linear light, each channel in [0, 1].
ALBEDO = {
    "red": (0.78, 0.035, 0.03),
    "green": (0.05, 0.50, 0.06),
    "blue": (0.03, 0.10, 0.78),
    "yellow": (0.90, 0.66, 0.02),
    "purple": (0.36, 0.05, 0.62),
    "cyan": (0.02, 0.62, 0.70),
    "white": (0.92, 0.92, 0.92),
}
GROUND = (0.265, 0.225, 0.165)
HORIZON = (0.66, 0.80, 0.92)
ZENITH = (0.13, 0.36, 0.78)
SUN = (0.98, 0.93, 0.84)
AMBIENT = (0.28, 0.31, 0.36)
TILE_CONTRAST = 0.20
FOG_DISTANCE = 30.0
STRIPE = 0.42  # albedo of a rolling object's dark wedges, as a share of its colour's
WEDGES = 4  # dark and light ones about the axis a rolling object turns about
SUN_SPREAD = 0.035  # tangent of the sun's half width: softens the shadows on the ground
_SUN_SAMPLES = ((-1.0, -0.4), (-0.4, 1.0), (0.4, -1.0), (1.0, 0.4))
_FAR = 1e9


@dataclass(frozen=True)
class _Body:
    """An object in each frame: centres (t, 3) and rotations (t, 3, 3) from its own axes to the world's."""

    obj: SceneObject
    centres: torch.Tensor
    rotations: torch.Tensor


def half_view(aspect: float) -> tuple[float, float]:
    """Tangents of half the field of view, horizontal and vertical, for aspect = width / height."""
    return HALF_VIEW * max(aspect, 1.0), HALF_VIEW * max(1.0 / aspect, 1.0)


def render_scene(
    scene: "Scene",
    num_frames: int,
    height: int,
    width: int,
    frame_rate: float,
    device: str | torch.device = "cpu",
    supersample: int = 2,
) -> torch.Tensor:
    """Render a clip: uint8 (t, h, w, 3) on `device`, sRGB-like.

    supersample: rays along each side of a pixel. Raises ValueError for a size below 8, num_frames,
    frame_rate or supersample below its least value.
    """
    for name, value in (("height", height), ("width", width)):
        if value < 8:
            raise ValueError(f"{name}={value} is too small a picture: use 8 or more")
    if supersample < 1:
        raise ValueError(f"supersample={supersample} must be at least 1: use 2")
    times = frame_times(num_frames, frame_rate)
    device = torch.device(device)
    rays_a_frame = height * width * supersample**2
    frames_at_once = max(1, RAYS_AT_ONCE.get(device.type, 2**20) // rays_a_frame)
    chunks = [
        _render_chunk(scene, part, height, width, device, supersample) for part in torch.split(times, frames_at_once)
    ]
    return torch.cat(chunks)


def covered(
    obj: SceneObject, objects: tuple[SceneObject, ...], camera_positions: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """Whether another object hides the centre of `obj` from the camera at (t, 3): (t,) bool."""
    ray = positions(obj, times) - camera_positions
    hidden = torch.zeros(times.shape[0], dtype=torch.bool, device=times.device)
    for other in objects:
        if other is not obj:
            body = _Body(other, positions(other, times), rotations(other, times))
            frame = torch.arange(times.shape[0], device=times.device)
            hit, _, _ = _intersect(body, frame, camera_positions.T, ray.T)
            hidden |= hit < 1.0
    return hidden


def _render_chunk(
    scene: "Scene", times: torch.Tensor, height: int, width: int, device: torch.device, supersample: int
) -> torch.Tensor:
    eyes, axes = camera_path(scene.camera, times)
    if scene.camera.motion == "still":
        eyes, axes = eyes[:1], axes[:1]  # one background serves all frames
    eyes, axes = eyes.float().to(device), axes.float().to(device)
    bodies = [
        _Body(obj, positions(obj, times).float().to(device), rotations(obj, times).float().to(device))
        for obj in scene.objects
    ]
    sun = _sun_direction(scene.sun_azimuth, scene.sun_elevation)
    rows, columns = height * supersample, width * supersample
    directions = _pixel_directions(axes, rows, columns, half_view(width / height))
    ground = _ground_hits(eyes, directions)
    light = _background(ground, directions, sun)
    light = light.expand(3, len(times), rows, columns).contiguous()
    _shade_ground_shadows(light, ground, bodies, sun)
    _draw_bodies(light, eyes, directions, bodies, sun)
    pixels = F.avg_pool2d(rearrange(light, "c t h w -> t c h w"), supersample)
    pixels = pixels.clamp_(0.0, 1.0).pow_(1.0 / 2.2).mul_(255.0).add_(0.5).to(torch.uint8)
    return rearrange(pixels, "t c h w -> t h w c").contiguous()


def _sun_direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Unit vector to the sun; azimuth 0 is behind the camera's place at time 0, positive to the right."""
    flat = math.cos(elevation)
    return flat * math.sin(azimuth), -flat * math.cos(azimuth), math.sin(elevation)


def _pixel_directions(
    axes: torch.Tensor, rows: int, columns: int, half: tuple[float, float]
) -> tuple[torch.Tensor, ...]:
    """Unit directions of the rays, x, y and z apart, each (t, rows, columns), for camera axes (t, 3, 3)."""
    across = ((torch.arange(columns, device=axes.device) + 0.5) * (2.0 / columns) - 1.0) * half[0]
    down = (1.0 - (torch.arange(rows, device=axes.device) + 0.5) * (2.0 / rows)) * half[1]
    scale = torch.rsqrt(1.0 + across[None, :] ** 2 + down[:, None] ** 2)  # rows columns
    right, up, forward = (rearrange(axes[:, i], "t c -> c t 1 1") for i in range(3))
    return tuple(
        (right[i] * across[None, None, :] + (up[i] * down[None, :, None] + forward[i])) * scale for i in range(3)
    )


def _ground_hits(eyes: torch.Tensor, directions: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Where rays meet the ground: x, y and distance, each (t, h, w); `_FAR` away for rays to the sky."""
    dx, dy, dz = directions
    ex, ey, ez = rearrange(eyes, "t c -> c t 1 1")
    distance = torch.where(dz < -1e-5, -ez / dz, _FAR)
    return ex + distance * dx, ey + distance * dy, distance


def _background(
    ground: tuple[torch.Tensor, ...], directions: tuple[torch.Tensor, ...], sun: tuple[float, float, float]
) -> torch.Tensor:
    """Sunlit ground, fading into the horizon, and the sky above it: linear light (3, t, h, w)."""
    x, y, distance = ground
    clear = torch.exp(distance * (-1.0 / FOG_DISTANCE))  # share of the ground's own light that reaches the eye
    tile = (torch.sin(math.pi * x) * torch.sin(math.pi * y)).mul_(4.0).clamp_(-1.0, 1.0)
    tone = tile.mul_(torch.exp(distance * -0.12)).mul_(TILE_CONTRAST).add_(1.0).mul_(clear)
    height = 1.0 - torch.exp(directions[2].clamp(min=0.0) * -5.0)
    channels = []
    for i in range(3):
        lit = GROUND[i] * (AMBIENT[i] + SUN[i] * sun[2])
        behind = height * (ZENITH[i] - HORIZON[i]) + HORIZON[i]
        channels.append(tone * lit + behind * (1.0 - clear))
    return torch.stack(channels)


def _shade_ground_shadows(
    light: torch.Tensor,
    ground: tuple[torch.Tensor, ...],
    bodies: list[_Body],
    sun: tuple[float, float, float],
) -> None:
    """Take the sun away, in place, from the ground that the bodies shade: light (3, t, h, w)."""
    frames, pixels = light.shape[1], light.shape[2] * light.shape[3]
    x, y, distance = ground
    sunlit = torch.ones(light.shape[1:], device=light.device)
    touched = []
    for body in bodies:
        cx, cy, cz = rearrange(body.centres, "t c -> c t 1 1")
        reach = body.obj.bounding_radius + SUN_SPREAD * 1.5 * (cz + body.obj.bounding_radius) / sun[2]
        along_x, along_y = x - (cx - cz * sun[0] / sun[2]), y - (cy - cz * sun[1] / sun[2])
        near = along_x**2 + along_y**2 - (along_x * sun[0] + along_y * sun[1]) ** 2 < reach**2
        index = torch.nonzero(near.expand(frames, *near.shape[1:]).reshape(-1)).squeeze(1)
        frame = index // pixels
        source = index - frame * pixels if x.shape[0] == 1 else index
        point = torch.stack((x.view(-1)[source], y.view(-1)[source], torch.zeros_like(source, dtype=x.dtype)))
        blocked = torch.zeros_like(point[0])
        for ray in _sun_samples(sun):
            direction = torch.tensor(ray, device=light.device).unsqueeze(1).expand_as(point)
            hit, _, _ = _intersect(body, frame, point, direction)
            blocked += hit < _FAR
        blocked /= len(_SUN_SAMPLES)
        flat = sunlit.view(-1)
        flat[index] = torch.minimum(flat[index], 1.0 - blocked)
        touched.append(index)
    if not touched:
        return
    index = torch.cat(touched)
    index = index[sunlit.view(-1)[index] < 1.0].unique()
    frame = index // pixels
    source = index - frame * pixels if x.shape[0] == 1 else index
    lost = 1.0 - sunlit.view(-1)[index]
    clear = torch.exp(distance.view(-1)[source] * (-1.0 / FOG_DISTANCE))
    for i, channel in enumerate(light.view(3, -1)):
        share = lost * (SUN[i] * sun[2] / (AMBIENT[i] + SUN[i] * sun[2]))
        value = channel[index]
        channel[index] = value - share * (value - HORIZON[i] * (1.0 - clear))


def _draw_bodies(
    light: torch.Tensor,
    eyes: torch.Tensor,
    directions: tuple[torch.Tensor, ...],
    bodies: list[_Body],
    sun: tuple[float, float, float],
) -> None:
    """Draw the bodies over the background, in place, nearest first at each ray: light (3, t, h, w)."""
    frames, pixels = light.shape[1], light.shape[2] * light.shape[3]
    depth = torch.full((frames * pixels,), _FAR, device=light.device)
    for body in bodies:
        away = body.centres - eyes  # t 3
        ax, ay, az = rearrange(away, "t c -> c t 1 1")
        least = rearrange(away.square().sum(1) - body.obj.bounding_radius**2, "t -> t 1 1").clamp(min=0.0).sqrt()
        near = directions[0] * ax + directions[1] * ay + directions[2] * az > least
        index = torch.nonzero(near.view(-1)).squeeze(1)
        frame = index // pixels
        source = index - frame * pixels if directions[0].shape[0] == 1 else index
        ray = torch.stack([d.view(-1)[source] for d in directions])
        eye = eyes[frame].T if eyes.shape[0] > 1 else eyes.T.expand_as(ray)
        hit, point, normal = _intersect(body, frame, eye, ray)
        seen = hit < depth[index]
        index, frame, hit, ray, eye = index[seen], frame[seen], hit[seen], ray[:, seen], eye[:, seen]
        depth[index] = hit
        shade = _shade(body, bodies, frame, eye + hit * ray, ray, point[:, seen], normal[:, seen], sun)
        light.view(3, -1)[:, index] = shade


def _shade(
    body: _Body,
    bodies: list[_Body],
    frame: torch.Tensor,
    place: torch.Tensor,
    ray: torch.Tensor,
    point: torch.Tensor,
    normal: torch.Tensor,
    sun: tuple[float, float, float],
) -> torch.Tensor:
    """Light (3, n) of surface points: place and ray in the world, point in own axes, normal in own axes."""
    turn = body.rotations[frame]  # n 3 3
    nx, ny, nz = _turn(turn, normal, inverse=False)
    facing = nx * sun[0] + ny * sun[1] + nz * sun[2]
    direction = torch.tensor(sun, device=place.device).unsqueeze(1).expand_as(place)
    lit = facing.clamp(min=0.0)
    for other in bodies:
        if other is not body:
            hit, _, _ = _intersect(other, frame, place, direction)
            lit = torch.where(hit < _FAR, 0.0, lit)
    mirrored = 2.0 * (ray[0] * nx + ray[1] * ny + ray[2] * nz)
    toward = (ray[0] - mirrored * nx) * sun[0] + (ray[1] - mirrored * ny) * sun[1] + (ray[2] - mirrored * nz) * sun[2]
    gloss = 0.18 * toward.clamp(min=0.0) ** 24 * (lit > 0.0)
    tone = torch.ones_like(lit)
    if body.obj.rolls:
        wedge = torch.floor(torch.atan2(point[1], point[0]) * (WEDGES / (2.0 * math.pi)))
        tone = torch.where(torch.remainder(wedge, 2.0) > 0.5, STRIPE, 1.0)
    albedo = ALBEDO[body.obj.colour]
    channels = []
    for i in range(3):
        bounce = GROUND[i] * (AMBIENT[i] + SUN[i] * sun[2])
        ambient = AMBIENT[i] * (0.5 + 0.5 * nz) + bounce * (0.5 - 0.5 * nz)
        channels.append(tone * albedo[i] * (ambient + SUN[i] * lit) + gloss)
    return torch.stack(channels)


def _sun_samples(sun: tuple[float, float, float]) -> list[tuple[float, float, float]]:
    """Directions to a few places on the sun's disc."""
    flat = math.hypot(sun[0], sun[1])
    side = (-sun[1] / flat, sun[0] / flat)
    rise = (-sun[0] * sun[2] / flat, -sun[1] * sun[2] / flat, flat)
    return [
        (
            sun[0] + SUN_SPREAD * (a * side[0] + b * rise[0]),
            sun[1] + SUN_SPREAD * (a * side[1] + b * rise[1]),
            sun[2] + SUN_SPREAD * b * rise[2],
        )
        for a, b in _SUN_SAMPLES
    ]


def _turn(turn: torch.Tensor, vector: torch.Tensor, inverse: bool) -> torch.Tensor:
    """Rotate (3, n) vectors by (n, 3, 3) rotations, or by their inverses."""
    rows = turn.unbind(1) if not inverse else turn.unbind(2)
    return torch.stack([row[:, 0] * vector[0] + row[:, 1] * vector[1] + row[:, 2] * vector[2] for row in rows])


def _intersect(
    body: _Body, frame: torch.Tensor, origin: torch.Tensor, ray: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First meeting of rays with a body, in the frames (n,) given: origin and ray (3, n) in the world.

    Returns distance (n,) in lengths of the ray's vector, `_FAR` where it misses, and point and normal (3,
    n) in the body's own axes.
    """
    turn = body.rotations[frame]
    origin = _turn(turn, origin - body.centres[frame].T, inverse=True)
    ray = _turn(turn, ray, inverse=True)
    radius = body.obj.radius
    if body.obj.shape == "sphere":
        enter, leave = _within_round(origin, ray, radius, dimensions=3)
    elif body.obj.shape == "cube":
        low, high = _within_slab(origin, ray, CUBE_HALF * radius)
        enter, leave = low.amax(0), high.amin(0)
    else:
        side_in, side_out = _within_round(origin, ray, CYLINDER_RADIUS * radius, dimensions=2)
        end_in, end_out = _within_slab(origin[2], ray[2], CYLINDER_HALF_HEIGHT * radius)
        enter, leave = torch.maximum(side_in, end_in), torch.minimum(side_out, end_out)
    hit = torch.where((enter < leave) & (enter > 1e-4), enter, _FAR)
    point = origin + enter * ray
    if body.obj.shape == "sphere":
        return hit, point, point / radius
    if body.obj.shape == "cube":
        face = (low == enter).to(point.dtype)
        return hit, point, -torch.sign(ray) * face / face.sum(0)
    on_end = end_in > side_in
    zero = torch.zeros_like(enter)
    side = point / (CYLINDER_RADIUS * radius)
    normal = torch.stack((side[0], side[1], zero))
    end = torch.stack((zero, zero, -torch.sign(ray[2])))
    return hit, point, torch.where(on_end, end, normal)


def _within_round(
    origin: torch.Tensor, ray: torch.Tensor, radius: float, dimensions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays enter and leave a ball (3 dimensions) or an endless cylinder about z (2), if they do."""
    o, d = origin[:dimensions], ray[:dimensions]
    a = (d * d).sum(0).clamp(min=1e-12)
    b = (o * d).sum(0)
    root = b * b - a * ((o * o).sum(0) - radius**2)
    half = root.clamp(min=0.0).sqrt()
    missed = root <= 0.0
    return torch.where(missed, _FAR, (-b - half) / a), torch.where(missed, -_FAR, (half - b) / a)


def _within_slab(origin: torch.Tensor, ray: torch.Tensor, half: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays enter and leave -half <= coordinate <= half."""
    ray = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    one, two = (-half - origin) / ray, (half - origin) / ray
    return torch.minimum(one, two), torch.maximum(one, two)
