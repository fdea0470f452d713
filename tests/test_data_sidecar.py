"""What stands beside a video, in whatever form and encoding it does."""

from pathlib import Path

import pytest

from data.sidecar import LONGEST, sidecar_caption


@pytest.mark.parametrize(
    ("name", "content", "caption"),
    [
        ("a.txt", b"a red\n car ", "a red car"),
        ("a.mp4.txt", b"a red car", "a red car"),
        ("a.txt", "\ufeffa red car".encode(), "a red car"),
        ("a.txt", "a red car".encode("utf-16"), "a red car"),
        ("a.txt", "ein rotes Auto, 红".encode(), "ein rotes Auto, 红"),
        ("a.txt", b"a red\x07 car", "a red car"),
        ("a.txt", "क\u094d\u200dष 👨\u200d👩\u200d👧".encode(), "क\u094d\u200dष 👨\u200d👩\u200d👧"),
        ("a.json", b'{"caption": "a red car"}', "a red car"),
        ("a.mp4.json", b'{"caption": "a red car"}', "a red car"),
        ("a.json", b'{"prompt": "x", "text": "a red car"}', "a red car"),
        ("a.json", b'{"text": " ", "caption": "a red car"}', "a red car"),
        ("a.json", b'{"tags": ["car"]}', ""),
        ("a.txt", b" \n", ""),
        ("b.txt", b"another's", ""),
    ],
)
def test_what_stands_beside_a_file(tmp_path: Path, name: str, content: bytes, caption: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert sidecar_caption(tmp_path / "a.mp4") == caption


def test_an_empty_text_gives_way_to_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.json").write_text('{"text": "a red car"}')
    assert sidecar_caption(tmp_path / "a.mp4") == "a red car"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"caf\xe9", "is no text in UTF-8"),
        ("a.txt", "a red car".encode("utf-16-le"), "is no text in UTF-8"),
        ("a.json", b"[" * 100_000, "is no JSON object"),
        ("a.json", b"{", "is no JSON object"),
        ("a.json", b"[1]", "is no JSON object"),
        ("a.json", b'{"text": "half \\ud83d"}', "is no JSON object"),
        ("a.txt", b"x" * (LONGEST + 1), f"has {LONGEST + 1} characters"),
    ],
)
def test_what_cannot_be_a_caption_is_told(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name} {reason}"):
        sidecar_caption(tmp_path / "a.mp4")


def test_a_name_too_long_for_a_suffix_has_none_beside_it(tmp_path: Path) -> None:
    assert sidecar_caption(tmp_path / f"{'n' * 249}.mp4") == ""
