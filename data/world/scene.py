"""Scenes: what is in a clip, drawn from (split, seed), and the exact truth about it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from data.world.caption import COLOURS, MOTIONS, is_held_out, keyed_random, scene_caption
from data.world.motion import Camera, SceneObject, camera_path, frame_times, positions, velocity
from data.world.render import HALF_VIEW, covered, half_view, render_scene

SPLITS = ("train", "val", "test", "all")
ACTIVE_SHAPES = ("sphere", "cube", "cylinder")
ACTIVE_MOTIONS = MOTIONS[:7]  # slides, roll, bounce, orbit
CAMERAS = ("still", "orbit left", "orbit right", "zoom in", "zoom out")
CAMERA_WEIGHTS = (0.4, 0.15, 0.15, 0.15, 0.15)
COUNT_WEIGHTS = (0.6, 0.3, 0.1)

CHECKED_SECONDS = 10.0  # how long what is promised about a scene is checked to hold
CHECKED_RATE = 4.0  # checks a second
MARGIN = 0.10  # of the picture: centres stay this far from its border
GAP = 0.06  # units between bounding spheres
MOST_HIDDEN = 0.15  # share of the checked seconds

Item = TypeVar("Item")


@dataclass(frozen=True)
class ObjectTruth:
    """Where one object is, frame by frame.

    positions: (t, 3) float32, the centre in units. centres: (t, 2) float32, the centre in the picture, x
    from the left and y from the top, each in [0, 1] when inside. uncovered: (t,) bool, no other object
    hides the centre. visible: (t,) bool, uncovered and inside the picture.
    """

    shape: str
    colour: str
    size: str
    motion: str
    direction: str
    positions: torch.Tensor
    centres: torch.Tensor
    uncovered: torch.Tensor
    visible: torch.Tensor


@dataclass(frozen=True)
class Truth:
    """The truth about a clip whose picture is `aspect` (width / height) wide.

    camera_positions: (t, 3) units. camera_axes: (t, 3, 3), rows right, up, forward. times: (t,) seconds.
    """

    objects: tuple[ObjectTruth, ...]
    camera_positions: torch.Tensor
    camera_axes: torch.Tensor
    times: torch.Tensor
    aspect: float

    def at_aspect(self, aspect: float) -> "Truth":
        """The same clip in a picture of another aspect, width / height; ValueError if that is not > 0."""
        if not aspect > 0:
            raise ValueError(f"aspect={aspect} must be width / height: use a number above 0")
        objects = []
        for obj in self.objects:
            centres, inside = _project(obj.positions, self.camera_positions, self.camera_axes, aspect)
            objects.append(replace(obj, centres=centres, visible=obj.uncovered & inside))
        return Truth(tuple(objects), self.camera_positions, self.camera_axes, self.times, aspect)


@dataclass(frozen=True)
class Scene:
    """One clip's content: a pure function of (split, seed). Render it at any size, duration and frame rate.

    sun_azimuth, sun_elevation: radians; azimuth to the right of the viewer's back at time 0.
    """

    objects: tuple[SceneObject, ...]
    camera: Camera
    sun_azimuth: float
    sun_elevation: float
    split: str
    seed: int

    def render(
        self, num_frames: int, height: int, width: int, frame_rate: float, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """Frames: uint8 (t, h, w, 3) on `device`. Raises ValueError for sizes below 8 or no frames."""
        return render_scene(self, num_frames, height, width, frame_rate, device=device)

    def caption(self, style: str = "exhaustive") -> str:
        """A true description; `style` is "exhaustive" or "short". Raises ValueError for another style."""
        return scene_caption(self, style)

    def truth(self, num_frames: int, frame_rate: float) -> Truth:
        """Where everything is in each frame, in a square picture; `.at_aspect` gives it for another one.

        Raises ValueError for num_frames < 1 or frame_rate <= 0.
        """
        times = frame_times(num_frames, frame_rate)
        camera_positions, camera_axes = camera_path(self.camera, times)
        objects = []
        for obj in self.objects:
            path = positions(obj, times)
            centres, inside = _project(path, camera_positions, camera_axes, aspect=1.0)
            uncovered = ~covered(obj, self.objects, camera_positions, times)
            objects.append(
                ObjectTruth(
                    shape=obj.shape,
                    colour=obj.colour,
                    size=obj.size,
                    motion=obj.motion,
                    direction=obj.direction,
                    positions=path.float(),
                    centres=centres.float(),
                    uncovered=uncovered,
                    visible=uncovered & inside,
                )
            )
        return Truth(tuple(objects), camera_positions.float(), camera_axes.float(), times.float(), aspect=1.0)


def sample_scene(split: str, seed: int) -> Scene:
    """Draw a scene, as a pure function of (split, seed).

    "train" and "val" hold no object of a held-out triple, "test" holds at least one, "all" draws freely.
    Raises ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is no split of the world: use one of {', '.join(SPLITS)}")
    first = keyed_random(split, seed, "count and camera")
    count = 1 + _weighted(first, COUNT_WEIGHTS)
    camera_motion = CAMERAS[_weighted(first, CAMERA_WEIGHTS)]
    attempt = 0
    while True:
        stream = keyed_random(split, seed, "scene", attempt)
        words = _draw_words(stream, count)
        held_out = [is_held_out(word.shape, word.colour, word.motion) for word in words]
        wanted = {"train": not any(held_out), "val": not any(held_out), "test": any(held_out), "all": True}[split]
        placed = _place(words, camera_motion, stream) if wanted else None
        if placed is not None:
            objects, camera = placed
            sun_azimuth = _choice(stream, (-1.0, 1.0)) * _between(stream, 0.6, 1.4)
            return Scene(objects, camera, sun_azimuth, _between(stream, 0.75, 1.0), split, seed)
        attempt += 1


