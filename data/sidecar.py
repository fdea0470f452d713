"""The caption that stands beside a video, in a file of its own."""

import codecs
import json
import unicodedata
from pathlib import Path

from data.manifest import COLUMNS, is_file, is_whole

LONGEST = 10_000  # characters of a caption; what has more is a transcript, or another file


def sidecar_caption(path: Path) -> str:
    """What a .txt or .json beside a video says of it, in one line: ``a.txt``, ``a.mp4.txt``, or the text, caption,
    prompt or description in ``a.json`` or ``a.mp4.json``; empty where there is none.

    Raises:
        ValueError: it is no text in UTF-8 or, with its mark, UTF-16; no JSON object; or too long.
    """
    for suffix in (".txt", ".json"):
        for file in (path.with_suffix(suffix), path.with_name(path.name + suffix)):
            text = _caption_in(file) if is_file(file) else ""
            if text:
                return text
    return ""


def _caption_in(file: Path) -> str:
    kind = "JSON object" if file.suffix == ".json" else "text in UTF-8"
    data = file.read_bytes()
    try:
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        if file.suffix == ".json":
            values = [json.loads(text).get(name) for name in COLUMNS["text"]]
            text = next((value for value in values if isinstance(value, str) and value.strip()), "")
        if not is_whole(text) or "\0" in text:  # UTF-16 without its mark
            raise UnicodeError
    except (UnicodeError, json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file.name} is no {kind}") from error
    text = " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())
    if len(text) > LONGEST:
        raise ValueError(f"{file.name} has {len(text)} characters, more than the {LONGEST} of a caption")
    return text
