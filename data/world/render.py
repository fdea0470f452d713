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

from data.world.camera import camera_path, half_view
from data.world.motion import FORMS, SceneObject, frame_times, positions, rotations, scales
from data.world.shapes import FAR, is_dark, meet

if TYPE_CHECKING:
    from data.world.scene import Scene

# Frames are rendered in chunks of about so many rays: what stays near a cache, or fits in memory.
RAYS_AT_ONCE = {"cpu": 2**20, "cuda": 2**24}

# Linear light, each channel in [0, 1].
Colour = tuple[float, float, float]
ALBEDO: dict[str, Colour] = {
    "red": (0.78, 0.035, 0.03),
    "green": (0.05, 0.50, 0.06),
    "blue": (0.03, 0.10, 0.78),
    "yellow": (0.90, 0.66, 0.02),
    "purple": (0.36, 0.05, 0.62),
    "cyan": (0.02, 0.62, 0.70),
    "white": (0.92, 0.92, 0.92),
}
DARK = 0.36  # albedo of a checkered object's dark fields, as a share of its colour's
GROUNDS: dict[str, Colour] = {
    "sand": (0.31, 0.245, 0.155),
    "grass": (0.10, 0.185, 0.045),
    "stone": (0.20, 0.20, 0.215),
}
FOG_DISTANCE = 30.0
SUN_SPREAD = 0.035  # tangent of the sun's half width: softens the shadows on the ground
_SUN_SAMPLES = ((-1.0, -0.4), (-0.4, 1.0), (0.4, -1.0), (1.0, 0.4))


@dataclass(frozen=True)
class Light:
    """The light of a time of day: the sun (at night, the moon), what comes from all sides, and the sky."""

    sun: Colour
    ambient: Colour
    horizon: Colour
    zenith: Colour


LIGHTS = {
    "day": Light((0.98, 0.93, 0.84), (0.28, 0.31, 0.36), (0.66, 0.80, 0.92), (0.13, 0.36, 0.78)),
    "dusk": Light((1.10, 0.66, 0.36), (0.27, 0.24, 0.30), (0.93, 0.55, 0.30), (0.17, 0.17, 0.42)),
    "night": Light((0.26, 0.30, 0.40), (0.16, 0.18, 0.25), (0.035, 0.045, 0.09), (0.012, 0.018, 0.055)),
}


@dataclass(frozen=True)
class Gloss:
    """How a material mirrors: the sun's highlight (its strength and sharpness), and the sky where it is grazed."""

    highlight: float
    sharpness: int
    mirror: float


GLOSSES = {"matte": Gloss(0.05, 12, 0.0), "shiny": Gloss(0.80, 48, 0.60), "checkered": Gloss(0.12, 24, 0.0)}


@dataclass(frozen=True)
class _Setting:
    """What lights the scene: unit vector to the sun, its light, and the ground's kind and albedo."""

    sun: Colour
    light: Light
    ground: str

    @property
    def albedo(self) -> Colour:
        return GROUNDS[self.ground]

    def lit_ground(self, channel: int) -> float:
        """Light that sunlit ground sends back."""
        return self.albedo[channel] * (self.light.ambient[channel] + self.light.sun[channel] * self.sun[2])

    def sky(self, up: torch.Tensor) -> list[torch.Tensor]:
        """Light (3 of (...,)) from the sky where rays go `up` (...,), the z of unit vectors."""
        height = 1.0 - torch.exp(up.clamp(min=0.0) * -5.0)
        horizon, zenith = self.light.horizon, self.light.zenith
        return [height * (zenith[i] - horizon[i]) + horizon[i] for i in range(3)]


@dataclass(frozen=True)
class _Body:
    """An object in each frame: centres (t, 3), rotations (t, 3, 3) from its own axes to the world's, radii (t,)."""

    obj: SceneObject
    centres: torch.Tensor
    rotations: torch.Tensor
    radii: torch.Tensor

    @property
    def reach(self) -> torch.Tensor:
        """Radius (t,) of the sphere that holds it."""
        return self.radii * FORMS[self.obj.shape].bound


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
    frame = torch.arange(times.shape[0], device=times.device)
    hidden = torch.zeros(times.shape[0], dtype=torch.bool, device=times.device)
    for other in objects:
        if other is not obj:
            hit, _, _ = _intersect(_body(other, times), frame, camera_positions.T, ray.T)
            hidden |= hit < 1.0
    return hidden


