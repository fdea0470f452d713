"""Collecting videos: which files, what is found in them, what is left out and why, and the manifest."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.collect import Rules, choose, find_videos, write_left_out, write_manifest
from data.manifest import read_manifest
from data.shots import Shot
from data.survey import Source
from data.video import read_video, write_video

GOOD = Shot(0.0, 4.0, 96, 120.0, 40.0, 3.0, 9.0, "7f" * 256)


def source(path: str, *shots: Shot, error: str = "") -> Source:
    return Source(path, 1, 2, 96, 64, 24.0, shots, error)


def thumbnail(seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return bytes(torch.randint(0, 256, (256,), generator=generator).tolist()).hex()


def test_videos_are_found_behind_links_and_links_keep_their_names(tmp_path: Path) -> None:
    for folder in ("in/deep/er", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    names = ["b.MP4", "a.webm", "deep/er/c.mov", "notes.txt", "a.json", "d.mp4.part", "e.pdf"]
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"")
    (tmp_path / "elsewhere/f.mkv").write_bytes(b"")
    (tmp_path / "in/deep/link.mkv").symlink_to(tmp_path / "in/b.MP4")
    (tmp_path / "in/deep/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "in")
    found, others = find_videos([tmp_path / "in", tmp_path / "in/a.webm"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["elsewhere/f.mkv", "in/a.webm", "in/b.MP4", "in/deep/er/c.mov", "in/deep/link.mkv"]
    assert others == 2
    assert find_videos([tmp_path / "in/d.mp4.part"])[0] == [tmp_path / "in/d.mp4.part"]  # whoever names a file means it


def test_places_without_videos(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        find_videos([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"no file whose name ends as a video's does"):
        find_videos([tmp_path])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"")

    def scandir(place: Path | str) -> object:
        if Path(place).name == "locked":  # the tests may run as one who may read everything
            raise PermissionError(13, "Permission denied", str(place))
        return original(place)

    original = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"locked: cannot be read \(Permission denied\): mend its permissions"):
        find_videos([tmp_path])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"end": 0.9}, "shorter than 1 s"),
        ({"brightness": 5.0}, "black"),
        ({"contrast": 1.0}, "of one colour"),
        ({"liveliest": 0.1}, "still"),
        ({"motion": 0.0}, None),
    ],
)
def test_rules(change: dict[str, float], reason: str | None) -> None:
    assert Rules().objection(replace(GOOD, **change)) == reason  # type: ignore[arg-type]
    assert Rules(0, 0, 0, 0).objection(replace(GOOD, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["min_seconds", "min_brightness", "min_contrast", "min_motion"])
def test_rules_are_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1 must be at least 0"):
        Rules(**{name: -1})


def test_every_shot_is_kept_or_left_out_with_a_reason() -> None:
    black = replace(GOOD, brightness=0.0, start=4.0, end=8.0)
    other = replace(GOOD, thumbnail=thumbnail(0))
    sources = [source("b", GOOD), source("a", GOOD, black, other), source("c", error="not a video")]
    kept, left_out = choose(sources, Rules(), 2.0)
    assert [(one.path, shot) for one, shot in kept] == [("a", GOOD), ("a", other)]
    assert left_out == [
        ("a", 4.0, 8.0, "black"),
        ("b", 0.0, 4.0, "nearly the same as one before"),
        ("c", 0.0, 0.0, "not a video"),
    ]
    assert choose(sources[::-1], Rules(), 2.0) == (kept, left_out)  # order makes no difference
    assert len(choose(sources, Rules(), 0.0)[0]) == 3  # with no nearness nothing is a twin


def test_a_manifest_reads_back_and_names_files_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "out").mkdir()
    path = tmp_path / "videos" / "a, b.mp4"
    frames = torch.randint(0, 256, (48, 48, 64, 3), dtype=torch.uint8)
    write_video(path, frames, 24)
    shot = replace(GOOD, start=0.5, end=1.5, num_frames=24)
    one = Source(str(path), 1, 2, 64, 48, 24.0, (shot,))
    write_manifest(tmp_path / "out" / "index.csv", [(one, shot, 'a "red" car, fast')])
    (record,) = read_manifest(tmp_path / "out" / "index.csv")
    assert (record.text, record.width, record.height, record.fps) == ('a "red" car, fast', 64, 48, 24.0)
    assert (record.start, record.end, record.num_frames) == (0.5, 1.5, 24)
    (tmp_path / "out").rename(tmp_path / "moved")  # together with the videos it may move
    (record,) = read_manifest(tmp_path / "moved" / "index.csv")
    assert len(read_video(record.path, record.start, 1.0).frames) == 24


def test_a_name_that_begins_with_a_space(tmp_path: Path) -> None:
    (tmp_path / " a.mp4").write_bytes(b"")
    write_manifest(tmp_path / "index.csv", [(source(str(tmp_path / " a.mp4"), GOOD), GOOD, "x")])
    (record,) = read_manifest(tmp_path / "index.csv")
    assert record.path.is_file()


def test_a_manifest_in_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    one = source(str(tmp_path / "videos/a.mp4"), GOOD)
    write_manifest(tmp_path / "link/index.csv", [(one, GOOD, "x")])
    (record,) = read_manifest(tmp_path / "link/index.csv")
    assert record.path.is_file()


def test_what_is_left_out_is_a_csv(tmp_path: Path) -> None:
    write_left_out(tmp_path / "left_out.csv", [("a, b.mp4", 0.0, 1.5, "black")])
    with (tmp_path / "left_out.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"path": "a, b.mp4", "start": "0.0", "end": "1.5", "reason": "black"}]
