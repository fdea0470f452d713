"""What a long run finds out, kept as it goes on, so that the next one need not find it again."""

import json
from pathlib import Path
from typing import Any

from data.sheet import replacing


class Journal:
    """Facts by key, a JSON line each, written as they are found: what a killed run knew, the next one knows.

    Raises:
        ValueError: a line of the file is no JSON, save the last, which a kill may have cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                fact = json.loads(line)
                self.facts[fact["key"]] = fact["fact"]
            except (ValueError, TypeError, KeyError) as error:
                if number < len(lines):
                    raise ValueError(f"{path} line {number} is damaged: remove the line, or the file") from error
        if lines:
            self.settle()  # without what was cut off, to go on behind it

    def put(self, key: str, fact: Any) -> None:
        """Keep a fact, on disk as well."""
        self.facts[key] = fact
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(key, fact))

    def settle(self) -> None:
        """Write all facts in order: the same facts give the same file."""
        with replacing(self.path) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(_line(key, self.facts[key]) for key in sorted(self.facts))


def _line(key: str, fact: Any) -> str:
    return json.dumps({"key": key, "fact": fact}) + "\n"
