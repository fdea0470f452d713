"""Clips by index: parts of a manifest's files, and what is left out of it."""

import csv
import logging
from pathlib import Path

import pytest
import torch

from data import video
from data.manifest_clips import LeftOut, ManifestClips, by_reason
from data.video import VideoError, write_video
from data.video_index import read_index

RATE = 10.0
COLUMNS = ("path", "text", "width", "height", "fps", "num_frames", "start", "end", "split")
FACTS = {"width": 48, "height": 32, "fps": RATE, "num_frames": 20}


def write_clip(path: Path, frames: int, height: int = 32, width: int = 48) -> None:
    """A clip whose frame i is grey, of brightness 5·i + 10."""
    grey = torch.arange(frames, dtype=torch.uint8) * 5 + 10
    write_video(path, grey[:, None, None, None].expand(frames, height, width, 3), RATE)


def manifest(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "index.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def clip_numbers(frames: torch.Tensor) -> list[int]:
    """Which frames of `write_clip` these are."""
    return ((frames.float().mean(dim=(1, 2, 3)) - 10) / 5).round().int().tolist()


def test_a_long_row_is_cut_into_parts_end_to_end(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 40)
    path = manifest(tmp_path, {"path": "a.mp4", "text": "grey"})
    clips = ManifestClips(path, "train", 13, [[16, 24]], RATE, 4)
    assert len(clips) == 3
    numbers = [clip_numbers(clips.load(index).frames) for index in range(3)]
    assert numbers == [list(range(13)), list(range(13, 26)), list(range(26, 39))]
    assert len({clips.key(index) for index in range(3)}) == 3
    clip = clips.load(1)
    assert (clip.frame_rate, clips.text(1, 0), clips.text(1, 5)) == (RATE, "grey", "grey")
    assert clip.frames.shape == (13, 16, 24, 3)


@pytest.mark.parametrize(("frames", "usable"), [(12, 9), (13, 13), (9, 9), (6, 5), (5, 5)])
def test_a_short_row_keeps_the_frame_rule(tmp_path: Path, frames: int, usable: int) -> None:
    write_clip(tmp_path / "a.mp4", frames)
    path = manifest(tmp_path, {"path": "a.mp4", "text": ""})
    clips = ManifestClips(path, "train", 13, [[16, 24]], RATE, 4)
    assert [clips.shape(index).num_frames for index in range(len(clips))] == [usable]
    assert clip_numbers(clips.load(0).frames) == list(range(usable))


def test_a_row_without_one_group_of_frames_is_left_out(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 4)
    write_clip(tmp_path / "b.mp4", 5)
    rows = [{"path": f"{name}.mp4", "text": name} for name in "ab"]
    clips = ManifestClips(manifest(tmp_path, *rows), "train", 13, [[16, 16]], RATE, 4)
    assert [clips.text(index, 0) for index in range(len(clips))] == ["b"]
    assert clips.left_out == [LeftOut(2, tmp_path / "a.mp4", 0.0, "too short for 5 frames at 10 fps")]
    with pytest.raises(ValueError, match="no clip of split 'train': 1 too short for 5 frames at 10 fps") as error:
        ManifestClips(manifest(tmp_path, rows[0]), "train", 13, [[16, 16]], RATE, 4)
    assert "\n" not in str(error.value)


def test_with_a_multiple_of_1_short_rows_are_taken(tmp_path: Path) -> None:
    for frames in (1, 2, 9):
        write_clip(tmp_path / f"{frames}.mp4", frames)
    rows = [{"path": f"{frames}.mp4", "text": ""} for frames in (1, 2, 9)]
    clips = ManifestClips(manifest(tmp_path, *rows), "train", 5, [[16, 16]], None, 1)
    assert [clips.shape(index).num_frames for index in range(len(clips))] == [1, 2, 5]
    assert [len(clips.load(index).frames) for index in range(len(clips))] == [1, 2, 5]


def test_rows_of_other_splits_are_left_out(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 9)
    rows = [{"path": "a.mp4", "text": split, "split": split} for split in ("train", "test")]
    clips = ManifestClips(manifest(tmp_path, *rows), "test", 9, [[16, 16]], RATE, 4)
    assert [clips.text(index, 0) for index in range(len(clips))] == ["test"]


def test_start_and_end_of_a_row_bound_its_frames(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 40)
    row = {"path": "a.mp4", "text": "", "start": 1.0, "end": 2.3}
    clips = ManifestClips(manifest(tmp_path, row), "train", 9, [[16, 16]], RATE, 4)
    assert [clip_numbers(clips.load(index).frames) for index in range(len(clips))] == [list(range(10, 19))]


def test_without_an_end_the_frames_of_a_row_count_from_its_start(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 40)
    row = {"path": "a.mp4", "text": "", "start": 2.0, **FACTS, "num_frames": 9}
    clips = ManifestClips(manifest(tmp_path, row), "train", 9, [[16, 16]], RATE, 4)
    assert [clip_numbers(clips.load(index).frames) for index in range(len(clips))] == [list(range(20, 29))]


def test_a_file_is_demuxed_once_for_all_its_rows_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.mp4", 40)
    rows = [{"path": "a.mp4", "text": "", "start": start} for start in (0, 1, 2)]
    demuxed = []
    monkeypatch.setattr(video, "read_index", lambda *given: demuxed.append(given) or read_index(*given))
    clips = ManifestClips(manifest(tmp_path, *rows), "train", 9, [[16, 16]], RATE, 4)
    assert [clip_numbers(clips.load(index).frames)[0] for index in range(len(clips))] == [
        0,
        9,
        18,
        27,
        10,
        19,
        28,
        20,
        29,
    ]
    assert len(demuxed) == 1


def test_another_rate_takes_frames_by_time(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 40)
    path = manifest(tmp_path, {"path": "a.mp4", "text": ""})
    clips = ManifestClips(path, "train", 9, [[16, 16]], RATE / 2, 4)
    assert [clip_numbers(clips.load(index).frames) for index in range(len(clips))] == [
        list(range(0, 18, 2)),
        list(range(18, 36, 2)),
    ]


def test_without_a_rate_each_row_keeps_its_own(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 20)
    rows = [
        {"path": "a.mp4", "text": "as the file says"},
        {"path": "a.mp4", "text": "as the row says", "fps": RATE / 2, "width": 48, "height": 32, "num_frames": 10},
    ]
    clips = ManifestClips(manifest(tmp_path, *rows), "train", 9, [[16, 16]], None, 4)
    assert [clips.shape(index).frame_rate for index in range(len(clips))] == [RATE, RATE, RATE / 2]
    found = [clip_numbers(clips.load(index).frames) for index in range(len(clips))]
    assert found == [list(range(9)), list(range(9, 18)), list(range(0, 18, 2))]
    assert clips.load(2).frame_rate == RATE / 2


def test_the_size_of_nearest_aspect_is_taken(tmp_path: Path) -> None:
    write_clip(tmp_path / "wide.mp4", 5, 32, 56)
    write_clip(tmp_path / "tall.mp4", 5, 56, 32)
    write_clip(tmp_path / "square.mp4", 5, 40, 40)
    rows = [{"path": f"{name}.mp4", "text": name} for name in ("wide", "tall", "square")]
    clips = ManifestClips(manifest(tmp_path, *rows), "train", 5, [[16, 16], [16, 32], [32, 16]], RATE, 4)
    sizes = [(clips.shape(index).height, clips.shape(index).width) for index in range(3)]
    assert sizes == [(16, 32), (32, 16), (16, 16)]
    assert clips.load(0).frames.shape == (5, 16, 32, 3)


def test_a_full_row_is_believed_and_its_file_left_closed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    path = manifest(tmp_path, {"path": "a.mp4", "text": "", **FACTS})
    clips = ManifestClips(path, "train", 9, [[16, 32]], RATE, 4)
    assert (len(clips), clips.num_rows, clips.left_out) == (2, 1, [])
    with pytest.raises(VideoError, match=r"a\.mp4"):
        clips.load(0)


def test_what_is_left_out_is_kept_with_its_reason_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip(tmp_path / "a.mp4", 20)
    (tmp_path / "text.mp4").write_bytes(b"no video at all")
    rows: list[dict[str, object]] = [{"path": f"gone-{n}.mp4", "text": "", **FACTS} for n in range(40)]
    rows += [{"path": "a.mp4", "text": "", "start": 1.8 + n / 100, "end": 2.0, **FACTS} for n in range(3)]
    rows += [{"path": "text.mp4", "text": ""}, {"path": "gone.mp4", "text": ""}, {"path": "a.mp4", "text": "", **FACTS}]
    with caplog.at_level(logging.WARNING):
        clips = ManifestClips(manifest(tmp_path, *rows), "train", 9, [[16, 24]], RATE, 4)
    assert (len(clips), clips.num_rows) == (2, 46)
    reasons = {reason: [one.row for one in left] for reason, left in by_reason(clips.left_out)}
    unreadable = "cannot be read: not a video (Invalid data found when processing input)"
    assert reasons == {
        "no such file": [*range(2, 42), 46],
        "too short for 5 frames at 10 fps": [42, 43, 44],
        unreadable: [45],
    }
    assert list(reasons) == ["no such file", "too short for 5 frames at 10 fps", unreadable]
    assert clips.left_out[40] == LeftOut(42, tmp_path / "a.mp4", 1.8, "too short for 5 frames at 10 fps")
    (line,) = caplog.messages
    assert "45 of 46 rows are left out: 41 no such file (row 2, gone-0.mp4, …); 3 too short" in line
    assert f"; 1 {unreadable} (row 45, text.mp4)" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("gone.mp4", 0), ("a.mp4", 1.9), ("gone.mp4", 0)], "2 no such file .*; 1 too short .*: mend the paths"),
        ([("gone.mp4", 0), ("a.mp4", 1.9), ("a.mp4", 1.8)], "2 too short .*; 1 no such file .*: give longer clips"),
        ([("text.mp4", None)], "1 cannot be read: not a video .*: mend the files"),
    ],
)
def test_where_all_rows_are_left_out_the_reasons_and_the_fix_are_named(
    tmp_path: Path, rows: list[tuple[str, float | None]], words: str
) -> None:
    write_clip(tmp_path / "a.mp4", 20)
    (tmp_path / "text.mp4").write_bytes(b"no video at all")
    listed = [{"path": p, "text": "", **({} if s is None else FACTS | {"start": s, "end": 2.0})} for p, s in rows]
    with pytest.raises(ValueError, match=rf"index.csv: no clip of split 'train': {words}") as error:
        ManifestClips(manifest(tmp_path, *listed), "train", 9, [[16, 24]], RATE, 4)
    assert "\n" not in str(error.value)


