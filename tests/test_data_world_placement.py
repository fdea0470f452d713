"""Placement: drawn words fit each other, and what is placed stays in view, apart and mostly unhidden."""

import random
from collections import Counter
from itertools import combinations

import pytest
import torch

from data.world.camera import camera_path, project
from data.world.caption import CAMERAS, COLOURS, MATERIALS, MOTIONS, SHAPES, SIZES, keyed_random
from data.world.motion import SceneObject, contact_distance, frame_times, positions, scales
from data.world.placement import (
    APART,
    CHECKED_RATE,
    CHECKED_SECONDS,
    GAP,
    MARGIN,
    MOST_HIDDEN,
    MOST_HIDDEN_PASSING,
    PAIR_SHARE,
    PASSED_SECONDS,
    ROLLING,
    ROUND,
    Words,
    between,
    choice,
    draw_camera,
    draw_words,
    pair_of,
    place,
    weighted,
)
from data.world.render import covered
from data.world.words import MOTION_WAYS, family_of

DRAWN = [draw_words(keyed_random("words", number), 1 + number % 4) for number in range(1000)]
CHECKED = frame_times(int(CHECKED_SECONDS * CHECKED_RATE) + 1, CHECKED_RATE)
BETWEEN_CHECKS = frame_times(int(CHECKED_SECONDS * 8.0) + 1, 8.0)


def placed_scenes() -> list[tuple[list[Words], str, tuple[SceneObject, ...]]]:
    """What is placed of 28 draws of one to four objects, with every camera, and the cameras."""
    scenes = []
    for number in range(28):
        stream = keyed_random("placed", number)
        words = draw_words(stream, 1 + number % 4)
        placed = place(words, CAMERAS[number % len(CAMERAS)], stream)
        if placed is not None:
            scenes.append((words, *placed))
    return scenes


PLACED = placed_scenes()


def a_passing(number: int) -> tuple[tuple[SceneObject, ...], torch.Tensor, torch.Tensor]:
    """Objects of which the first passes behind the second, and the camera's places and axes at `BETWEEN_CHECKS`."""
    stream = keyed_random("passing", number)
    shape, colour = choice(stream, SHAPES), choice(stream, COLOURS[1:])
    words = [
        Words(shape, colour, choice(stream, SIZES), "matte", "pass behind"),
        Words(choice(stream, SHAPES), "red", "large", "matte", "stay"),
    ]
    placed = None
    while placed is None:
        placed = place(words, CAMERAS[number % len(CAMERAS)], stream)
    return placed[0], *camera_path(placed[1], BETWEEN_CHECKS)


def test_weighted_choice_and_between_keep_their_shares_and_ranges() -> None:
    stream = keyed_random("stream")
    shares = Counter(weighted(stream, (0.6, 0.0, 0.3, 0.1)) for _ in range(4000))
    assert shares.keys() == {0, 2, 3}
    for index, share in ((0, 0.6), (2, 0.3), (3, 0.1)):
        assert shares[index] / 4000 == pytest.approx(share, abs=0.03)
    items = Counter(choice(stream, "abcd") for _ in range(4000))
    assert items.keys() == set("abcd") and all(900 < often < 1100 for often in items.values())
    values = [between(stream, -2.0, 3.0) for _ in range(4000)]
    assert -2.0 <= min(values) < -1.98 and 2.98 < max(values) < 3.0
    assert sum(values) / 4000 == pytest.approx(0.5, abs=0.1)


def test_weights_that_sum_to_a_little_less_still_give_an_index() -> None:
    assert {weighted(keyed_random("short", number), (0.0, 0.0)) for number in range(20)} == {1}


def test_words_are_of_the_vocabulary_and_all_of_it_is_drawn() -> None:
    words = [word for drawn in DRAWN for word in drawn]
    for field, vocabulary in (
        ("shape", SHAPES),
        ("colour", COLOURS),
        ("size", SIZES),
        ("material", MATERIALS),
        ("motion", MOTIONS),
    ):
        assert {getattr(word, field) for word in words} == set(vocabulary)
    assert all(len(drawn) == 1 + number % 4 for number, drawn in enumerate(DRAWN))


def test_no_two_objects_have_the_same_name() -> None:
    assert all(len({(word.shape, word.colour) for word in drawn}) == len(drawn) for drawn in DRAWN)


def test_motions_show() -> None:
    for word in (word for drawn in DRAWN for word in drawn):
        if word.motion == "roll":
            assert word.shape in ROLLING and word.material == "checkered"
        if word.motion == "spin" and word.shape in ROUND:
            assert word.material == "checkered"
        if word.motion in ("grow", "shrink"):
            assert word.size == {"grow": "small", "shrink": "large"}[word.motion]
    spinning = {word.material for drawn in DRAWN for word in drawn if word.motion == "spin" and word.shape == "cube"}
    assert spinning == set(MATERIALS), "what shows that it spins anyway need not be checkered"


def test_pairs_stand_first_and_are_as_common_as_meant() -> None:
    pairs = Counter()
    for drawn in DRAWN:
        motions = [word.motion for word in drawn]
        alone = motions[2:] if pair_of(drawn) else motions
        assert not {"collide", "pass behind"} & set(alone)
        if pair_of(drawn) is not None:
            assert pair_of(drawn) == (0, 1) and motions[:2] in (["collide", "collide"], ["pass behind", "stay"])
            assert motions[0] == "collide" or drawn[1].size == "large", "what is passed hides what passes"
            pairs[motions[0]] += 1
    several = sum(len(drawn) > 1 for drawn in DRAWN)
    for motion in ("collide", "pass behind"):
        assert pairs[motion] / several == pytest.approx(PAIR_SHARE / 2, abs=0.05)


