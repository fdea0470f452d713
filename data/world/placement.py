"""What a scene holds, drawn from a random stream: first the words of its objects, then numbers that fit.

Numbers are drawn object by object until all stay in view, apart and mostly unhidden for `CHECKED_SECONDS`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch

from data.world.camera import HALF_VIEW, Camera, camera_path, project
from data.world.caption import COLOURS, MATERIALS, MOTIONS, SHAPES, SIZES
from data.world.motion import (
    HEADINGS,
    RUN_SECONDS,
    SETTLED,
    SceneObject,
    contact_distance,
    frame_times,
    positions,
    scales,
    speeds_after,
)
from data.world.render import covered

PAIR_SHARE = 0.45  # of the scenes with more than one object: half collide, in half one passes behind another
SOLO_MOTIONS = MOTIONS[:13]
ROLLING = ("sphere", "cylinder", "torus")
ROUND = ("sphere", "cylinder", "cone")  # that these spin shows only when they are checkered

CHECKED_SECONDS = 10.0  # how long what is promised about a scene is checked to hold
CHECKED_RATE = 4.0  # checks a second
MARGIN = 0.08  # of the picture: centres stay this far from its border
GAP = 0.06  # units between upright cylinders
APART = 0.13  # of the picture: so far are centres from each other at time 0
MOST_HIDDEN = 0.15  # share of the checked seconds
MOST_HIDDEN_PASSING = 0.45
PASSED_SECONDS, PASSED = 4.0, 0.06  # by when, and by how much of the picture, what passes behind is past
ROOM = 0.06  # how much farther away the camera stands, and the wider things stand apart, for each object more

Item = TypeVar("Item")


@dataclass(frozen=True)
class Words:
    """What an object is called, before its numbers are drawn; its direction, where it may have several, only if it is
    asked for."""

    shape: str
    colour: str
    size: str
    material: str
    motion: str
    direction: str = ""


@dataclass(frozen=True)
class Placed:
    """An object that fits: where it is at the checked times (t, 3), and how far it reaches sideways (t,).

    ends: its first and its last place in plain numbers.
    """

    obj: SceneObject
    path: torch.Tensor
    reach: torch.Tensor
    ends: tuple[list[float], list[float]]


def draw_words(stream: random.Random, count: int) -> list[Words]:
    """What is in the scene: distinct (shape, colour) pairs, each with a motion that its shape can make.

    A pair that collides, or of which the first passes behind the second, stands first.
    """
    motions = [choice(stream, SOLO_MOTIONS) for _ in range(count)]
    if count > 1 and stream.random() < PAIR_SHARE:
        motions[:2] = choice(stream, (["collide", "collide"], ["pass behind", "stay"]))
    words: list[Words] = []
    taken: set[tuple[str, str]] = set()
    for number, motion in enumerate(motions):
        shapes = ROLLING if motion == "roll" else SHAPES
        shape, colour = choice(stream, [(s, c) for s in shapes for c in COLOURS if (s, c) not in taken])
        taken.add((shape, colour))
        size, material = choice(stream, SIZES), choice(stream, MATERIALS)
        if motion == "roll" or (motion == "spin" and shape in ROUND):
            material = "checkered"
        if motion in ("grow", "shrink"):
            size = "small" if motion == "grow" else "large"
        if number == 1 and motions[0] == "pass behind":
            size = "large"
        words.append(Words(shape, colour, size, material, motion))
    return words


def pair_of(words: Sequence[Words]) -> tuple[int, int] | None:
    """Who collides with whom, or passes behind whom; None if nobody does."""
    return (0, 1) if words[0].motion in ("collide", "pass behind") else None


def place(
    words: Sequence[Words], camera_motion: str, stream: random.Random
) -> tuple[tuple[SceneObject, ...], Camera] | None:
    """Draw the numbers of the objects and of the camera until all fit; None if nothing does."""
    pair = pair_of(words)
    room = 1.0 + ROOM * (len(words) - 1)
    for _ in range(12):
        camera = draw_camera(camera_motion, room, stream)
        checks = _checks(camera)
        groups = [words[:2], *([word] for word in words[2:])] if pair else [[word] for word in words]
        placed: tuple[Placed, ...] = ()
        for group in groups:
            tries = (_draw_group(group, room, checks, stream) for _ in range(40 if len(group) == 2 else 25))
            fitting = next((fit for group in tries if (fit := _fitting(group, placed, checks))), None)
            if fitting is None:
                break
            placed = fitting
        else:
            return tuple(one.obj for one in placed), camera
    return None


def draw_camera(motion: str, room: float, stream: random.Random) -> Camera:
    distance = {"zoom in": 5.7, "zoom out": 4.1}.get(motion, 5.0)
    return Camera(
        motion=motion,
        azimuth=between(stream, -0.08, 0.08),
        elevation=between(stream, 0.22, 0.30),
        distance=room * distance * between(stream, 0.96, 1.04),
        speed=between(stream, 0.17, 0.21) if motion.startswith("orbit") else 0.0,
    )


@dataclass(frozen=True)
class _Checks:
    """When a scene is checked, and the camera then: times (t,), eyes (t, 3), axes (t, 3, 3).

    ends: the first and the last check in plain numbers: eye, right, up, forward.
    """

    times: torch.Tensor
    eyes: torch.Tensor
    axes: torch.Tensor
    ends: tuple[tuple[list[float], list[float], list[float], list[float]], ...]


def _checks(camera: Camera) -> _Checks:
    times = frame_times(int(CHECKED_SECONDS * CHECKED_RATE) + 1, CHECKED_RATE)
    eyes, axes = camera_path(camera, times)
    ends = tuple((eyes[i].tolist(), *axes[i].tolist()) for i in (0, -1))
    return _Checks(times, eyes, axes, ends)


def _draw_group(words: Sequence[Words], room: float, checks: _Checks, stream: random.Random) -> list[SceneObject]:
    """Numbers for one object, or for the two of a pair."""
    if len(words) == 1:
        return [_draw_object(words[0], room, stream)]
    if words[0].motion == "collide":
        return _draw_collision(words[0], words[1], room, stream)
    return _draw_passing(words[0], words[1], room, checks, stream)


def _draw_object(words: Words, room: float, stream: random.Random) -> SceneObject:
    """Draw one object's numbers; slides and rolls start off centre, to cross most of the picture."""
    x, y = room * between(stream, -1.3, 1.3), room * between(stream, -0.8, 1.0)
    motion, direction, speed, path_radius, period, height = words.motion, "", 0.0, 0.0, 1.0, 0.0
    if motion.startswith("slide") or motion == "roll":
        direction = _way(words, ("left", "right"), stream) if motion == "roll" else motion.split()[1]
        speed = between(stream, 0.24, 0.34)
        if direction in ("left", "right"):
            x = between(stream, 0.4, 1.5) * room * (1.0 if direction == "left" else -1.0)
        else:
            y = room * (between(stream, 0.6, 1.5) if direction == "towards" else between(stream, -1.3, -0.5))
    elif motion == "bounce":
        period = between(stream, 1.0, 1.6)
    elif motion == "orbit":
        direction = _way(words, ("clockwise", "counterclockwise"), stream)
        path_radius, period = between(stream, 0.5, 0.9), between(stream, 4.0, 6.0)
        x, y = 0.6 * x, 0.6 * y
    elif motion == "spin":
        direction, period = _way(words, ("clockwise", "counterclockwise"), stream), between(stream, 2.4, 4.0)
    elif motion == "rise":
        height = between(stream, 0.7, 1.0)
    elif motion == "fall":
        height = between(stream, 1.0, 1.6)
    return SceneObject(
        words.shape,
        words.colour,
        words.size,
        motion,
        x,
        y,
        direction,
        speed,
        period,
        phase=stream.random(),
        path_radius=path_radius,
        yaw=between(stream, -0.78, 0.78),
        height=height,
        material=words.material,
    )