def test_fewer_frames_than_the_manifest_says_are_a_damaged_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 12)
    row = {"path": "a.mp4", "text": "", **FACTS, "num_frames": 40}
    clips = ManifestClips(manifest(tmp_path, row), "train", 9, [[16, 24]], RATE, 4)
    assert clips.load(0).frames.shape[0] == 9
    for index in (1, 2):  # three of nine frames are there, then none
        with pytest.raises(VideoError, match=r"a\.mp4") as error:
            clips.load(index)
        assert "\n" not in str(error.value)


def test_a_damaged_file_is_a_video_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 12)
    clips = ManifestClips(manifest(tmp_path, {"path": "a.mp4", "text": ""}), "train", 9, [[16, 24]], RATE, 4)
    before = clips.key(0)
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    assert clips.key(0) != before  # the cache does not take the new file for the old one
    with pytest.raises(VideoError):
        clips.load(0)


def test_real_clips_hold_what_their_shape_tells(clips: Path, tmp_path: Path) -> None:
    source = ManifestClips(clips / "index.csv", "train", 17, [[48, 64], [64, 48], [48, 80]], 8.0, 4)
    files = {record.path for record, _, _ in source.parts}
    assert len(files) > 30
    assert all(path.parent.name == "train" for path in files)
    for index in (0, 1):
        shape, clip = source.shape(index), source.load(index)
        assert clip.frames.shape == (shape.num_frames, shape.height, shape.width, 3)
        assert len(source.text(index, 0)) > 20
