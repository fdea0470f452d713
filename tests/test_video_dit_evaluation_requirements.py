"""What ours must reach: met, not met, or not measured."""

import math

import pytest

from video_dit.evaluation.candidates import Candidate, Kind, Profile, Rival, of_width, published
from video_dit.evaluation.equal_training import Trial
from video_dit.evaluation.requirements import Requirement, requirements
from video_dit.evaluation.results import Entry, Row, Trained
from video_dit.evaluation.speed import Memory, Stream, Timing

PROFILE = Profile(1, 4, 8, (1, 4, 5, 8, 8), 1.0, 1.0)
OWN = Entry(Candidate("ours, x", "ours", "ours", None, {}), PROFILE, "x")


def row(entry: Entry, seconds: float) -> Row:
    timing = Timing([seconds], True, Memory(0, 1))
    return Row(entry, timing, timing, None)


def rival(name: Rival, kind: Kind, config: str = "x") -> Entry:
    if kind == "published":
        return Entry(published(name), PROFILE, "")
    return Entry(of_width(name, 4), PROFILE, config)


def trained(entry: Entry, world: float, real: float) -> Trained:
    return Trained(entry, [], [Trial(1e-3, 0, 1, 1.0, 0.0, {"world": world, "real": real})])


def stream(peak: int) -> Stream:
    return Stream(1, 1.0, Memory(100, peak))


def of(found: list[Requirement], words: str) -> list[Requirement]:
    return [one for one in found if words in one.text]


def test_nothing_measured_meets_nothing() -> None:
    found = requirements([row(OWN, 1.0)], {}, [])
    assert len(found) == 7  # two speeds and one quality for each of two rivals, and memory
    assert all(one.value is None and one.met is None for one in found)
    assert all(one.line().startswith("not measured") for one in found)


@pytest.mark.parametrize(("kind", "bound"), [("published", 40.0), ("shrunk", 3.0)])
def test_speed_is_told_as_times_as_fast(kind: Kind, bound: float) -> None:
    rows = [row(OWN, 2.0), row(rival("wan", kind), 2 * bound), row(rival("cogvideox", kind), 1.9 * bound)]
    found = requirements(rows, {}, [])
    (wan,), (cog,) = (of(found, f"as {name}, {kind}") for name in ("wan", "cogvideox"))
    assert (wan.value, wan.met) == (bound, True)
    assert (cog.value, cog.met) == (pytest.approx(0.95 * bound), False)
    assert wan.line().startswith("met ")
    assert cog.line().startswith("NOT MET ")


def test_a_rival_shrunk_to_another_of_ours_does_not_count() -> None:
    found = requirements([row(OWN, 1.0), row(rival("wan", "shrunk", "y"), 9.0)], {}, [])
    assert of(found, "as wan, shrunk")[0].met is None


def test_a_rival_that_failed_was_not_measured() -> None:
    failed = Row(rival("wan", "published"), None, None, "no memory")
    assert of(requirements([row(OWN, 1.0), failed], {}, []), "as wan, published")[0].met is None


def test_quality_of_one_that_diverged_is_not_measured() -> None:
    own, other = trained(OWN, 30.0, 28.0), trained(rival("wan", "shrunk"), math.nan, 27.0)
    world, real = of(requirements([row(OWN, 1.0)], {}, [own, other]), "that of wan")
    assert (world.value, world.met) == (None, None)
    assert (real.value, real.met) == (1.0, True)


def test_quality_is_told_for_each_group_of_clips() -> None:
    runs = [trained(OWN, 25.0, 20.0), trained(rival("wan", "shrunk"), 25.0, 20.5)]
    found = of(requirements([row(OWN, 1.0)], {}, runs), "PSNR")
    world, real, missing = found
    assert (world.value, world.met) == (0.0, True)
    assert (real.value, real.met) == (-0.5, False)
    assert "cogvideox" in missing.text
    assert missing.met is None


@pytest.mark.parametrize(("peak", "met"), [(220, True), (223, False)])
def test_memory_of_a_long_clip_is_that_of_a_short_one(peak: int, met: bool) -> None:
    (found,) = of(requirements([row(OWN, 1.0)], {"x": {60.0: stream(peak), 5.0: stream(200)}}, []), "memory")
    assert (found.value, found.met) == (peak / 200, met)
    assert "60 s" in found.text
    assert f"{(peak - 100) / 100:.2f}" in found.text


def test_memory_of_a_stream_that_takes_none_of_its_own() -> None:
    (found,) = of(requirements([row(OWN, 1.0)], {"x": {60.0: stream(150), 5.0: stream(100)}}, []), "memory")
    assert (found.value, found.met) == (1.5, False)


def test_a_long_clip_that_failed_does_not_hold() -> None:
    streams = {5.0: stream(100), 30.0: stream(100), 60.0: "no memory"}
    (found,) = of(requirements([row(OWN, 1.0)], {"x": streams}, []), "memory")
    assert (found.value, found.met) == (None, False)