def _body(obj: SceneObject, times: torch.Tensor) -> _Body:
    return _Body(obj, positions(obj, times), rotations(obj, times), obj.radius * scales(obj, times))


def _render_chunk(
    scene: "Scene", times: torch.Tensor, height: int, width: int, device: torch.device, supersample: int
) -> torch.Tensor:
    eyes, axes = camera_path(scene.camera, times)
    if scene.camera.motion == "still":
        eyes, axes = eyes[:1], axes[:1]  # one background serves all frames
    eyes, axes = eyes.float().to(device), axes.float().to(device)
    bodies = []
    for body in (_body(obj, times) for obj in scene.objects):
        placed = (part.float().to(device) for part in (body.centres, body.rotations, body.radii))
        bodies.append(_Body(body.obj, *placed))
    sun = _sun_direction(scene.sun_azimuth, scene.sun_elevation)
    setting = _Setting(sun, LIGHTS[scene.time_of_day], scene.ground)
    rows, columns = height * supersample, width * supersample
    directions = _pixel_directions(axes, rows, columns, half_view(width / height))
    ground = _ground_hits(eyes, directions)
    light = _background(ground, directions, setting)
    light = light.expand(3, len(times), rows, columns).contiguous()
    _shade_ground_shadows(light, ground, bodies, setting)
    _draw_bodies(light, eyes, directions, bodies, setting)
    pixels = F.avg_pool2d(rearrange(light.clamp_(0.0, 1.5), "c t h w -> t c h w"), supersample)
    pixels = pixels.clamp_(0.0, 1.0).pow_(1.0 / 2.2).mul_(255.0).add_(0.5).to(torch.uint8)
    return rearrange(pixels, "t c h w -> t h w c").contiguous()


def _sun_direction(azimuth: float, elevation: float) -> Colour:
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
    """Where rays meet the ground: x, y and distance, each (t, h, w); `FAR` away for rays to the sky."""
    dx, dy, dz = directions
    ex, ey, ez = rearrange(eyes, "t c -> c t 1 1")
    distance = torch.where(dz < -1e-5, -ez / dz, FAR)
    return ex + distance * dx, ey + distance * dy, distance


