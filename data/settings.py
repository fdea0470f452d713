"""What a video was made with, as JSON that stands in its file, so that it can be made again."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROGRAM = "generate.py of video-dit"
PACKAGES = ("video-dit", "torch", "diffusers", "av")
Option = str | bool | list[str]


@dataclass(frozen=True)
class Settings:
    """options: of the command line by name, without dashes before it: a text, several, or True for one that takes none.
    files: what was read, by absolute path, with its `content_hash`. made_with: versions, device and the like by name.
    """

    options: dict[str, Option]
    files: dict[str, str]
    made_with: dict[str, str]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"program": PROGRAM} | asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> "Settings | None":
        """None where the text is not what `to_json` writes."""
        try:
            told = json.loads(text or "")
        except ValueError:
            return None
        if not isinstance(told, dict) or told.pop("program", None) != PROGRAM:
            return None
        if set(told) != {"options", "files", "made_with"} or not all(isinstance(part, dict) for part in told.values()):
            return None
        texts = [*told["files"].values(), *told["made_with"].values()]
        for value in told["options"].values():
            texts += value if isinstance(value, list) else [] if value is True else [value]
        return cls(**told) if all(isinstance(value, str) for value in texts) else None

    def words(self) -> list[str]:
        """The options as a command line."""
        words: list[str] = []
        for name, value in self.options.items():
            if isinstance(value, list):
                words += [f"--{name}={one}" for one in value]
            else:
                words.append(f"--{name}" if value is True else f"--{name}={value}")
        return words

    def check_files(self) -> None:
        """Raises ValueError where a file is gone, or is not what it was."""
        for name, told in self.files.items():
            if not Path(name).exists():
                raise ValueError(f"{name}, which the video was made with, is gone: put it back there")
            if content_hash(Path(name)) != told:
                raise ValueError(f"{name} is not what the video was made with: its content has changed")

    def differences(self, made_with: dict[str, str]) -> list[str]:
        """What is another here, such as "torch 2.11.0, here 2.12.0"."""
        return [
            f"{name} {value}, here {made_with[name]}"
            for name, value in self.made_with.items()
            if name in made_with and made_with[name] != value
        ]


def package_versions() -> dict[str, str]:
    """Of the packages that what is made depends on most."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a folder that is not installed
            versions[name] = "not installed"
    return versions


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """As `Settings` has them."""
    return {str(path.absolute()): content_hash(path) for path in paths}


def content_hash(path: Path) -> str:
    """Of a file's bytes; or of a model folder, of its JSON files and of all in the folders of its parts."""
    digest = hashlib.blake2b(digest_size=16)
    for file in model_files(path) if path.is_dir() else [path]:
        if file != path:
            digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that what it makes depends on: no pictures or texts for people, nothing hidden."""
    parts = (file for part in folder.iterdir() if part.is_dir() for file in part.rglob("*"))
    files = (file for file in (*folder.glob("*.json"), *parts) if file.is_file() and file.suffix != ".pyc")
    return sorted(file for file in files if not any(name.startswith(".") for name in file.relative_to(folder).parts))
