"""The command line of tools/generate.py: its options, what does not go together, and how a file remembers them."""

import argparse
from pathlib import Path

from data.options import (
    SCHEDULER_NAMES,
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
from data.output_paths import SUFFIXES, is_file_name
from data.settings import Option

ADDED_SECONDS = 4.0  # to a given video, where nobody says how many
FRACTION = 0.5  # of the way from one video to another
MODES = ("extend", "connect", "loop", "edit", "mask", "uncrop", "interpolate")
TOGETHER = ({"edit", "mask"},)  # modes that go with one another
KEEPS_LENGTH = {"edit", "mask", "uncrop", "interpolate"}
READ = ("video", "connect", "mask", "interpolate", "image", "repeat")  # files
WITH_REPEAT = {"repeat", "out", "pictures", "device", "dtype"}
NOT_RECORDED = {"repeat", "out", "pictures", "prompt_file", "num_videos", "aspect", "expand_prompt", "expand_examples"}


def build_parser(description: str, model: Path) -> argparse.ArgumentParser:
    """All options of the program; ``model`` is the folder of the model that it takes by default."""
    parser = argparse.ArgumentParser(
        prog="generate.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is made")
    what.add_argument("--prompt", default="", help='what the video shows; "0: … | 20: …" changes it at 20 seconds')
    what.add_argument("--prompt-file", type=text_lines, metavar="FILE", help="a prompt a line, and videos of each")
    what.add_argument(
        "--expand-prompt",
        type=something,
        metavar="MODEL",
        help="tell short prompts in full: world by the rules of the world that sora-tiny knows; or any text model of "
        "transformers, a folder or a name on the Hugging Face Hub",
    )
    examples = "captions whose style that model takes, one a line (default: some that --model was trained on, if known)"
    what.add_argument("--expand-examples", type=text_lines, metavar="FILE", help=examples)
    what.add_argument("--negative-prompt", default="", help="what it should not show")
    what.add_argument(
        "--seconds",
        type=duration,
        help="length (default: the trained window); of a given video what is added, on each side "
        f"(default: {ADDED_SECONDS:g})",
    )
    what.add_argument("--image", type=Path, metavar="FILE", help="the first frame")
    what.add_argument(
        "--keyframe",
        type=picture_at,
        action="append",
        metavar="FILE@SECONDS",
        help="a picture that is shown at that time; for several, give it several times",
    )
    what.add_argument("--size", type=size, metavar="WxH", help="pixels (default: the model's own)")
    what.add_argument(
        "--aspect",
        type=aspect,
        metavar="W:H",
        help="the trained size nearest to it in shape (default: as what is given)",
    )
    what.add_argument("--frame-rate", type=frame_rate, help="frames a second (default: the model's own)")
    what.add_argument("--num-videos", type=at_least(1), default=1, help="videos to make (default: %(default)s)")
    what.add_argument("--seed", type=seed, default=0, help="same seed, same video (default: %(default)s)")
    what.add_argument(
        "--repeat", type=Path, metavar="FILE", help="make an mp4 or webm of this program again, with all its options"
    )
    given = parser.add_argument_group("of a video that is there")
    given.add_argument("--video", type=Path, metavar="FILE", help="it, with one of the seven that follow")
    given.add_argument("--extend", choices=("forward", "backward", "both"), help="go on after it, before it, or both")
    given.add_argument("--connect", type=Path, metavar="FILE", help="make what is between it and this video")
    given.add_argument("--loop", action="store_true", help="make what leads from its end to its beginning")
    given.add_argument(
        "--edit",
        type=share,
        metavar="STRENGTH",
        help="change it into what the prompt says: from 0, which leaves it, to 1, which leaves nothing of it",
    )
    given.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a picture or video: make anew what is white there, and nothing else; with --edit, as strongly as it says",
    )
    given.add_argument("--uncrop", type=aspect, metavar="W:H", help="make what is around it, in a video of this shape")
    given.add_argument("--interpolate", type=Path, metavar="FILE", help="make a video between it and this one")
    way = f"how far from it to the other with --interpolate, 0 to 1 (default: {FRACTION:g})"
    given.add_argument("--fraction", type=share, help=way)
    source = "what --video shows: then --edit changes it by what --prompt says otherwise; 0.8 is a usual strength"
    given.add_argument("--source-prompt", type=something, metavar="PROMPT", help=source)
    given.add_argument("--context-seconds", type=positive, help="of the video so far that each window sees")
    given.add_argument(
        "--context-level", type=float, default=0.03, help="noise on known latents, 0 to 1 (default: %(default)s)"
    )
    how = parser.add_argument_group("how")
    few = "denoising steps (default: %(default)s); few are taken by the model's student, if it has one for so many"
    how.add_argument("--steps", type=at_least(1), default=30, help=few)
    how.add_argument("--scheduler", choices=SCHEDULER_NAMES, help="what takes the steps (default: the model's own)")
    scale = "1 is none (default: 4 in a window made from nothing, 1.5 in one that goes on from what is there; Wan: 5)"
    how.add_argument("--guidance-scale", type=float, help=scale)
    how.add_argument(
        "--guidance-interval",
        type=interval,
        default=(0.0, 1.0),
        metavar="LOW,HIGH",
        help="noise levels at which there is guidance (default: 0,1)",
    )
    how.add_argument(
        "--history-guidance",
        type=float,
        default=1.0,
        help="weight of guidance by the video so far; 1 is none (default: 1)",
    )
    how.add_argument(
        "--step-cache",
        type=float,
        default=0.0,
        help="the model is left out of steps that would change its output by less than this share; 0 asks it at each "
        "(default: 0)",
    )
    how.add_argument(
        "--model",
        type=Path,
        default=model,
        help="a folder that train.py wrote, or of a WanPipeline of diffusers, or owner/name[@revision] on the Hugging "
        "Face Hub (default: sora-tiny)",
    )
    how.add_argument("--lora", type=Path, metavar="PATH", help="an adapter of the model: the folder lora/ of a run")
    how.add_argument("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")
    how.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--out",
        type=Path,
        help=f"a file that ends in {' or '.join(SUFFIXES)}, or a folder for an mp4 named after the prompt (default: "
        "outputs/); of several videos, the seed of each joins its name, and the number of its prompt",
    )
    where.add_argument(
        "--pictures",
        action="store_true",
        help="write all frames as PNG pictures instead, into a new folder: --out names it, or where to put it",
    )
    return parser


