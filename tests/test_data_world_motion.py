"""Motion: paths are what their names say and come to rest, rolling does not slip, collisions keep what they must."""

import math
from itertools import product

import pytest
import torch

from data.world.caption import MOTIONS, SHAPES, SIZES
from data.world.motion import (
    CONE_HALF_HEIGHT,
    CONE_RADIUS,
    FORMS,
    GRAVITY,
    GROW_FACTOR,
    GROW_SECONDS,
    HIT_SECONDS,
    REBOUND,
    RISE_SECONDS,
    RUN_SECONDS,
    SETTLED,
    SceneObject,
    contact_distance,
    frame_times,
    positions,
    rotations,
    scales,
    speeds_after,
    spins,
)
from data.world.words import MOTION_WAYS, family_of

TIMES = frame_times(200, 25.0)
LONG = frame_times(1001, 50.0)  # 20 s
FINE = frame_times(6001, 1000.0)  # 6 s
PAIRS = list(product(SHAPES, SHAPES))


def thing(motion: str, direction: str = "", shape: str = "sphere", size: str = "large") -> SceneObject:
    return SceneObject(
        shape,
        "red",
        size,
        motion,
        0.3,
        -0.2,
        direction,
        speed=0.25,
        period=1.3,
        phase=0.4,
        path_radius=0.7,
        yaw=0.5,
        height=1.2,
        event=1.5,
        after=0.1,
    )


def pair(mover: tuple[str, str], hit: tuple[str, str], direction: str) -> tuple[SceneObject, SceneObject]:
    """Two of a (shape, size) each, of which the first meets the second 1.5 s after it starts."""

    def made(words: tuple[str, str], x: float, speed: float, after: float) -> SceneObject:
        shape, size = words
        numbers = {"speed": speed, "event": 1.5, "after": after}
        return SceneObject(shape, "red", size, "collide", x, 0.4, direction, **numbers)

    before = made(mover, 0.0, 0.4, 0.0), made(hit, 0.0, 0.0, 0.0)
    after = speeds_after(*before)
    run = contact_distance(*before) + 0.4 * 1.5
    return made(mover, -run if direction == "right" else run, 0.4, after[0]), made(hit, 0.0, 0.0, after[1])


def settles_without_a_jolt(way: torch.Tensor, seconds: float, total: float) -> None:
    """(1001,) over `LONG`: it goes steadily for `seconds`, then ever slower, by `total` in all."""
    speed = way.diff() * 50.0
    steady = round(seconds * 50.0)
    torch.testing.assert_close(speed[:steady], speed[:1].expand(steady), atol=1e-9, rtol=0)
    assert (speed.diff()[steady:] < 0).all() and (speed > 0).all()
    assert speed.diff().abs().max() * 50.0 < 3.0 * speed[0] / seconds, "a jolt"
    assert math.isclose(float(way[-1] - way[0]), total, rel_tol=1e-3) and speed[-1] < 2e-3 * speed[0]


def test_frame_times_start_at_zero_and_step_by_the_rate() -> None:
    assert frame_times(3, 8.0).tolist() == [0.0, 0.125, 0.25]


