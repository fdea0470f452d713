"""Where tools/generate.py writes: names from the prompt and the seed, and what must not be written over."""

import argparse
import hashlib
import os
import re
from pathlib import Path

SUFFIXES = (".mp4", ".webm", ".gif", ".webp")  # those of `data.video_write`, which imports torch


def is_file_name(out: Path) -> bool:
    """Whether ``--out`` names a file, and not a folder to put it in."""
    return bool(out.suffix) and not out.is_dir()


def output_paths(args: argparse.Namespace) -> list[Path]:
    """A path for each prompt and of it for each seed, a file or a new folder for pictures: its name is ``--out``, or
    comes from the prompt and the seed, or from the file that is continued and the one that it leads to. Of several
    prompts each has its number."""
    seeds = range(args.seed, args.seed + args.num_videos)
    prompts = args.prompt_file or [args.prompt]
    numbers = [f"-{number:03d}" for number in range(1, 1 + len(prompts))] if args.prompt_file else [""]
    if args.out and (is_file_name(args.out) or (args.pictures and not args.out.exists())):
        if len(prompts) * len(seeds) == 1:
            return [args.out]
        return [args.out.with_stem(f"{args.out.stem}{number}-{seed}") for number in numbers for seed in seeds]
    folder = args.out or Path("outputs")
    stems = [_stem(args.video.stem if args.video else prompt or "no prompt") for prompt in prompts]
    mode = f"-{mode_name(args)}" if args.video else ""
    if other := args.connect or args.interpolate:
        mode += f"-{_stem(other.stem)}"
    if mode in ("-edit", "-mask"):  # of which the prompt is the point
        stems, mode = (
            [f"{stem}{mode}-{_stem(prompt or 'no prompt')}" for stem, prompt in zip(stems, prompts, strict=True)],
            "",
        )
    suffix = "" if args.pictures else ".mp4"
    return [
        folder / f"{stem}{mode}{number}-{seed}{suffix}"
        for stem, number in zip(stems, numbers, strict=True)
        for seed in seeds
    ]


def mode_name(args: argparse.Namespace) -> str:
    """What becomes of a video that is given."""
    options = {name: getattr(args, name) for name in ("connect", "uncrop", "interpolate", "edit", "mask")}
    return args.extend or next((name for name, value in options.items() if value is not None), "loop")


def _stem(words: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    stem = slug[:60].strip("-") or "video"
    if stem != slug or not words.isascii():  # what was left out tells prompts apart
        stem += f"-{hashlib.blake2b(words.encode(errors='surrogateescape'), digest_size=4).hexdigest()}"
    return stem


def sheet_path(args: argparse.Namespace, path: Path) -> Path:
    """Of the contact sheet beside a video, or a folder of pictures."""
    return path.with_name(f"{path.name}.png") if args.pictures else path.with_suffix(".png")


def check_paths(args: argparse.Namespace, paths: list[Path]) -> None:
    """Raises ValueError where one of the files or folders cannot be written, or is what is read."""
    read = [path for path in (args.video, args.connect, args.mask, args.interpolate, args.image, args.repeat) if path]
    read += [path for path, _ in args.keyframe or []]
    for path in paths:
        for source in read:
            if source.resolve() in (path.resolve(), sheet_path(args, path).resolve()):
                reason = f"--out {path} or its contact sheet would take the place of {source}, which is read"
                raise ValueError(f"{reason}: choose another name")
        if args.pictures and path.exists():
            raise ValueError(f"--out {path} exists: give a new folder")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(f"--out {path}: {folder} is no folder that can be written to")