def parse(arguments: list[str] | None, description: str, model: Path) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = build_parser(description, model)
    defaults = vars(parser.parse_args([]))
    told = vars(parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(defaults))))
    given = {name for name, value in told.items() if value is not None}  # which no option on a command line is
    args = argparse.Namespace(**{name: value if name in given else defaults[name] for name, value in told.items()})
    try:
        reason = contradiction(args, given) or missing_file(args) or unfit_name(args)
    except OSError as error:  # a name is too long, or a folder cannot be looked into
        reason = f"{error.filename}: {error.strerror}"
    if reason:
        parser.error(reason)
    return args


def contradiction(args: argparse.Namespace, given: set[str]) -> str | None:
    """What is wrong with options that do not go together; ``given`` are those on the command line."""
    if args.repeat and not given <= WITH_REPEAT:
        others = ", ".join(_option(name) for name in sorted(given - WITH_REPEAT))
        return f"--repeat goes with --out, --pictures, --device and --dtype alone: leave out {others}"
    for one, other in (("prompt", "prompt_file"), ("size", "aspect"), ("image", "video"), ("keyframe", "video")):
        if {one, other} <= given:
            return f"{_option(one)} and {_option(other)} exclude each other: give one"
    if args.expand_prompt and not (args.prompt or args.prompt_file):
        return "--expand-prompt needs --prompt or --prompt-file, which says something that it can tell in full"
    if args.expand_examples and args.expand_prompt in (None, "world"):
        return "--expand-examples goes with --expand-prompt MODEL, a text model that takes their style: give one"
    return unfit_modes(args, given)


