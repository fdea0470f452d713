"""What reading may cost."""

from pathlib import Path

import pytest

from data.video_limits import ReadLimits, Stopwatch, VideoError


@pytest.mark.parametrize("name", ["max_pixels", "max_packets", "max_still", "max_frames", "max_bytes", "max_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_above_0(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be above 0"):
        ReadLimits(**{name: value})


def test_a_stopwatch_that_is_restarted_counts_anew() -> None:
    watch = Stopwatch(Path("a.mp4"), ReadLimits(max_frames=3))
    for _ in range(3):
        watch.check(frames=2)
        watch.restart()
    watch.check(frames=3)
    with pytest.raises(VideoError, match=r"a.mp4: reading it takes more than max_frames=3"):
        watch.check(frames=1)


def test_packets_are_counted_as_well() -> None:
    watch = Stopwatch(Path("a.mp4"), ReadLimits(max_packets=3))
    for _ in range(3):
        watch.check(packets=1)
    with pytest.raises(VideoError, match=r"a.mp4: it has more than max_packets=3"):
        watch.check(packets=1)
