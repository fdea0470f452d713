"""Types of options: what they take, and one clear line for the rest."""

import argparse
from collections.abc import Callable

import pytest

from data.options import aspect, at_least, frame_rate, positive, size


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (at_least(1), "1", 1),
        (at_least(0), "0", 0),
        (positive, "0.5", 0.5),
        (frame_rate, "29.97", 29.97),
        (aspect, "16:9", (16, 9)),
        (size, "80x48", (48, 80)),
    ],
)
def test_takes(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "words"),
    [
        (at_least(1), ("0", "-1", "1.5", "", "two"), "whole number, at least 1"),
        (positive, ("0", "-2", "nan", "inf", "much"), "above 0"),
        (frame_rate, ("0.1", "1000"), "0.5 to 240"),
        (frame_rate, ("nan",), "above 0"),
        (aspect, ("16x9", "0:9", "16:", "1.5:1"), "like 16:9"),
        (size, ("64", "64x", "64x0", "64 x 64"), "like 64x64"),
    ],
)
def test_refuses(kind: Callable[[str], object], texts: tuple[str, ...], words: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=words) as error:
            kind(text)
        assert repr(text) in str(error.value) and "\n" not in str(error.value)
