"""Types of command-line options that several programs have, for argparse: each says what it takes."""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

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


def seed(text: str) -> int:
    """A whole number that torch's generators take."""
    if not re.fullmatch(r"-?\d{1,19}", text) or not -(1 << 62) <= int(text) < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at most 18 digits")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")
    return value


def interval(text: str) -> tuple[float, float]:
    """Two numbers from 0 to 1 that rise, written LOW,HIGH."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not 0 <= low < high <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be LOW,HIGH, two numbers from 0 to 1 that rise")
    return low, high


def something(text: str) -> str:
    """Any text but none."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} must not be empty")
    return text


def picture_at(text: str) -> tuple[Path, float]:
    """A file and the time at which it is shown, written FILE@SECONDS."""
    name, _, time = text.rpartition("@")
    try:
        seconds = float(time)
    except ValueError:
        seconds = math.nan
    if not name or not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be FILE@SECONDS, such as sun.png@2.5")
    return Path(name), seconds


def text_lines(text: str) -> list[str]:
    """The lines of a text file, without those that are blank or begin with #."""
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {reason}") from None
    kept = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not kept:
        raise argparse.ArgumentTypeError(f"{text!r} has no line that says anything")
    return kept


def duration(text: str) -> float:
    """Seconds of video, a day at most."""
    value = positive(text)
    if value > 86400:
        raise argparse.ArgumentTypeError(f"{text!r} must be at most 86400 seconds, a day")
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