@dataclass(frozen=True)
class _Words:
    """What an object is called, before its numbers are drawn."""

    shape: str
    colour: str
    size: str
    motion: str


def _draw_words(stream: random.Random, count: int) -> list[_Words]:
    """What is in the scene: distinct (shape, colour) pairs, each with a motion that its shape can make."""
    words: list[_Words] = []
    taken: set[tuple[str, str]] = set()
    for _ in range(count):
        motion = _choice(stream, ACTIVE_MOTIONS)
        shapes = tuple(s for s in ACTIVE_SHAPES if motion != "roll" or s != "cube")
        pairs = [(s, c) for s in shapes for c in COLOURS if (s, c) not in taken]
        shape, colour = _choice(stream, pairs)
        taken.add((shape, colour))
        words.append(_Words(shape, colour, _choice(stream, ("small", "large")), motion))
    return words


def _place(
    words: list[_Words], camera_motion: str, stream: random.Random
) -> tuple[tuple[SceneObject, ...], Camera] | None:
    """Draw the numbers, object by object, until all fit for `CHECKED_SECONDS`; None if nothing fits."""
    for _ in range(12):
        camera = _draw_camera(camera_motion, stream)
        checks = _checks(camera)
        placed: tuple[SceneObject, ...] = ()
        paths: tuple[torch.Tensor, ...] = ()
        for word in words:
            tries = (_draw_object(word, stream) for _ in range(25))
            fitting = next((obj for obj in tries if _fits(obj, placed, paths, checks)), None)
            if fitting is None:
                break
            placed, paths = (*placed, fitting), (*paths, positions(fitting, checks.times))
        else:
            return placed, camera
    return None


@dataclass(frozen=True)
class _Checks:
    """When a scene is checked, and the camera then: times (t,), eyes (t, 3), axes (t, 3, 3).

    ends: the first and the last check in plain numbers: seconds, eye, right, up, forward.
    """

    times: torch.Tensor
    eyes: torch.Tensor
    axes: torch.Tensor
    ends: tuple[tuple[float, list[float], list[float], list[float], list[float]], ...]


def _checks(camera: Camera) -> _Checks:
    times = frame_times(int(CHECKED_SECONDS * CHECKED_RATE) + 1, CHECKED_RATE)
    eyes, axes = camera_path(camera, times)
    ends = tuple((float(times[i]), eyes[i].tolist(), *axes[i].tolist()) for i in (0, -1))
    return _Checks(times, eyes, axes, ends)


def _draw_camera(motion: str, stream: random.Random) -> Camera:
    distance = {"zoom in": 5.7, "zoom out": 4.1}.get(motion, 5.0)
    return Camera(
        motion=motion,
        azimuth=_between(stream, -0.08, 0.08),
        elevation=_between(stream, 0.22, 0.30),
        distance=distance * _between(stream, 0.96, 1.04),
        speed=_between(stream, 0.17, 0.21) if motion.startswith("orbit") else 0.0,
    )


