"""Measure a model: how well its autoencoder reconstructs, how much of their prompts its samples show, how well it
continues and edits clips, and whether one that was trained on a few clips of your own makes the right one of each
caption.

python tools/evaluate.py vae --manifest clips.csv
python tools/evaluate.py world --prompts 256
python tools/evaluate.py extend --clips 16
python tools/evaluate.py edit --clips 64
python tools/evaluate.py clips --model runs/own/model --manifest clips/index.csv
"""

import argparse
import json
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from data.options import SCHEDULER_NAMES, at_least, frame_rate, positive, share, size, something

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "sora-tiny"


def run_vae(args: argparse.Namespace) -> None:
    """PSNR, SSIM, flicker and blocking of clips through the autoencoder."""
    from tqdm import tqdm

    from video_dit.evaluation.pairs import write_pairs, write_picture
    from video_dit.evaluation.vae import VAEOptions, evaluate_vae

    warn = partial(tqdm.write, file=sys.stderr)
    options = options_of(VAEOptions, args)
    results, pairs = evaluate_vae(options, tqdm.write, warn, show=bool(args.picture or args.video))
    write_json(args.json, results)
    if args.picture:
        write_picture(args.picture, pairs)
    if args.video:
        write_pairs(args.video, pairs)


def run_world(args: argparse.Namespace) -> None:
    """How much of what prompts state the judge finds in samples."""
    from tqdm import tqdm

    from video_dit.evaluation.world import WorldOptions, evaluate_world

    args.picture.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.json, evaluate_world(options_of(WorldOptions, args), tqdm.write))


def run_extend(args: argparse.Namespace) -> None:
    """How near the continuations of unseen clips come to the truth."""
    from tqdm import tqdm

    from video_dit.evaluation.extend import ExtendOptions, evaluate_extend

    write_json(args.json, evaluate_extend(options_of(ExtendOptions, args), tqdm.write))


def run_edit(args: argparse.Namespace) -> None:
    """Whether edits change what they should, and leave the rest."""
    from tqdm import tqdm

    from video_dit.evaluation.editing import EditOptions, evaluate_edits

    write_json(args.json, evaluate_edits(options_of(EditOptions, args), tqdm.write))


def run_clips(args: argparse.Namespace) -> None:
    """Whether the sample of each caption is nearest to its own clip."""
    from tqdm import tqdm

    from video_dit.evaluation.recall import RecallOptions, evaluate_recall

    write_json(args.json, evaluate_recall(options_of(RecallOptions, args), tqdm.write))


