"""Types of command-line options that several programs have, for argparse: each says what it takes."""

import argparse
import math
import re
from collections.abc import Callable

SCHEDULER_NAMES = ("euler", "heun", "unipc", "dpm++", "ddpm", "ddim", "pndm", "euler-ancestral")
"""What `video_dit.schedulers.named_scheduler` knows: the first four for models of the straight path, all from unipc on
for those of DDPM's."""


def at_least(minimum: int) -> Callable[[str], int]:
    """Whole numbers from `minimum` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least {minimum}")
        return int(text)

    return parse


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def frame_rate(text: str) -> float:
    """Frames a second."""
    value = positive(text)
    if not 0.5 <= value <= 240:
        raise argparse.ArgumentTypeError(f"{text!r} must be from 0.5 to 240 frames a second")
    return value


def size(text: str) -> tuple[int, int]:
    """Pixels, written WxH: (height, width)."""
    width, height = _pair(text, "x", "64x64 (width x height)")
    return height, width


def aspect(text: str) -> tuple[int, int]:
    """Width and height in any unit, written W:H."""
    return _pair(text, ":", "16:9")


def _pair(text: str, separator: str, example: str) -> tuple[int, int]:
    match = re.fullmatch(rf"([1-9]\d*){separator}([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} must be like {example}")
    return int(match[1]), int(match[2])