def _pattern(kind: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How much lighter or darker a place of the ground is, as a share: soft fields, tufts or slabs."""
    if kind == "sand":
        return (torch.sin(math.pi * x) * torch.sin(math.pi * y)).mul_(4.0).clamp_(-1.0, 1.0).mul_(0.20)
    if kind == "grass":
        tufts = torch.sin(2.3 * x + 1.7 * torch.sin(1.3 * y)) + torch.sin(2.9 * y + 1.9 * torch.sin(1.1 * x))
        return tufts.mul_(0.20)
    return (torch.sin(1.2 * math.pi * x) * torch.sin(1.2 * math.pi * y)).mul_(30.0).clamp_(-1.0, 1.0).mul_(0.27)


def _background(
    ground: tuple[torch.Tensor, ...], directions: tuple[torch.Tensor, ...], setting: _Setting
) -> torch.Tensor:
    """Sunlit ground, fading into the horizon, and the sky above it: linear light (3, t, h, w)."""
    x, y, distance = ground
    clear = torch.exp(distance * (-1.0 / FOG_DISTANCE))  # share of the ground's own light that reaches the eye
    tone = _pattern(setting.ground, x, y).mul_(torch.exp(distance * -0.12)).add_(1.0).mul_(clear)
    behind = setting.sky(directions[2])
    return torch.stack([tone * setting.lit_ground(i) + behind[i] * (1.0 - clear) for i in range(3)])


def _shade_ground_shadows(
    light: torch.Tensor, ground: tuple[torch.Tensor, ...], bodies: list[_Body], setting: _Setting
) -> None:
    """Take the sun away, in place, from the ground that the bodies shade: light (3, t, h, w)."""
    frames, pixels = light.shape[1], light.shape[2] * light.shape[3]
    sun = setting.sun
    x, y, distance = ground
    sunlit = torch.ones(light.shape[1:], device=light.device)
    touched = []
    for body in bodies:
        cx, cy, cz = rearrange(body.centres, "t c -> c t 1 1")
        reach = rearrange(body.reach, "t -> t 1 1")
        reach = reach + SUN_SPREAD * 1.5 * (cz + reach) / sun[2]
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
            blocked += hit < FAR
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
        from_sun = setting.albedo[i] * setting.light.sun[i] * sun[2]
        share = lost * (from_sun / setting.lit_ground(i))
        value = channel[index]
        channel[index] = value - share * (value - setting.light.horizon[i] * (1.0 - clear))


def _draw_bodies(
    light: torch.Tensor,
    eyes: torch.Tensor,
    directions: tuple[torch.Tensor, ...],
    bodies: list[_Body],
    setting: _Setting,
) -> None:
    """Draw the bodies over the background, in place, nearest first at each ray: light (3, t, h, w)."""
    frames, pixels = light.shape[1], light.shape[2] * light.shape[3]
    depth = torch.full((frames * pixels,), FAR, device=light.device)
    for body in bodies:
        away = body.centres - eyes  # t 3
        ax, ay, az = rearrange(away, "t c -> c t 1 1")
        least = rearrange(away.square().sum(1) - body.reach**2, "t -> t 1 1").clamp(min=0.0).sqrt()
        near = directions[0] * ax + directions[1] * ay + directions[2] * az > least
        index = torch.nonzero(near.view(-1)).squeeze(1)
        frame = index // pixels
        source = index - frame * pixels if directions[0].shape[0] == 1 else index
        ray = torch.stack([d.view(-1)[source] for d in directions])
        eye = eyes[frame].T if eyes.shape[0] > 1 else eyes.T.expand_as(ray)
        hit, point, normal = _intersect(body, frame, eye, ray)
        seen = torch.nonzero(hit < depth[index]).squeeze(1)
        index, frame, hit, ray, eye = index[seen], frame[seen], hit[seen], ray[:, seen], eye[:, seen]
        depth[index] = hit
        shade = _shade(body, bodies, frame, eye + hit * ray, ray, point[:, seen], normal[:, seen], setting)
        light.view(3, -1)[:, index] = shade


def _shade(
    body: _Body,
    bodies: list[_Body],
    frame: torch.Tensor,
    place: torch.Tensor,
    ray: torch.Tensor,
    point: torch.Tensor,
    normal: torch.Tensor,
    setting: _Setting,
) -> torch.Tensor:
    """Light (3, n) of surface points: place and ray in the world, point and normal in own axes."""
    sun, light, gloss = setting.sun, setting.light, GLOSSES[body.obj.material]
    nx, ny, nz = _turn(body.rotations[frame], normal, inverse=False)
    facing = nx * sun[0] + ny * sun[1] + nz * sun[2]
    direction = torch.tensor(sun, device=place.device).unsqueeze(1).expand_as(place)
    lit = facing.clamp(min=0.0)
    for other in bodies:
        if other is not body:
            hit, _, _ = _intersect(other, frame, place, direction)
            lit = torch.where(hit < FAR, 0.0, lit)
    double = 2.0 * (ray[0] * nx + ray[1] * ny + ray[2] * nz)
    mx, my, mz = ray[0] - double * nx, ray[1] - double * ny, ray[2] - double * nz  # the mirrored ray
    toward = (mx * sun[0] + my * sun[1] + mz * sun[2]).clamp(min=0.0)
    shine = gloss.highlight * toward**gloss.sharpness * (lit > 0.0)
    tone = torch.ones_like(lit)
    if body.obj.material == "checkered":
        tone = torch.where(is_dark(body.obj.shape, point), DARK, 1.0)
    albedo, sky, upward = ALBEDO[body.obj.colour], setting.sky(mz), (mz > 0.0)
    mirrored = gloss.mirror * (0.15 + 0.85 * (1.0 + 0.5 * double).clamp(0.0, 1.0) ** 3)
    channels = []
    for i in range(3):
        bounced = setting.lit_ground(i)
        ambient = light.ambient[i] * (0.5 + 0.5 * nz) + bounced * (0.5 - 0.5 * nz)
        own = tone * albedo[i] * (ambient + light.sun[i] * lit)
        if gloss.mirror:
            own = own + mirrored * (torch.where(upward, sky[i], bounced) - own)
        channels.append(own + shine * light.sun[i])
    return torch.stack(channels)


def _sun_samples(sun: Colour) -> list[Colour]:
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

    Returns distance (n,) in lengths of the ray's vector, `FAR` where it misses, and point and normal (3, n)
    in the body's own axes, where its radius is 1.
    """
    turn, shrink = body.rotations[frame], 1.0 / body.radii[frame]
    origin = _turn(turn, (origin - body.centres[frame].T) * shrink, inverse=True)
    return meet(body.obj.shape, origin, _turn(turn, ray * shrink, inverse=True))