def _draw_object(words: _Words, stream: random.Random) -> SceneObject:
    """Draw one object's numbers; slides and rolls start off centre, to cross the picture in about 10 s."""
    x, y = _between(stream, -1.3, 1.3), _between(stream, -0.8, 1.0)
    motion, direction, speed, path_radius, period = words.motion, "", 0.0, 0.0, 1.0
    if motion.startswith("slide") or motion == "roll":
        direction = _choice(stream, ("left", "right")) if motion == "roll" else motion.split()[1]
        speed = _between(stream, 0.23, 0.31)
        start = _between(stream, 0.9, 1.7)
        if direction in ("left", "right"):
            x = start if direction == "left" else -start
        else:
            y = _between(stream, 1.0, 1.7) if direction == "towards" else _between(stream, -1.6, -0.9)
    elif motion == "bounce":
        period = _between(stream, 1.0, 1.6)
    else:
        direction = _choice(stream, ("clockwise", "counterclockwise"))
        path_radius, period = _between(stream, 0.5, 0.9), _between(stream, 4.0, 6.0)
        x, y = 0.6 * x, 0.6 * y
    phase, yaw = stream.random(), _between(stream, -0.78, 0.78)
    return SceneObject(
        words.shape, words.colour, words.size, motion, x, y, direction, speed, period, phase, path_radius, yaw
    )


def _fits(obj: SceneObject, placed: tuple[SceneObject, ...], paths: tuple[torch.Tensor, ...], checks: _Checks) -> bool:
    """Whether an object stays in view, clear of those placed before, neither hiding nor hidden for long."""
    if _leaves_at_ends(obj, checks):
        return False
    path = positions(obj, checks.times)
    for other, other_path in zip(placed, paths, strict=True):
        apart = (path - other_path).norm(dim=-1).min()
        if float(apart) < obj.bounding_radius + other.bounding_radius + GAP:
            return False
    centres, _ = _project(path, checks.eyes, checks.axes, aspect=1.0)
    if float((centres - 0.5).abs().max()) > 0.5 - MARGIN:
        return False
    everything = (*placed, obj)
    for one in everything if placed else ():
        hidden = covered(one, everything, checks.eyes, checks.times)
        if bool(hidden[0]) or float(hidden.double().mean()) > MOST_HIDDEN:
            return False
    return True


def _leaves_at_ends(obj: SceneObject, checks: _Checks) -> bool:
    """Whether an object's place at the first or last check alone rules it out.

    In plain numbers, for straight paths: it says no to most draws, many times faster than all checks.
    """
    if not obj.direction or obj.motion == "orbit":
        return False
    speed_x, speed_y = velocity(obj)
    for seconds, eye, right, up, forward in checks.ends:
        away = (
            obj.x + speed_x * seconds - eye[0],
            obj.y + speed_y * seconds - eye[1],
            obj.rest_height - eye[2],
        )
        aside, above, ahead = (sum(a * b for a, b in zip(axis, away, strict=True)) for axis in (right, up, forward))
        if max(abs(aside), abs(above)) > (1.0 - 2.0 * MARGIN) * HALF_VIEW * max(ahead, 1e-3) + 1e-6:
            return True
    return False


def _project(
    points: torch.Tensor, eyes: torch.Tensor, axes: torch.Tensor, aspect: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (t, 3) in the picture: x from the left, y from the top (t, 2) in [0, 1]; and if inside (t,)."""
    right, up, forward = (axes @ (points - eyes).unsqueeze(-1)).squeeze(-1).unbind(-1)
    half_x, half_y = half_view(aspect)
    ahead = forward.clamp(min=1e-3)
    centres = torch.stack((0.5 + 0.5 * right / (ahead * half_x), 0.5 - 0.5 * up / (ahead * half_y)), dim=-1)
    inside = (forward > 1e-3) & ((centres >= 0.0) & (centres <= 1.0)).all(-1)
    return centres, inside


def _weighted(stream: random.Random, weights: tuple[float, ...]) -> int:
    """An index, drawn in proportion to weights that sum to 1."""
    value = stream.random()
    for index, weight in enumerate(weights):
        value -= weight
        if value < 0.0:
            return index
    return len(weights) - 1


def _choice(stream: random.Random, items: Sequence[Item]) -> Item:
    return items[int(stream.random() * len(items))]


def _between(stream: random.Random, low: float, high: float) -> float:
    return low + (high - low) * stream.random()
