"""Settings come back from JSON, foreign texts are told from them, and hashes see every change that counts."""

import json
from pathlib import Path

import pytest

from data.settings import PROGRAM, Settings, content_hash, file_hashes, package_versions

SETTINGS = Settings({"prompt": 'a "b"\n红', "keyframe": ["a@1", "b@2"], "loop": True}, {"/a": "00"}, {"torch": "2"})


def test_there_and_back() -> None:
    text = SETTINGS.to_json()
    assert "\n" not in text and text.isascii()
    assert Settings.from_json(text) == SETTINGS
    assert SETTINGS.words() == ['--prompt=a "b"\n红', "--keyframe=a@1", "--keyframe=b@2", "--loop"]


def test_what_is_something_else() -> None:
    told = json.loads(SETTINGS.to_json())
    others = [
        told | {"program": "another"},
        told | {"options": {"steps": 3}},
        told | {"options": {"keyframe": [1]}},
        told | {"options": {"loop": False}},
        told | {"files": ["/a"]},
        told | {"files": {"/a": None}},
        told | {"more": {}},
        {"program": PROGRAM},
        [told],
        None,
    ]
    for text in (None, "", "hello", "{", *map(json.dumps, others)):
        assert Settings.from_json(text) is None, text


def model(folder: Path) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "weights.safetensors").write_bytes(b"weights")
    (folder / "tokenizer" / "vocab.txt").write_text("a")
    return folder


def test_a_hash_sees_what_a_model_depends_on_and_nothing_else(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    hashes = [content_hash(folder), content_hash(model(tmp_path / "other"))]
    (folder / "README.md").write_text("for people")
    (folder / "loss.png").write_bytes(b"for people")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    hashes.append(content_hash(folder))
    assert len(set(hashes)) == 1
    for file, content in (
        ("transformer/weights.safetensors", b"weightS"),
        ("tokenizer/vocab.txt", b"b"),
        ("model_index.json", b"[]"),
        ("transformer/more.safetensors", b""),
    ):
        (folder / file).write_bytes(content)
        hashes.append(content_hash(folder))
    (folder / "tokenizer" / "vocab.txt").rename(folder / "tokenizer" / "words.txt")
    hashes.append(content_hash(folder))
    assert len(set(hashes)) == 6


def test_content_does_not_move_from_one_file_to_the_next(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "transformer" / "b.json").write_bytes(b"12")
    (folder / "transformer" / "c.json").write_bytes(b"3")
    before = content_hash(folder)
    (folder / "transformer" / "b.json").write_bytes(b"1")
    (folder / "transformer" / "c.json").write_bytes(b"23")
    assert content_hash(folder) != before


def test_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("as it was")
    settings = Settings({}, file_hashes([Path("a")]), {})
    assert list(settings.files) == [str(tmp_path / "a")]
    monkeypatch.chdir("/")
    settings.check_files()
    (tmp_path / "a").write_text("another")
    with pytest.raises(ValueError, match=f"{tmp_path}/a is not what the video was made with"):
        settings.check_files()
    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}/a, which the video was made with, is gone"):
        settings.check_files()


def test_versions() -> None:
    here = package_versions()
    assert Settings({}, {}, here).differences(here) == []
    other = Settings({}, {}, here | {"torch": "1.0", "threads": "3"})
    assert other.differences(here) == [f"torch 1.0, here {here['torch']}"]