def _way(words: Words, ways: Sequence[str], stream: random.Random) -> str:
    return words.direction or choice(stream, ways)


def _draw_collision(mover: Words, hit: Words, room: float, stream: random.Random) -> list[SceneObject]:
    """One slides along x and meets the other, squarely, after 1.2 to 2.2 s; both have yaw 0."""
    x, y = room * between(stream, -1.0, 1.0), room * between(stream, -0.7, 1.0)
    direction = _way(mover, ("left", "right"), stream)
    speed, event = between(stream, 0.3, 0.45), between(stream, 1.2, 2.2)
    target = _object(hit, x, y, direction, event=event)
    first = _object(mover, x, y, direction, event=event, speed=speed)
    mover_after, hit_after = speeds_after(first, target)
    run = contact_distance(first, target) + speed * event
    start = x - run if direction == "right" else x + run
    return [
        _object(mover, start, y, direction, event=event, speed=speed, after=mover_after),
        _object(hit, x, y, direction, event=event, after=hit_after),
    ]


def _draw_passing(mover: Words, front: Words, room: float, checks: _Checks, stream: random.Random) -> list[SceneObject]:
    """One slides along x so that it is right behind the other, as the camera sees it, after 1.5 to 2.5 s."""
    x, y = room * between(stream, -1.0, 1.0), room * between(stream, -1.1, -0.3)
    direction = _way(mover, ("left", "right"), stream)
    speed, event = between(stream, 0.34, 0.48), between(stream, 1.5, 2.5)
    standing = _object(front, x, y, "", yaw=between(stream, -0.78, 0.78))
    reach = standing.girth + _object(mover, 0.0, 0.0, "").girth
    back = y + reach + between(stream, 0.1, 0.5)
    eye_x, eye_y, _ = checks.eyes[round(event * CHECKED_RATE)].tolist()
    crossing = eye_x + (x - eye_x) * (back - eye_y) / (y - eye_y)
    start = crossing - speed * event if direction == "right" else crossing + speed * event
    return [_object(mover, start, back, direction, speed=speed, yaw=between(stream, -0.78, 0.78)), standing]