@pytest.mark.parametrize(
    ("frames", "rate", "name"),
    [(0, 8.0, "num_frames=0"), (4, 0.0, "frame_rate=0.0"), (4, math.inf, "frame_rate=inf")],
)
def test_no_frames_or_no_rate_is_one_clear_line(frames: int, rate: float, name: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        frame_times(frames, rate)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_has_a_path_without_a_jump(motion: str) -> None:
    times = frame_times(12001, 1000.0)
    for direction in MOTION_WAYS.get(family_of(motion), ("",)):
        obj = thing(motion, motion.removeprefix("slide ") if motion.startswith("slide") else direction)
        path, turns = positions(obj, times), rotations(obj, times)
        assert path.isfinite().all() and turns.isfinite().all()
        assert path.diff(dim=0).norm(dim=1).max() < 3.6e-3, "faster than anything falls"
        assert turns.diff(dim=0).abs().max() < 6e-3 and scales(obj, times).diff().abs().max() < 1e-3
        assert (path[:, 2] - obj.rest_height * scales(obj, times) > -1e-9).all(), "below the ground"


def test_a_motion_without_a_path_is_an_error() -> None:
    with pytest.raises(ValueError, match="motion='fly'"):
        positions(thing("fly"), TIMES)


@pytest.mark.parametrize(
    ("direction", "heading"),
    [("left", (-1, 0)), ("right", (1, 0)), ("towards", (0, -1)), ("away", (0, 1))],
)
def test_slides_go_steadily_where_they_say_and_come_smoothly_to_rest(direction: str, heading: tuple[int, int]) -> None:
    path = positions(thing(f"slide {direction}", direction), LONG)
    way = path @ torch.tensor([*heading, 0], dtype=torch.float64)
    settles_without_a_jolt(way, RUN_SECONDS, 0.25 * RUN_SECONDS * SETTLED)
    assert math.isclose(float(way[50] - way[0]), 0.25, rel_tol=1e-9), "0.25 units/s for the first second"
    across = path - torch.outer(way, torch.tensor([*heading, 0], dtype=torch.float64))
    torch.testing.assert_close(across, across[:1].expand_as(across))


@pytest.mark.parametrize("motion", ["roll", "pass behind"])
@pytest.mark.parametrize("direction", ["left", "right"])
def test_rolling_and_passing_go_as_slides_do(motion: str, direction: str) -> None:
    slide = positions(thing(f"slide {direction}", direction), LONG)
    torch.testing.assert_close(positions(thing(motion, direction), LONG), slide)


@pytest.mark.parametrize("shape", ["sphere", "cylinder", "torus"])
@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize("second", [1.0, 7.0])  # while it keeps its speed, and while it slows down
def test_rolling_does_not_slip(shape: str, direction: str, second: float) -> None:
    obj = thing("roll", direction, shape)
    step = 1e-4
    times = torch.tensor([second - step, second, second + step], dtype=torch.float64)
    centres, turns = positions(obj, times), rotations(obj, times)
    ground = torch.tensor([0.0, 0.0, -obj.rest_height], dtype=torch.float64)
    touching = turns[1].T @ ground  # the point of the body that touches the ground then, in its own axes
    places = centres + turns @ touching
    assert places[1, 2].abs() < 1e-9
    assert ((places[2] - places[0]) / (2 * step)).norm() < 1e-6
    assert (centres[2] - centres[0]).norm() / (2 * step) > 0.08, "it moves"


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rotations_are_rotations_about_the_axis_it_stands_on(motion: str, shape: str) -> None:
    turns = rotations(thing(motion, "left", shape), TIMES)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3, dtype=torch.float64).expand_as(turns))
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(200, dtype=torch.float64))
    own_axis = turns[:, :, 2]
    if motion == "roll":
        torch.testing.assert_close(own_axis[:, 1].abs(), torch.ones(200, dtype=torch.float64))
    elif shape == "torus":
        assert own_axis[:, 2].abs().max() < 1e-9, "a torus stands upright"
    else:
        torch.testing.assert_close(own_axis[:, 2], torch.ones(200, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_only_what_rolls_or_spins_turns(shape: str) -> None:
    for motion in MOTIONS:
        turns = rotations(thing(motion, "left", shape), TIMES)
        turned = float((turns - turns[0]).abs().max())
        assert (turned > 0.5) is (motion in ("roll", "spin")), motion


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("direction", "sign"), [("clockwise", -1.0), ("counterclockwise", 1.0)])
def test_spins_turn_in_place_in_the_sense_they_say(shape: str, direction: str, sign: float) -> None:
    obj = thing("spin", direction, shape)
    path, turns = positions(obj, TIMES), rotations(obj, TIMES)
    torch.testing.assert_close(path, path[:1].expand_as(path))
    mark = turns[:, :2, 0]  # where a mark on the object's own x axis points, seen from above
    turning = mark[:-1, 0] * mark[1:, 1] - mark[:-1, 1] * mark[1:, 0]
    assert (turning * sign > 0).all()
    torch.testing.assert_close(spins(obj, TIMES), sign * 2.0 * math.pi / 1.3 * TIMES)
    torch.testing.assert_close(rotations(obj, TIMES + 1.3), turns)
    assert (rotations(obj, TIMES + 0.65) - turns).abs().max() > 1.0, "half a turn is not a whole one"


def test_bounces_fall_freely_and_touch_the_ground() -> None:
    obj = thing("bounce")
    height = positions(obj, FINE)[:, 2] - obj.rest_height
    assert height.min() >= 0 and height.min() < 1e-2
    acceleration = height.diff(n=2) * 1000.0**2
    falling = acceleration < 0
    assert falling.double().mean() > 0.99
    torch.testing.assert_close(acceleration[falling].median(), torch.tensor(-GRAVITY, dtype=torch.float64))
    assert height.diff().abs().max() < 2.5 * 1e-3, "a jump in height"


def test_orbits_keep_their_radius_period_and_sense() -> None:
    for direction, sign in (("clockwise", -1.0), ("counterclockwise", 1.0)):
        obj = thing("orbit", direction)
        arm = positions(obj, TIMES)[:, :2] - torch.tensor([obj.x, obj.y], dtype=torch.float64)
        torch.testing.assert_close(arm.norm(dim=1), torch.full((200,), 0.7, dtype=torch.float64))
        turning = arm[:-1, 0] * arm[1:, 1] - arm[:-1, 1] * arm[1:, 0]
        assert (turning * sign > 0).all()
        torch.testing.assert_close(
            positions(obj, torch.tensor([0.2])), positions(obj, torch.tensor([0.2 + obj.period]))
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("motion", "sign"), [("grow", 1.0), ("shrink", -1.0)])
def test_growing_and_shrinking_reach_their_factor_on_the_ground(shape: str, motion: str, sign: float) -> None:
    obj = thing(motion, shape=shape)
    size = scales(obj, LONG)
    assert size[0] == 1.0 and math.isclose(size[round(GROW_SECONDS * 50)], GROW_FACTOR**sign, rel_tol=1e-9)
    settles_without_a_jolt(sign * size.log(), GROW_SECONDS, math.log(GROW_FACTOR) * SETTLED)
    path = positions(obj, LONG)
    torch.testing.assert_close(path[:, 2], size * FORMS[shape].half_height * obj.radius)  # the bottom at z = 0
    torch.testing.assert_close(path[:, :2], path[:1, :2].expand(len(LONG), 2))


def test_nothing_else_changes_its_size() -> None:
    for motion in set(MOTIONS) - {"grow", "shrink"}:
        assert (scales(thing(motion, "left"), TIMES) == 1.0).all()


def test_rising_goes_up_alone_and_settles() -> None:
    path = positions(thing("rise"), LONG)
    settles_without_a_jolt(path[:, 2], RISE_SECONDS, 1.2 * SETTLED)
    assert math.isclose(float(path[round(RISE_SECONDS * 50), 2] - path[0, 2]), 1.2, rel_tol=1e-9)
    assert math.isclose(path[0, 2], thing("rise").rest_height)
    torch.testing.assert_close(path[:, :2], path[:1, :2].expand(len(LONG), 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_falls_falls_freely_rebounds_less_and_less_and_lies_still(shape: str) -> None:
    obj = thing("fall", shape=shape)
    path = positions(obj, FINE)
    height, speed = path[:, 2] - obj.rest_height, path[:, 2].diff() * 1000.0
    assert math.isclose(height[0], 1.2) and height.min() > -1e-12 and (height[2500:].abs() < 1e-9).all()
    landing = math.sqrt(2.0 * 1.2 / GRAVITY)
    free = speed.diff()[: int(landing * 1000) - 2] * 1000.0
    torch.testing.assert_close(free, torch.full_like(free, -GRAVITY), atol=1e-6, rtol=0)
    peaks = height[1:-1][(height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:])]
    assert len(peaks) >= 3 and (peaks < 1.2 * REBOUND).all() and (peaks.diff() < 0).all()
    assert math.isclose(peaks[0], 1.2 * REBOUND**2, rel_tol=1e-2)
    assert math.isclose(speed.max(), GRAVITY * landing * REBOUND, rel_tol=1e-2), "it leaves more slowly than it came"


def in_profile(obj: SceneObject, x: float, places: torch.Tensor) -> torch.Tensor:
    """Which places (2, n), x and z, an object at x that stands on the ground fills, seen from the side."""
    form = FORMS[obj.shape]
    across, above = (places[0] - x).abs() / obj.radius, places[1] / obj.radius  # 0 on the ground
    if obj.shape in ("sphere", "torus"):
        return torch.hypot(across, above - form.foot) < form.foot
    if obj.shape == "cone":
        return (across < CONE_RADIUS * (1.0 - above / (2.0 * CONE_HALF_HEIGHT))) & (above > 0.0)
    return (across < form.foot) & (above > 0.0) & (above < 2.0 * form.half_height)


@pytest.mark.parametrize("shapes", PAIRS, ids="-".join)
def test_contact_distance_is_where_two_touch(shapes: tuple[str, str]) -> None:
    for sizes in product(SIZES, SIZES):
        one, two = (thing("stay", shape=shape, size=size) for shape, size in zip(shapes, sizes, strict=True))
        distance = contact_distance(one, two)
        assert math.isclose(distance, contact_distance(two, one))
        places = torch.cartesian_prod(torch.arange(0.0, distance, 0.006), torch.arange(0.002, 1.4, 0.006)).T
        overlaps = [
            bool((in_profile(one, 0.0, places) & in_profile(two, apart, places)).any())
            for apart in (distance - 0.03, distance + 1e-5)
        ]
        assert overlaps == [True, False]


@pytest.mark.parametrize("words", PAIRS, ids="-".join)
@pytest.mark.parametrize("direction", ["left", "right"])
def test_collisions_touch_once_and_keep_momentum_and_energy(words: tuple[str, str], direction: str) -> None:
    sign = 1.0 if direction == "right" else -1.0
    for sizes in product(SIZES, SIZES):
        mover, hit = pair((words[0], sizes[0]), (words[1], sizes[1]), direction)
        ways = [sign * positions(obj, FINE)[:, 0] for obj in (mover, hit)]
        gap = ways[1] - ways[0]
        touching = contact_distance(mover, hit)
        assert math.isclose(gap[1500], touching, rel_tol=1e-9) and (gap >= touching - 1e-9).all()
        assert (gap[:1500] > touching).all() and (gap[1501:] > touching).all()
        (mover_before, mover_after), (hit_before, hit_after) = (
            (float(way[1000] - way[0]), float(way[3500] - way[2500])) for way in ways
        )
        assert hit_before == 0.0 and hit_after > 0.0 and math.isclose(mover_before, 0.4, rel_tol=1e-9)
        momentum = mover.volume * mover_after + hit.volume * hit_after
        energy = mover.volume * mover_after**2 + hit.volume * hit_after**2
        assert math.isclose(momentum, mover.volume * 0.4, rel_tol=1e-9)
        assert math.isclose(energy, mover.volume * 0.4**2, rel_tol=1e-9)
        assert (mover_after < -1e-9) is (mover.volume < hit.volume * (1.0 - 1e-9)), "thrown back by what is heavier"


def test_after_a_collision_both_come_smoothly_to_rest() -> None:
    mover, hit = pair(("cube", "large"), ("sphere", "small"), "right")
    for obj in (mover, hit):
        since = positions(obj, obj.event + LONG)[:, 0]
        settles_without_a_jolt(since, HIT_SECONDS, obj.after * HIT_SECONDS * SETTLED)
