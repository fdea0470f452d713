"""Surveys: what is found in files, once, whatever happens to them or to the process."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from data.collect import write_left_out
from data.journal import Journal
from data.shots import Shot
from data.survey import VERSION, Source, identity, known_source, survey, survey_all
from data.video import write_video

GOOD = Shot(0.0, 4.0, 96, 120.0, 40.0, 3.0, 9.0, "7f" * 256)


def test_a_survey_knows_size_rate_and_shots(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (20, 48, 64, 3), dtype=torch.uint8)
    write_video(tmp_path / "a.mp4", noise, 10)
    found = survey(tmp_path / "a.mp4")
    assert (found.width, found.height, found.fps, found.error) == (64, 48, 10.0, "")
    assert sum(shot.num_frames for shot in found.shots) == 20


def test_a_damaged_file_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    found = survey(tmp_path / "a.mp4")
    assert found.error.startswith("not a video")
    assert found.shots == ()


@pytest.mark.parametrize("name", ["a\udcff.mp4", "a\nb.mp4"])
def test_a_name_that_no_manifest_can_hold(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    found = survey(path)
    assert "rename it" in found.error
    write_left_out(tmp_path / "left_out.csv", [(found.path, 0, 0, found.error)])


def test_what_was_found_holds_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    journal = Journal(tmp_path / "shots.jsonl")
    assert known_source(journal, path) is None
    found = Source(**identity(path), width=4, height=2, fps=24.0, shots=(GOOD, GOOD))
    journal.put(str(path), asdict(found))
    assert known_source(Journal(journal.path), path) == found
    path.write_bytes(b"another, longer one")
    assert known_source(Journal(journal.path), path) is None


def test_what_another_version_found_or_could_not_read_is_found_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    journal = Journal(tmp_path / "shots.jsonl")
    journal.put(str(path), {**asdict(Source(**identity(path))), "version": VERSION - 1, "shots": [{"start": 0.0}]})
    assert known_source(journal, path) is None
    journal.put(str(path), {**identity(path), "shots": []})
    assert known_source(journal, path) is None
    journal.put(str(path), asdict(Source(**identity(path), error="cannot be read (Input/output error)")))
    assert known_source(journal, path) is None


def test_a_file_that_is_gone_has_its_reason(tmp_path: Path) -> None:
    found = survey(tmp_path / "gone.mp4")
    assert (found.size, found.error) == (0, "no such file")


@pytest.mark.parametrize(
    "name", ["at 3.00.00\u202fPM.mp4", "全角\u3000空白.mp4", "👨\u200d👩\u200d👧.mp4", "a, 'b'.mp4"]
)
def test_names_in_any_script_are_taken(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(8, 32, 32, 3, dtype=torch.uint8), 8)
    (tmp_path / "a.mp4").rename(tmp_path / name)
    assert survey(tmp_path / name).error == ""


def test_all_files_in_order_and_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{name}.mp4" for name in "cab"]
    for number, path in enumerate(paths):
        write_video(path, torch.full((8, 32, 32, 3), 60 * number, dtype=torch.uint8), 8)
    first = survey_all(paths[:2], tmp_path / "known.jsonl", "local", 2)
    assert [source.path for source in first] == [str(path) for path in paths[:2]]

    def only_the_new(path: Path) -> Source:
        assert path == paths[2]
        return survey(path)

    monkeypatch.setattr("data.survey.survey", only_the_new)
    both = survey_all(paths, tmp_path / "known.jsonl", "local", 0)
    assert both[:2] == first
    assert [source.shots[0].brightness for source in both] == pytest.approx([0, 60, 120], abs=3)
