"""Make a data set of your own videos, or of the procedural world; check one before a training.

python tools/prepare.py videos FOLDER --out clips
python tools/prepare.py videos FOLDER --out clips --caption-model llava-hf/llava-interleave-qwen-0.5b-hf
python tools/prepare.py check --config sora_tiny.yaml data.manifest=clips/index.csv
python tools/prepare.py world --count 1000 --out clips
python tools/prepare.py world --count 1000 --out latents --size 128x128 160x96 --latents

videos: finds the shots of all videos of a folder, leaves out what is black, of one colour, still, too short or nearly
the same as another, takes captions from a .txt or .json beside the file, or asks a vision-language model for them.
index.csv lists the rest, for data.manifest=…; left_out.csv says why the others are not in it.

check: reads all clips of a manifest as a training would, says which it can use and why not the others, what shapes and
durations there are, and how they fill its packs.

world: each clip is a file of its own, NNNNNNNN.mp4 (with --latents NNNNNNNN.safetensors, the latents of the whole
clip), and NNNNNNNN.json beside it holds its captions and the truth about it. index.csv lists the clips of the folder.

What was stopped goes on with the same command.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from data.options import at_least, frame_rate, size

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from data.dataset import WorldClips
    from data.manifest_clips import ManifestClips
    from vae3d import LatentCodec

MODEL = Path(__file__).parents[1] / "checkpoints" / "sora-tiny"
COLUMNS = ("path", "text", "width", "height", "fps", "num_frames", "split")
RULES = (  # see `data.collect.Rules`, which checks them; levels are of 256
    ("--min-seconds", 1.0, "of a shot"),
    ("--min-brightness", 6.0, "levels, on average: less is black"),
    ("--min-contrast", 2.0, "levels by which pixels differ: less is of one colour"),
    ("--min-motion", 0.3, "levels by which the part that moves most changes in 1/8 s: less is still"),
    ("--nearness", 2.0, "levels by which small pictures of two shots differ: less is nearly the same"),
)
CRF = 8  # next to no loss but that of the halved resolution of colours


@dataclass(frozen=True)
class WorldFiles:
    """The data set whose item writes the files of a clip, as far as they are missing: for workers to load."""

    clips: "WorldClips"
    seeds: list[int]
    folder: Path
    suffix: str
    device: str

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, number: int) -> "tuple[int, Tensor | None]":
        """A seed and, where the latents are still to be made, the frames, uint8 ``(t, h, w, 3)``."""
        from data.video import write_video
        from data.world import sample_scene

        seed = self.seeds[number]
        shape, scene = self.clips.shape(seed), sample_scene(self.clips.split, seed)
        path = clip_file(self.folder, seed, self.suffix)
        if not path.with_suffix(".json").exists():
            facts = scene.facts(shape.num_frames, shape.height, shape.width, shape.frame_rate)
            write_text(path.with_suffix(".json"), json.dumps(facts | {"style": self.clips.style(seed)}))
        if path.exists():
            return seed, None
        frames = scene.render(shape.num_frames, shape.height, shape.width, shape.frame_rate, self.device)
        if self.suffix != ".mp4":
            return seed, frames
        write_video(path, frames, shape.frame_rate, crf=CRF, reproducible=True)
        return seed, None


def prepare_world(args: argparse.Namespace) -> None:
    """Make what is missing of the clips that are asked for, then the manifest, and say what was made."""
    began = time.perf_counter()
    import torch
    from tqdm import tqdm

    from data.dataset import WORLD_VERSION, WorldClips
    from data.packing import load_ahead

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no such GPU here: use --device cpu")
    seeds = range(args.first_seed, args.first_seed + args.count)
    clips = WorldClips(args.split, seeds.stop, args.num_frames, args.size, [args.frame_rate])
    codec = load_codec(args, clips) if args.latents else None
    settings = {
        "world_version": WORLD_VERSION,
        "split": args.split,
        "sizes": [f"{width}x{height}" for height, width in args.size],
        "num_frames": args.num_frames,
        "frame_rate": args.frame_rate,
        "stored": f"latents of codec {codec.fingerprint()}" if codec else f"H.264 with crf {CRF}",
        "device": args.device,
    }
    open_folder(args.out, settings)
    remove_drafts(args.out, seeds)
    suffix = ".safetensors" if codec else ".mp4"
    missing = [s for s in seeds if not all(clip_file(args.out, s, end).exists() for end in (suffix, ".json"))]
    files = cast("torch.utils.data.Dataset", WorldFiles(clips, missing, args.out, suffix, args.device))
    workers = min(args.workers, len(missing)) if args.device == "cpu" else 0
    with tqdm(initial=len(seeds) - len(missing), total=len(seeds), desc="world", unit="clip", disable=None) as bar:
        for seed, frames in load_ahead(files, range(len(missing)), workers):
            if codec and frames is not None:
                write_latents(codec, frames, clip_file(args.out, seed, suffix))
            bar.update()
    write_index(args.out, suffix)
    seconds = time.perf_counter() - began
    kept = f" ({len(seeds) - len(missing)} were there)" if len(missing) < len(seeds) else ""
    pace = 60 * len(missing) / seconds
    print(f"{len(seeds)} clips{kept} in {seconds:.1f} s, {pace:.0f} clips a minute: {args.out}")


def load_codec(args: argparse.Namespace, clips: "WorldClips") -> "LatentCodec":
    """The codec; ValueError where it cannot encode clips of these frames and sizes."""
    import torch

    from vae3d import LatentCodec

    codec = LatentCodec.from_pretrained(args.model, dtype=torch.float32)
    codec.num_latent_frames(clips.num_frames)
    for height, width in clips.sizes:
        codec.check_size(torch.empty(1, 3, clips.num_frames, height, width, device="meta"))
    torch.backends.cudnn.allow_tf32 = False
    codec.vae.to(args.device)
    return codec


def open_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder and its settings.json; ValueError where it holds anything but clips of these settings."""
    from data.sheet import checked_folder

    file = folder / "settings.json"
    checked_folder(f"--out {folder}", folder)
    if not file.exists():
        if folder.exists() and not all(path.name.startswith(f".{file.name}.") for path in folder.iterdir()):
            raise ValueError(f"--out {folder} holds files but no settings.json: give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=1) + "\n")
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{file} is damaged: give --out a new folder") from None
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(f"--out {folder} was made with {name} {found.get(name)}, not {value}: give a new folder")


def clip_file(folder: Path, seed: int, suffix: str) -> Path:
    """Where a clip's file of this kind is, or will be."""
    return folder / f"{seed:08d}{suffix}"


def remove_drafts(folder: Path, seeds: range) -> None:
    """Remove what a killed run left half written. Other runs may be writing clips of other seeds, or the files that
    all runs write: drafts of these are removed an hour after."""
    for path in folder.glob(".*.tmp"):
        stem = path.name.split(".")[1]
        with suppress(FileNotFoundError):  # by now it is whole
            if stem in ("settings", "index"):
                left = time.time() - path.stat().st_mtime > 3600
            else:
                left = stem.isdecimal() and int(stem) in seeds
            if left:
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    from data.sheet import replacing

    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_latents(codec: "LatentCodec", frames: "Tensor", path: Path) -> None:
    """Encode a clip, uint8 ``(t, h, w, 3)``, alone, so that its bytes depend on nothing else, and write its latents
    ``(c, t, h, w)``."""
    from safetensors.torch import save_file

    from data.sheet import replacing
    from data.transforms import to_float

    (latents,) = codec.encode(to_float(frames)[None]).cpu()
    with replacing(path) as draft:
        save_file({"latents": latents.contiguous()}, draft)


def write_index(folder: Path, suffix: str) -> None:
    """List all whole clips of the folder in a manifest, as `data.manifest.read_manifest` reads it."""
    from data.sheet import replacing

    with replacing(folder / "index.csv") as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip in sorted(folder.glob(f"[0-9]*{suffix}")):
            if clip.with_suffix(".json").exists():
                facts = json.loads(clip.with_suffix(".json").read_text(encoding="utf-8"))
                text, rate = facts["captions"][facts["style"]], f"{facts['frame_rate']:g}"
                size = facts["width"], facts["height"]
                writer.writerow([clip.name, text, *size, rate, facts["num_frames"], facts["split"]])


def prepare_videos(args: argparse.Namespace) -> None:
    """Write the manifest of all shots that are worth training on, and say what was left out."""
    began = time.perf_counter()
    from data.captions import NO_CAPTION, caption_all, load_processor
    from data.collect import Rules, choose, find_videos, write_left_out, write_manifest
    from data.sheet import checked_folder
    from data.survey import survey_all

    checked_folder(f"--out {args.out}", args.out)
    for name in ("index.csv", "left_out.csv"):  # which are written anew
        if (args.out / name).exists() and not (args.out / "shots.jsonl").exists():
            raise ValueError(f"--out {args.out} holds a file {name} that is not of this program: give a new folder")
    rules = Rules(args.min_seconds, args.min_brightness, args.min_contrast, args.min_motion)
    paths, others = find_videos(args.places)
    if args.caption_model:
        # before the long work: there may be none; and a cluster's GPUs are not on this machine
        load_processor(args.caption_model, "cpu" if args.engine == "ray" else args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("shots.jsonl", "captions.jsonl", "index.csv", "left_out.csv"):
        for draft in args.out.glob(f".{name}.*.tmp"):  # of a run that was killed
            draft.unlink(missing_ok=True)
    sources = survey_all(paths, args.out / "shots.jsonl", args.engine, args.workers)
    chosen, left_out = choose(sources, rules, args.nearness)
    known = args.out / "captions.jsonl"
    captions = caption_all(chosen, args.caption_model, args.device, known, args.engine)
    clips = []
    for (source, shot), caption in zip(chosen, captions, strict=True):
        if caption.text:
            clips.append((source, shot, caption.text))
        else:
            left_out.append((source.path, shot.start, shot.end, caption.objection))
    write_left_out(args.out / "left_out.csv", sorted(left_out))
    reasons = Counter(reason for *_, reason in left_out).most_common()
    reasons_told = "; ".join(f"{count} {reason}" for reason, count in reasons[:12])
    if NO_CAPTION in dict(reasons):
        reasons_told += "; captions: put a .txt beside each file, or give --caption-model"
    if not clips:
        (args.out / "index.csv").unlink(missing_ok=True)  # of an earlier run, with other options
        raise ValueError(f"no shot is left to train on ({reasons_told}): see {args.out / 'left_out.csv'}")
    write_manifest(args.out / "index.csv", clips)
    minutes = sum(shot.end - shot.start for _, shot, _ in clips) / 60
    shots = sum(len(source.shots) for source in sources)
    names = f"; {others} others are no videos by their names" if others else ""
    print(f"{len(paths)} files, {shots} shots, in {time.perf_counter() - began:.1f} s{names}")
    print(f"{len(clips)} clips, {minutes:.1f} minutes: {args.out / 'index.csv'}")
    if left_out:
        print(f"{len(left_out)} left out ({reasons_told}): {args.out / 'left_out.csv'}")


def check(args: argparse.Namespace) -> None:
    """Say which clips of a training's manifest it can use, and why not the others; all are read."""
    import torch
    from tqdm import tqdm

    from data import manifest_clips
    from data.workers import by_processes
    from vae3d import LatentCodec
    from video_dit.config import RunConfig, load_config
    from video_dit.preflight import data_report
    from video_dit.sources import clip_source, pack_plan

    config = load_config(RunConfig, args.config, args.overrides)
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.float32)
    if not config.data.manifest:
        raise ValueError("data.manifest is not set: there are no videos to check")
    source = clip_source(config, codec, "train")
    plan = pack_plan(config, codec, source, config.train.accumulation)
    print("\n".join(data_report(config, source, plan)))
    assert isinstance(source, manifest_clips.ManifestClips)
    singles = [source.single(index) for index in range(len(source))]
    damaged: list[tuple[ManifestClips, str]] = []
    with tqdm(total=len(singles), desc="read", unit="clip", disable=None) as bar:
        for one, objection in by_processes(unreadable, singles, args.workers):
            if objection != "":
                damaged.append((one, objection or "reading it ends the process"))
            bar.update()
    print(f"read: {len(singles) - len(damaged):,} of {len(singles):,} clips")
    for one, objection in sorted(damaged, key=lambda pair: pair[0].parts[0][0].row):
        print(f"  row {one.parts[0][0].row}: {objection}")
    if len(damaged) == len(singles):
        raise ValueError(f"data.manifest={config.data.manifest}: no clip can be read: mend the files")


def unreadable(one: "ManifestClips") -> str:
    """Why the only clip of a data set cannot be read; nothing if it can."""
    try:
        one.load(0)
    except (ValueError, OSError) as error:  # `data.video.VideoError`, or the file is gone
        return " ".join(str(error).split())
    return ""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="prepare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    videos = commands.add_parser("videos", help="a folder of your own videos: its shots, and what they show")
    videos.add_argument("places", type=Path, nargs="+", metavar="FOLDER", help="folders with videos, or files")
    videos.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the manifest")
    videos.add_argument(
        "--caption-model",
        metavar="NAME",
        help="for files without a caption: an image-text-to-text model of transformers, a folder or a name on the Hub",
    )
    videos.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of that model (default: %(default)s)")
    videos.add_argument(
        "--workers",
        type=at_least(0),
        default=cores,
        help="processes that read; 0 reads in this one (default: as many as cores, %(default)s)",
    )
    videos.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on a Ray cluster that sees the same files (default: %(default)s)",
    )
    for name, default, what in RULES:
        videos.add_argument(name, type=float, default=default, help=f"{what} (default: %(default)s)")
    check = commands.add_parser("check", help="which clips of a manifest a training can use, and why not the others")
    check.add_argument("--config", required=True, help="that of the training: a YAML file, or one's name in configs/")
    check.add_argument("--workers", type=at_least(0), default=cores, help="processes that read (default: %(default)s)")
    check.add_argument("overrides", nargs="*", metavar="section.key=value")
    world = commands.add_parser("world", help="clips of the procedural world, with captions and the truth about them")
    world.add_argument("--count", type=at_least(1), required=True, help="clips to make")
    world.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new one, or one of these settings")
    world.add_argument("--split", choices=("train", "val", "test", "all"), default="train", help="default: %(default)s")
    world.add_argument("--first-seed", type=at_least(0), default=0, help="the others follow (default: %(default)s)")
    sizes = "pixels; of several, one is drawn for each clip (default: 128x128)"
    world.add_argument("--size", type=size, nargs="+", default=[(128, 128)], metavar="WxH", help=sizes)
    world.add_argument("--num-frames", type=at_least(1), default=33, help="of each clip (default: %(default)s)")
    world.add_argument("--frame-rate", type=frame_rate, default=8.0, help="frames a second (default: %(default)g)")
    world.add_argument("--latents", action="store_true", help="store the codec's latents; train.py takes mp4")
    world.add_argument("--model", type=Path, default=MODEL, help="whose codec makes the latents (default: sora-tiny)")
    workers = "processes that render; 0 renders in this one (default: as many as cores, %(default)s)"
    world.add_argument("--workers", type=at_least(0), default=cores, help=workers)
    world.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda renders in this process")
    args = parser.parse_args(arguments)
    if args.command != "world":
        return args
    for height, width in args.size:
        if min(height, width) < 8:
            world.error(f"--size {width}x{height} is too small a picture: use 8 or more each way")
        if not args.latents and (height % 2 or width % 2):
            even = f"{width - width % 2}x{height - height % 2}"
            world.error(f"--size {width}x{height} is odd, and H.264 needs even sizes: use {even}")
    return args


def main() -> int:
    """Exit code 0 when all is written, 2 for what the user got wrong, 1 for what failed, 130 for Ctrl-C."""
    args = parse_arguments()
    try:
        {"videos": prepare_videos, "check": check, "world": prepare_world}[args.command](args)
        return 0
    except (ValueError, OSError, RuntimeError) as error:  # a worker's error comes with its traceback before it
        reason = str(error).strip() or type(error).__name__
        print(f"prepare.py: {reason.splitlines()[-1]}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("prepare.py: stopped", file=sys.stderr)
    if args.command == "world":  # now the workers are gone; one that was ended in the midst of a file left its draft
        remove_drafts(args.out, range(args.first_seed, args.first_seed + args.count))
    return 130


if __name__ == "__main__":
    sys.exit(main())