def test_cameras_stand_farther_with_more_objects_and_before_they_zoom_in() -> None:
    for motion in CAMERAS:
        near, far = (draw_camera(motion, room, keyed_random("camera", motion)) for room in (1.0, 1.18))
        assert near.motion == motion and far.distance == pytest.approx(1.18 * near.distance)
        assert (near.speed > 0.0) is motion.startswith("orbit")
        assert abs(near.azimuth) <= 0.08 and 0.22 <= near.elevation <= 0.30
    closer, still, farther = (
        draw_camera(motion, 1.0, keyed_random("camera")).distance for motion in ("zoom out", "still", "zoom in")
    )
    assert closer < still < farther


def test_most_draws_can_be_placed_and_keep_their_words() -> None:
    assert len(PLACED) > 17
    assert {len(words) for words, _, _ in PLACED} == {1, 2, 3, 4}
    for words, objects, _ in PLACED:
        assert [Words(o.shape, o.colour, o.size, o.material, o.motion) for o in objects] == words
        for obj in objects:
            ways = MOTION_WAYS.get(family_of(obj.motion), ("",))
            assert obj.direction in ways and obj.motion in (family_of(obj.motion), f"slide {obj.direction}")


def test_a_direction_that_is_asked_for_is_kept() -> None:
    """By each motion that has a choice of them, alone or in a pair."""
    for motion, ways in MOTION_WAYS.items():
        for way in ways if motion != "slide" else ():
            other = ["collide"] if motion == "collide" else ["stay"] if motion == "pass behind" else []
            names = zip(("sphere", "cube"), ("red", "blue"), ("small", "large"), [motion, *other], strict=False)
            words = [Words(shape, colour, size, "checkered", does, way) for shape, colour, size, does in names]
            for seed in range(4):
                placed = place(words, "still", random.Random(seed))
                assert placed is not None and placed[0][0].direction == way


def test_the_same_stream_gives_the_same_place() -> None:
    for seed in range(3):
        first, again, other = (place(DRAWN[seed], "still", random.Random(number)) for number in (seed, seed, seed + 1))
        assert first == again != other


def test_all_stay_in_view() -> None:
    for _, objects, camera in PLACED:
        for times, border in ((CHECKED, MARGIN), (BETWEEN_CHECKS, 0.5 * MARGIN)):
            for obj in objects:
                centres, inside = project(positions(obj, times), *camera_path(camera, times), aspect=1.0)
                assert inside.all() and centres.min() > border - 1e-9 and centres.max() < 1.0 - border + 1e-9


def test_all_stay_apart_but_those_that_collide_touch() -> None:
    for _, objects, camera in PLACED:
        for one, two in combinations(objects, 2):
            paths = [positions(obj, BETWEEN_CHECKS) for obj in (one, two)]
            distance = (paths[0] - paths[1])[:, :2].norm(dim=1)
            reach = one.girth * scales(one, BETWEEN_CHECKS) + two.girth * scales(two, BETWEEN_CHECKS)
            if one.motion == two.motion == "collide":
                assert one.event == two.event and distance.min() >= contact_distance(one, two) - 1e-9
                at_event = [positions(obj, torch.tensor([one.event], dtype=torch.float64)) for obj in (one, two)]
                assert float((at_event[0] - at_event[1]).norm(dim=1)) >= contact_distance(one, two) - 1e-9
                across = (at_event[0] - at_event[1])[0, :2].abs().tolist()
                assert across == pytest.approx([contact_distance(one, two), 0.0])
            else:
                assert (distance - reach)[::2].min() >= GAP - 1e-9 and (distance - reach).min() > 0.0
            eyes, axes = camera_path(camera, CHECKED[:1])
            first = [project(path[:1], eyes, axes, aspect=1.0)[0] for path in paths]
            assert (first[0] - first[1]).norm() >= APART


def test_all_are_mostly_unhidden_and_seen_at_first() -> None:
    for _, objects, camera in PLACED:
        eyes, _ = camera_path(camera, CHECKED)
        for obj in objects:
            hidden = covered(obj, objects, eyes, CHECKED)
            most = MOST_HIDDEN_PASSING if obj.motion == "pass behind" else MOST_HIDDEN
            assert not hidden[0] and hidden.double().mean() <= most


def test_what_passes_behind_changes_its_side_and_is_behind() -> None:
    headings = set()
    for number in range(7):
        (mover, front, *_), eyes, axes = a_passing(number)
        places = [project(positions(obj, BETWEEN_CHECKS), eyes, axes, aspect=1.0)[0][:, 0] for obj in (mover, front)]
        ahead = (places[0] - places[1]) * (1.0 if mover.direction == "right" else -1.0)
        assert ahead[0] < -0.05 and ahead[round(PASSED_SECONDS * 8.0)] > 0.05
        depths = [((positions(obj, BETWEEN_CHECKS) - eyes) * axes[:, 2]).sum(1) for obj in (mover, front)]
        crossing = int(ahead.abs().argmin())
        assert depths[0][crossing] > depths[1][crossing] + front.radius
        headings.add(mover.direction)
    assert headings == {"left", "right"}


def test_what_cannot_fit_is_not_placed() -> None:
    crowd = [Words(shape, colour, "large", "matte", "orbit") for shape in SHAPES[:3] for colour in COLOURS]
    assert place(crowd, "zoom in", keyed_random("crowd")) is None