def options_of(kind: Any, args: argparse.Namespace) -> Any:
    """The dataclass ``kind`` filled from the arguments of the same names."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


def write_json(path: Path | None, results: dict) -> None:
    """The figures, if they are wanted in a file."""
    if path:
        path.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    vae = commands.add_parser("vae", help="reconstruction")
    vae.add_argument("--manifest", type=Path, metavar="FILE", help="real clips (default: none)")
    vae.add_argument("--split", default="test", help="of the manifest, where it has splits (default: %(default)s)")
    vae.add_argument("--clips", type=at_least(0), default=16, help="renders of the unseen world (default: %(default)s)")
    vae.add_argument("--frames", type=at_least(1), default=17, help="of each clip, 1 + 4k (default: %(default)s)")
    vae.add_argument("--short-side", type=at_least(1), default=256, help="of real clips (default: %(default)s pixels)")
    vae.add_argument("--world-size", type=at_least(1), default=128, help="of renders (default: %(default)s pixels)")
    vae.add_argument("--frame-rate", type=frame_rate, help="resample real clips (default: their frames as they are)")
    vae.add_argument("--dtype", choices=("float32", "bfloat16", "auto"), default="float32", help="default: %(default)s")
    vae.add_argument("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")
    vae.add_argument("--picture", type=Path, metavar="FILE.png", help="originals above their reconstructions")
    vae.add_argument("--video", type=Path, metavar="FILE.mp4", help="originals left of their reconstructions")
    world = commands.add_parser("world", help="do samples follow their prompts")
    world.add_argument("--prompts", type=at_least(1), default=256, help="half of them held out (default: %(default)s)")
    world.add_argument("--prompt-file", type=Path, help="prompts in your own words instead, one a line")
    world.add_argument("--style", default="exhaustive", help="of the captions: exhaustive, detailed, short or terse")
    expander = "tell them in full for the model, as tools/generate.py does, and see whether it shows what they say"
    world.add_argument("--expand-prompt", type=something, metavar="MODEL", help=expander)
    world.add_argument("--size", type=size, metavar="WxH", help="pixels (default: as the model was trained most)")
    of_seconds = "of each clip, 2 or more; motions are asked about from 4 on (default: %(default)s)"
    world.add_argument("--seconds", type=positive, default=4.0, help=of_seconds)
    world.add_argument("--batch", type=at_least(1), default=16, help="samples made at a time (default: %(default)s)")
    world.add_argument("--judge", type=Path, default=ROOT / "checkpoints" / "judge", help="default: the shipped one")
    world.add_argument("--scheduler", choices=SCHEDULER_NAMES, help="what takes the steps (default: the model's own)")
    picture = ROOT / "outputs" / "evaluate-world.png"
    world.add_argument("--picture", type=Path, default=picture, metavar="FILE", help="default: outputs/")
    extend = commands.add_parser("extend", help="does it continue clips as they go on in truth")
    extend.add_argument("--clips", type=at_least(2), default=16, help="how many (default: %(default)s)")
    extend.add_argument("--manifest", type=Path, metavar="FILE", help="real clips instead, at most --clips of them")
    extend.add_argument("--split", default="test", help="of the manifest, where it has splits (default: %(default)s)")
    directions = ("forward", "backward", "connect", "loop")
    extend.add_argument("--directions", nargs="+", choices=directions, default=directions, help="default: all")
    of_windows = "training windows that clips are long, given frames and made (default: 1)"
    extend.add_argument("--windows", type=at_least(1), nargs="+", metavar="N", default=[1], help=of_windows)
    methods = ("ours", "replacement", "reencode")
    extend.add_argument("--methods", nargs="+", choices=methods, default=methods, help="default: all")
    extend.add_argument("--known", type=at_least(1), metavar="K", help="latent frames given (default: half a window)")
    level = "noise on them, one or several (default: 0.03)"
    extend.add_argument("--context-level", type=float, nargs="+", metavar="L", default=[0.03], help=level)
    context = "of the video that each window sees, one or several (default: all that is given)"
    extend.add_argument("--context-seconds", type=positive, nargs="+", metavar="S", default=[], help=context)
    extend.add_argument("--judge", type=Path, default=ROOT / "checkpoints" / "judge", help="default: the shipped one")
    extend.add_argument("--picture", type=Path, metavar="FILE.png", help="the truth above what was made")
    edit = commands.add_parser("edit", help="do edits change what they should, and leave the rest")
    edit.add_argument("--clips", type=at_least(1), default=64, help="of each kind of edit (default: %(default)s)")
    kinds = ("sdedit", "flowedit", "inpaint")
    edit.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="default: all")
    edit.add_argument("--strength", type=share, help="of the recolouring (default: 0.6, and 0.8 of flowedit)")
    edit.add_argument("--judge", type=Path, default=ROOT / "checkpoints" / "judge", help="default: the shipped one")
    edit.add_argument("--picture", type=Path, metavar="FILE.png", help="given clips above their edits")
    clips = commands.add_parser("clips", help="does a model give back the clips it was trained on")
    clips.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="that it was trained on")
    clips.add_argument("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")
    clips.add_argument("--picture", type=Path, metavar="FILE.png", help="samples above the clips nearest to them")
    for command in (world, extend, edit, clips):
        command.add_argument("--steps", type=at_least(1), default=30, help="of the sampler (default: %(default)s)")
        command.add_argument("--guidance-scale", type=positive, help="default: as tools/generate.py")
        command.add_argument("--seed", type=int, default=0, help="of the first sample (default: %(default)s)")
    models = {
        clips: "a folder that train.py wrote",
        edit: "a folder that train.py wrote",
        extend: "a folder that train.py wrote",
        vae: "a folder with an autoencoder, or of one",
        world: "a folder that train.py wrote",
    }
    for command, kind in models.items():
        command.add_argument("--model", type=Path, default=MODEL, help=f"{kind} (default: sora-tiny)")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(arguments)
    check_files(parser, args)
    if args.command == "world" and args.seconds < 2:
        parser.error(f"--seconds {args.seconds:g}: the judge takes 2 seconds to tell what is there: use 2 or more")
    return args


def check_files(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse names of files that could not be written after a long measurement."""
    written = {"json": "", "picture": ".png", "video": ".mp4"}
    for name, suffix in written.items():
        path = getattr(args, name, None)
        if path and (path.is_dir() or (suffix and path.suffix.lower() != suffix)):
            parser.error(f"--{name} {path}: must be a file{f' whose name ends in {suffix}' if suffix else ''}")
        if path and not path.parent.is_dir() and not (args.command == "world" and name == "picture"):
            parser.error(f"--{name} {path}: must be a file in a folder that exists")


def main() -> int:
    """Exit code 2 for what the user got wrong, 1 for what failed."""
    args = parse_arguments()
    try:
        {"vae": run_vae, "world": run_world, "extend": run_extend, "edit": run_edit, "clips": run_clips}[args.command](
            args
        )
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
