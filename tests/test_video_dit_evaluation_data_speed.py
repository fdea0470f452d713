"""Reads of both readers in a process that can be ended: the same job, its times, and what to do where one fails."""

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from data.manifest import ClipRecord
from data.video import read_video, write_video
from video_dit.evaluation import data_speed
from video_dit.evaluation.data_speed import (
    FRAMES,
    Reading,
    ReadProcess,
    ReadRow,
    ReadTask,
    ReadTimes,
    mean_levels,
    measure_clip,
    read_by_decord,
    read_times,
    reason,
)

decord_there = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of 64x48 at 10 a second, each brighter than the one before."""
    path = tmp_path_factory.mktemp("videos") / "ramp.mp4"
    frames = (torch.arange(30) * 8).to(torch.uint8)[:, None, None, None].expand(30, 48, 64, 3)
    write_video(path, frames.contiguous(), 10.0)
    return path


@pytest.fixture(scope="module")
def process() -> Iterator[ReadProcess]:
    there = importlib.util.find_spec("decord") is not None
    with closing(ReadProcess()) as process:
        assert process.missing == (None if there else "is not installed")
        yield process


def task(path: Path, decord: bool = False, **place: float) -> ReadTask:
    return ReadTask(ClipRecord(path, "", 2, **place), 4, 0, decord)  # type: ignore[arg-type]


def times(ours: float, decord: float | None) -> ReadTimes:
    return ReadTimes(64, 48, 30, "h264", [ours, ours], [] if decord is None else [decord, decord], 1.0)


def test_ours_alone(video: Path) -> None:
    found = read_times(task(video))
    assert (found.width, found.height, found.num_frames, found.codec) == (64, 48, 30, "h264")
    assert len(found.ours_seconds) == 4
    assert all(seconds > 0 for seconds in found.ours_seconds)
    assert found.decord_seconds == []


@decord_there
@pytest.mark.parametrize("place", [{}, {"start": 0.5, "end": 2.5}, {"start": 1.0, "end": 1.8}, {"start": 2.9}])
def test_both_read_the_same_frames(video: Path, place: dict[str, float]) -> None:
    """Of a whole file, a part of it, a part shorter than a read, and its last frame."""
    found = read_times(task(video, decord=True, **place))
    assert len(found.ours_seconds) == len(found.decord_seconds) == 4
    assert found.levels < 3  # the next frame is 8 levels off


@decord_there
def test_decord_gives_the_frames_asked_for(video: Path) -> None:
    frames = read_by_decord(video, 3, 3 + FRAMES)
    assert frames.shape == (FRAMES, 48, 64, 3)
    assert mean_levels(read_video(video).frames[3 : 3 + FRAMES], torch.from_numpy(frames)) < 3


def test_other_frames_are_not_compared() -> None:
    ours = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    assert mean_levels(ours, ours + torch.tensor([0, 4], dtype=torch.uint8)[:, None, None, None]) == 2
    with pytest.raises(ValueError, match="gives other frames, 8 levels from ours on average"):
        mean_levels(ours, ours + 8)
    with pytest.raises(ValueError, match="gives frames of 2x4x5x3 in place of 2x4x6x3"):
        mean_levels(ours, ours[:, :, :5])


def test_what_cannot_be_read_is_told(process: ReadProcess, video: Path) -> None:
    bad = video.with_name("bad.mp4")
    bad.write_bytes(b"no video")
    failed = measure_clip(process, task(bad), "bad.mp4")
    assert failed.times is None
    assert "bad.mp4: not compared, ours fails (" in failed.line()
    read = measure_clip(process, task(video), "ramp.mp4")
    assert (read.reason, read.ratio) == (None, None)
    assert read.times is not None


@decord_there
def test_a_gif_is_read_by_ours_alone(process: ReadProcess, clips: Path) -> None:
    row = measure_clip(process, task(next(clips.rglob("*.gif")), decord=True), "a.gif")
    assert row.times is not None
    assert row.times.decord_seconds == []
    assert row.reason is not None
    assert row.reason.startswith("decord fails (")
    assert "github" not in row.reason


@decord_there
def test_a_video_of_which_decord_gives_other_frames_is_read_by_ours_alone(process: ReadProcess, clips: Path) -> None:
    """Its pixels are not square, which decord leaves out."""
    row = measure_clip(process, task(next(clips.rglob("*carphone_pristine.mp4")), decord=True), "a.mp4")
    assert row.reason == "decord gives frames of 17x144x176x3 in place of 17x144x193x3"
    assert row.times is not None
    assert row.ratio is None


def test_a_process_that_takes_too_long_or_dies_is_replaced(
    process: ReadProcess, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = process._process
    with monkeypatch.context() as patch:
        patch.setattr(data_speed, "LIMIT", 0.0)
        assert process.measure(task(video)) == "takes more than 0 s"
    assert not first.is_alive()
    process._process.kill()
    process._process.join()
    assert process.measure(task(video)) == "ends the process"
    assert isinstance(process.measure(task(video)), ReadTimes)


@pytest.mark.parametrize(("ours", "met"), [(1.09, True), (1.11, False)])
def test_totals_count_what_both_read(ours: float, met: bool) -> None:
    rows = [ReadRow("a", times(2 * ours, 2.0), None), ReadRow("b", times(ours, 1.0), None)]
    alone = [ReadRow("c", times(9.0, None), "decord fails"), ReadRow("d", None, "ours fails")]
    found = Reading([*rows, *alone], None)
    assert found.totals() == (pytest.approx(6 * ours), 6.0)
    assert found.requirement().met is met
    assert f"ratio {ours:.2f}; median of the ratios of 2 clips {ours:.2f}" in found.line()
    assert [clip["ratio"] for clip in found.as_json()["clips"]][2:] == [None, None]
    assert "1.09" in rows[0].line() if met else "1.11" in rows[0].line()


def test_reasons_are_short() -> None:
    error = RuntimeError("[07:08:04] /github/workspace/src/video/video_reader.cc:270: [/a/b.gif] Failed here\nStack")
    assert reason(error) == "Failed here"
    assert reason(ValueError()) == "ValueError"