def _object(
    words: Words,
    x: float,
    y: float,
    direction: str,
    speed: float = 0.0,
    yaw: float = 0.0,
    event: float = 0.0,
    after: float = 0.0,
) -> SceneObject:
    return SceneObject(
        words.shape,
        words.colour,
        words.size,
        words.motion,
        x,
        y,
        direction,
        speed,
        yaw=yaw,
        event=event,
        after=after,
        material=words.material,
    )


def _fitting(group: list[SceneObject], placed: tuple[Placed, ...], checks: _Checks) -> tuple[Placed, ...] | None:
    """All placed so far with the group added; None if one of the group leaves, touches, hides or is hidden."""
    if any(_fails_at_ends(obj, placed, checks) for obj in group):
        return None
    everything = placed
    for obj in group:
        path = positions(obj, checks.times)
        centres, _ = project(path, checks.eyes, checks.axes, aspect=1.0)
        if float((centres - 0.5).abs().max()) > 0.5 - MARGIN:
            return None
        reach = obj.girth * scales(obj, checks.times)
        everything = (*everything, Placed(obj, path, reach, (path[0].tolist(), path[-1].tolist())))
    for one, two in combinations(everything, 2):
        if two in placed:
            continue
        gap = (one.path - two.path)[:, :2].norm(dim=-1) - one.reach - two.reach
        if (one.obj.motion != "collide" or two.obj.motion != "collide") and float(gap.min()) < GAP:
            return None
        first, _ = project(torch.stack((one.path[0], two.path[0])), checks.eyes[:1], checks.axes[:1], aspect=1.0)
        if float((first[0] - first[1]).norm()) < APART:
            return None
    if group[0].motion == "pass behind" and not _passes(everything[-2], everything[-1], checks):
        return None
    objects = tuple(one.obj for one in everything)
    for one in everything:
        hidden = covered(one.obj, objects, checks.eyes, checks.times)
        most = MOST_HIDDEN_PASSING if one.obj.motion == "pass behind" else MOST_HIDDEN
        if bool(hidden[0]) or float(hidden.double().mean()) > most:
            return None
    return everything


def _passes(mover: Placed, front: Placed, checks: _Checks) -> bool:
    """Whether, in the picture, the mover starts on one side of the other and ends on its other side."""
    centres = [project(one.path, checks.eyes, checks.axes, aspect=1.0)[0][:, 0] for one in (mover, front)]
    ahead = (centres[0] - centres[1]) * HEADINGS[mover.obj.direction][0]  # t
    return float(ahead[0]) < -PASSED and float(ahead[round(PASSED_SECONDS * CHECKED_RATE)]) > PASSED


def _fails_at_ends(obj: SceneObject, placed: tuple[Placed, ...], checks: _Checks) -> bool:
    """Whether an object's place at the first or last check alone rules it out.

    In plain numbers: it says no to most draws, many times faster than all checks.
    """
    heading, run = HEADINGS.get(obj.direction, (0.0, 0.0)), obj.speed * RUN_SECONDS * SETTLED
    for end, (eye, right, up, forward) in zip((0, -1), checks.ends, strict=True):
        gone = 0.0 if end == 0 or obj.motion == "collide" else run
        place = (obj.x + heading[0] * gone, obj.y + heading[1] * gone, obj.rest_height)
        away = [a - b for a, b in zip(place, eye, strict=True)]
        aside, above, ahead = (sum(a * b for a, b in zip(axis, away, strict=True)) for axis in (right, up, forward))
        if max(abs(aside), abs(above)) > (1.0 - 2.0 * MARGIN) * HALF_VIEW * max(ahead, 1e-3) + 0.05:
            return True
        if obj.motion in ("orbit", "collide"):  # where these are at the ends takes more to tell
            continue
        for other in placed:
            if math.dist(place[:2], other.ends[end][:2]) < obj.girth + other.obj.girth:
                return True
    return False


def weighted(stream: random.Random, weights: tuple[float, ...]) -> int:
    """An index, drawn in proportion to weights that sum to 1."""
    value = stream.random()
    for index, weight in enumerate(weights):
        value -= weight
        if value < 0.0:
            return index
    return len(weights) - 1


def choice(stream: random.Random, items: Sequence[Item]) -> Item:
    return items[int(stream.random() * len(items))]


def between(stream: random.Random, low: float, high: float) -> float:
    return low + (high - low) * stream.random()
