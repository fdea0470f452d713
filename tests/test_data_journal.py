"""Journals: nothing that was found is lost, and the same facts give the same file."""

from pathlib import Path

import pytest

from data.journal import Journal


def test_facts_are_on_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "facts.jsonl")
    journal.put("b", {"x": 1})
    assert Journal(tmp_path / "facts.jsonl").facts == {"b": {"x": 1}}


def test_order_of_finding_makes_no_difference(tmp_path: Path) -> None:
    files = []
    for name, keys in (("one", "abc"), ("two", "cab")):
        journal = Journal(tmp_path / name)
        for key in keys:
            journal.put(key, key * 2)
        journal.settle()
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_the_later_fact_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "facts.jsonl")
    journal.put("a", 1)
    journal.put("a", 2)
    assert Journal(journal.path).facts == {"a": 2}


def test_a_line_cut_off_by_a_kill_is_dropped_and_what_follows_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    journal = Journal(path)
    journal.put("a", 1)
    journal.put("b", 2)
    path.write_bytes(path.read_bytes()[:-5])
    journal = Journal(path)
    assert journal.facts == {"a": 1}
    journal.put("c", 3)
    assert Journal(path).facts == {"a": 1, "c": 3}


def test_damage_elsewhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"key": "a"\n{"key": "b", "fact": 1}\n')
    with pytest.raises(ValueError, match=r"facts\.jsonl line 1 is damaged: remove the line"):
        Journal(path)