def unfit_modes(args: argparse.Namespace, given: set[str]) -> str | None:
    """What is wrong with what is asked about a given video."""
    modes = [name for name in MODES if name in given]
    if args.video and not modes:
        return f"--video goes with {', '.join(_option(name) for name in MODES)}: give one of them"
    if modes and not args.video:
        return f"{_option(modes[0])} needs --video FILE, a video that is there"
    if len(modes) > 1 and set(modes) not in TOGETHER:
        return f"{_option(modes[0])} and {_option(modes[1])} exclude each other: give one"
    kept = next((name for name in modes if name in KEEPS_LENGTH), None)
    if kept and "seconds" in given:
        return f"--seconds does not go with {_option(kept)}, which keeps the length of --video: leave it out"
    if "uncrop" in modes and "aspect" in given:
        return "--uncrop and --aspect exclude each other: --uncrop says the shape"
    if "source_prompt" in given and "edit" not in modes:
        return "--source-prompt needs --edit STRENGTH"
    if "source_prompt" in given and args.expand_prompt:
        return "--expand-prompt does not go with --source-prompt, which it leaves as it is: tell both in full"
    if "source_prompt" in given and args.step_cache:
        return "--step-cache and --source-prompt, whose noise is new at each step, exclude each other: give one"
    if "fraction" in given and "interpolate" not in modes:
        return "--fraction needs --interpolate FILE"
    led_away = args.negative_prompt or args.guidance_interval != (0.0, 1.0)
    if "interpolate" in modes and args.guidance_scale is None and led_away:
        return "--negative-prompt and --guidance-interval need --guidance-scale with --interpolate, which has none"
    if "interpolate" in modes and args.step_cache:
        return "--step-cache does not go with --interpolate: a step that is left out cannot be followed back"
    if "interpolate" in modes and {"prompt_file", "num_videos"} & given:
        return "--interpolate makes one video: leave out --prompt-file and --num-videos"
    return None


def missing_file(args: argparse.Namespace) -> str | None:
    """Which file that is named is not there."""
    named = [(_option(name), getattr(args, name)) for name in READ]
    named += [("--keyframe", path) for path, _ in args.keyframe or []]
    for option, path in named:
        if path and not path.is_file():
            return f"{option} {path}: no such file"
    return f"--lora {args.lora}: no such file" if args.lora and not args.lora.exists() else None


def unfit_name(args: argparse.Namespace) -> str | None:
    """What is wrong with the name of what is written."""
    if args.pictures:
        if args.out and args.out.suffix.lower() in SUFFIXES:
            return f"--out {args.out}: --pictures go into a folder, whose name has no such suffix"
    elif args.out and is_file_name(args.out) and args.out.suffix.lower() not in SUFFIXES:
        return f"--out {args.out}: must end in {' or '.join(SUFFIXES)}, or be a folder"
    return None


def recorded(args: argparse.Namespace) -> dict[str, Option]:
    """The options as `Settings` has them, by which `parse` gives the same; those left out hold for all videos of a
    command, or for one run of it."""
    options: dict[str, Option] = {}
    for name, value in sorted(vars(args).items()):
        if name not in NOT_RECORDED and value is not None and value is not False:
            options[name.replace("_", "-")] = _as_option(name, value)
    return options


def _as_option(name: str, value: object) -> Option:
    if value is True:
        return True
    if isinstance(value, Path):
        return str(value.absolute() if value.exists() else value)  # a model may have a name on the Hub
    if isinstance(value, list):
        return [f"{path.absolute()}@{seconds}" for path, seconds in value]
    if isinstance(value, tuple):
        between = {"size": "x", "uncrop": ":"}.get(name, ",")
        return between.join(str(part) for part in (reversed(value) if name == "size" else value))
    return str(value)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
