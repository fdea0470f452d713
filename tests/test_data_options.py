"""Types of options: what they take, and one clear line for the rest."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from data.options import (
    aspect,
    at_least,
    duration,
    frame_rate,
    interval,
    picture_at,
    positive,
    seed,
    share,
    size,
    something,
    text_lines,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (at_least(1), "1", 1),
        (at_least(0), "0", 0),
        (positive, "0.5", 0.5),
        (frame_rate, "29.97", 29.97),
        (duration, "86400", 86400.0),
        (aspect, "16:9", (16, 9)),
        (size, "80x48", (48, 80)),
        (seed, "-3", -3),
        (seed, "123456789012345678", 123456789012345678),
        (interval, "0,0.5", (0.0, 0.5)),
        (share, "0", 0.0),
        (share, "0.25", 0.25),
        (share, "1", 1.0),
        (picture_at, "a@b.png@2.5", (Path("a@b.png"), 2.5)),
        (picture_at, "a.png@0", (Path("a.png"), 0.0)),
        (something, " a", " a"),
    ],
)
def test_takes(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "words"),
    [
        (at_least(1), ("0", "-1", "1.5", "", "two"), "whole number, at least 1"),
        (positive, ("0", "-2", "nan", "inf", "much"), "above 0"),
        (share, ("-0.1", "1.01", "nan", "half", ""), "a number from 0 to 1"),
        (frame_rate, ("0.1", "1000"), "0.5 to 240"),
        (frame_rate, ("nan",), "above 0"),
        (duration, ("0", "-1", "nan", "inf", "long"), "above 0"),
        (duration, ("1e12", "86401"), "at most 86400 seconds"),
        (aspect, ("16x9", "0:9", "16:", "1.5:1"), "like 16:9"),
        (size, ("64", "64x", "64x0", "64 x 64"), "like 64x64"),
        (seed, ("1.5", "", "x", "9" * 19, "9" * 30), "whole number of at most 18 digits"),
        (interval, ("0", "0.5,0.5", "0.6,0.5", "0,1.1", "-1,1", "nan,1", "0,1,1", "a,b"), "LOW,HIGH"),
        (something, ("", " ", "\n"), "must not be empty"),
        (picture_at, ("a.png", "a.png@", "@1", "a.png@-1", "a.png@nan", "a.png@inf", "a.png@x"), "FILE@SECONDS"),
    ],
)
def test_refuses(kind: Callable[[str], object], texts: tuple[str, ...], words: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=words) as error:
            kind(text)
        assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_prompts_has_one_a_line(tmp_path: Path) -> None:
    """Those that are blank or comments say nothing; what Windows puts before and after lines is left out."""
    (tmp_path / "a.txt").write_bytes("\ufeff# first\r\n a dog \r\n\r\n  # none\r\n红 # 1\r\n".encode())
    assert text_lines(str(tmp_path / "a.txt")) == ["a dog", "红 # 1"]
    (tmp_path / "empty.txt").write_text("\n# nothing\n  \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, words in (("empty.txt", "no line"), ("bytes.txt", "UTF-8"), ("gone.txt", "No such"), (".", "directory")):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            text_lines(str(tmp_path / name))
