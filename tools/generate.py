"""Make a video from text, or continue a video file forward or backward in time.

    python tools/generate.py --prompt "a red sphere bounces on the ground" --seconds 10
    python tools/generate.py --video clip.mp4 --extend forward --seconds 4 --prompt "a dog runs"

Writes an mp4, or what --out asks for, and, beside it, a contact sheet as PNG.
"""

import argparse
import hashlib
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.options import aspect, at_least, frame_rate, positive, size

if TYPE_CHECKING:  # torch takes seconds to import: only once the arguments are known to be good
    import torch

    from video_dit import VideoPipeline

MODEL = Path(__file__).parents[1] / "checkpoints" / "sora-tiny"
SUFFIXES = (".mp4", ".webm", ".gif", ".webp")  # those of `data.video_write`, which imports torch
SCHEDULERS = {
    "euler": "FlowMatchEulerDiscreteScheduler",
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Of diffusers: the first for models of the straight path, the others for those of DDPM's (docs/ddpm.md)."""
GIF_FRAME_RATE = 50  # browsers show a frame of a hundredth of a second, the shortest a gif has, for ten


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default="", help="what the video shows")
    parser.add_argument("--negative-prompt", default="", help="what it should not show")
    parser.add_argument("--seconds", type=positive, help="length, or length to add (default: the trained window)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="a video to continue; needs --extend")
    parser.add_argument("--extend", choices=("forward", "backward"), help="continue after the end, or before the start")
    parser.add_argument("--size", type=size, metavar="WxH", help="pixels (default: the model's own)")
    parser.add_argument("--aspect", type=aspect, metavar="W:H", help="the trained size nearest to it in shape")
    parser.add_argument("--frame-rate", type=frame_rate, help="frames a second (default: the model's own)")
    parser.add_argument("--steps", type=at_least(1), default=30, help="denoising steps (default: %(default)s)")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="what takes the steps (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, default=4.0, help="1 is none (default: %(default)s)")
    parser.add_argument("--context-seconds", type=positive, help="of the video so far that each window sees")
    parser.add_argument(
        "--context-level", type=float, default=0.03, help="noise on known latents, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument("--num-videos", type=at_least(1), default=1, help="videos to make (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same video (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder that train.py wrote (default: sora-tiny)")
    parser.add_argument("--lora", type=Path, metavar="PATH", help="an adapter of the model: the folder lora/ of a run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"a file that ends in {' or '.join(SUFFIXES)}, or a folder for an mp4 named after the prompt (default: "
        "outputs/); of several videos, the seed of each joins its name",
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="write all frames as PNG pictures instead, into a new folder: --out names it, or where to put it",
    )
    args = parser.parse_args(arguments)
    if bool(args.video) != bool(args.extend):
        parser.error("--video FILE and --extend forward|backward go together: give both or none")
    if args.size and args.aspect:
        parser.error("--size and --aspect exclude each other: give one")
    if args.video and args.num_videos > 1:
        parser.error(f"--num-videos {args.num_videos}: a video is continued once; use another --seed")
    if args.video and not args.video.is_file():
        parser.error(f"--video {args.video}: no such file")
    if args.lora and not args.lora.exists():
        parser.error(f"--lora {args.lora}: no such file")
    if args.pictures:
        if args.out and args.out.suffix.lower() in SUFFIXES:
            parser.error(f"--out {args.out}: --pictures go into a folder, whose name has no such suffix")
    elif args.out and _is_file_name(args.out) and args.out.suffix.lower() not in SUFFIXES:
        parser.error(f"--out {args.out}: must end in {' or '.join(SUFFIXES)}, or be a folder")
    return args


def _is_file_name(out: Path) -> bool:
    return bool(out.suffix) and not out.is_dir()


def load_pipeline(folder: Path, device: str, dtype: str) -> "VideoPipeline":
    """The pipeline in ``folder``. "auto" takes CUDA where it is, and 16 bits where they are fast."""
    import torch

    from video_dit.layers import fast_dtype
    from video_dit.model_folder import check_model_folder
    from video_dit.pipeline import VideoPipeline

    check_model_folder(folder)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None
    kind = fast_dtype(place) if dtype == "auto" else {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    return VideoPipeline.from_pretrained(folder, dtype=kind).to(place)


def choose_scheduler(pipe: "VideoPipeline", name: str) -> None:
    """Raises ValueError where it is of another path than the model."""
    import diffusers

    from video_dit.schedulers import check_scheduler

    given: Any = pipe.scheduler
    scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(given.config)
    try:
        check_scheduler(scheduler, pipe.noise)
    except ValueError:
        of_straight, *of_vp = SCHEDULERS
        fitting = of_straight if pipe.noise["path"] == "straight" else " or ".join(of_vp)
        raise ValueError(f"--scheduler {name} does not go with a model of this path: use {fitting}") from None
    pipe.scheduler = scheduler


def choose_size(args: argparse.Namespace, pipe: "VideoPipeline", aspect: float | None) -> tuple[int, int]:
    """(height, width): as asked, or the trained size whose shape is nearest to ``aspect`` (width / height)."""
    if args.size:
        pipe.check_size(*args.size)
        return args.size
    if args.aspect:
        aspect = args.aspect[0] / args.aspect[1]
    if aspect is None:
        return pipe.sizes[0]
    wanted = aspect
    return min(pipe.sizes, key=lambda size: abs(math.log(size[1] / size[0] / wanted)))


def make_videos(args: argparse.Namespace, pipe: "VideoPipeline") -> tuple["torch.Tensor", "torch.Tensor", float]:
    """Text to video. Returns uint8 frames ``(b, t, h, w, 3)``, which of the frames were given, and the rate."""
    import torch

    rate = args.frame_rate or pipe.frame_rate
    height, width = choose_size(args, pipe, None)
    r, _ = pipe.codec.frame_rule
    num_frames = None
    if args.seconds is not None:
        num_frames = 1 + r * max(1, round(args.seconds * rate / r))
        _say_snapped(args.seconds, (num_frames - 1) / rate)
    frames = pipe(
        prompt=args.prompt,
        num_frames=num_frames,
        height=height,
        width=width,
        frame_rate=rate,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=args.negative_prompt,
        num_videos_per_prompt=args.num_videos,
        generator=[torch.Generator().manual_seed(args.seed + n) for n in range(args.num_videos)],
        context_seconds=args.context_seconds,
        context_level=args.context_level,
        output_type="np",
    ).frames
    videos = _to_uint8(frames)
    return videos, torch.zeros(videos.shape[1], dtype=torch.bool), rate


def extend_video(args: argparse.Namespace, pipe: "VideoPipeline") -> tuple["torch.Tensor", "torch.Tensor", float]:
    """Continue a file. Returns as `make_videos` does."""
    import torch

    from data.transforms import fit
    from data.video import probe_video, read_video

    rate = args.frame_rate or pipe.frame_rate
    info = probe_video(args.video)
    height, width = choose_size(args, pipe, info.width / info.height)
    given = fit(read_video(args.video, frame_rate=rate).frames, height, width)
    changes = []
    if (info.width, info.height) != (width, height):
        cropped = " (cropped about its centre)" if info.width * height != info.height * width else ""
        changes.append(f"{info.width}x{info.height} to {width}x{height} pixels{cropped}")
    if info.variable_fps or abs(info.frame_rate - rate) > 1e-3:
        changes.append(f"{info.frame_rate:g} to {rate:g} frames a second")
    if changes:
        print(f"{args.video.name}: resampled from {', '.join(changes)}")
    seconds = args.seconds if args.seconds is not None else 4.0
    output = pipe.extend(
        given,
        direction=args.extend,
        seconds=seconds,
        prompt=args.prompt,
        frame_rate=rate,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=args.negative_prompt,
        generator=torch.Generator().manual_seed(args.seed),
        context_seconds=args.context_seconds,
        context_level=args.context_level,
        output_type="np",
    )
    videos = _to_uint8(output.frames)
    made = videos.shape[1] - len(given)
    _say_snapped(seconds, made / rate)
    is_given = torch.ones(videos.shape[1], dtype=torch.bool)
    is_given[slice(len(given), None) if args.extend == "forward" else slice(0, made)] = False
    return videos, is_given, rate


def _to_uint8(frames: object) -> "torch.Tensor":
    import torch

    return torch.as_tensor(frames).mul(255).round().to(torch.uint8)


def _say_snapped(asked: float, got: float) -> None:
    if abs(asked - got) > 1e-6:
        print(f"{asked:g} s is no whole number of latent frames: {got:g} s are made")


def output_paths(args: argparse.Namespace) -> list[Path]:
    """A path for each video, a file or a new folder for pictures: its name is ``--out``, or comes from the prompt and
    the seed, or from the file that is continued."""
    seeds = range(args.seed, args.seed + args.num_videos)
    if args.out and (_is_file_name(args.out) or (args.pictures and not args.out.exists())):
        return [args.out.with_stem(f"{args.out.stem}-{seed}") for seed in seeds] if len(seeds) > 1 else [args.out]
    folder = args.out or Path("outputs")
    words = args.video.stem if args.video else args.prompt or "no prompt"
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    stem = slug[:60].strip("-") or "video"
    if stem != slug or not words.isascii():  # what was left out tells prompts apart
        stem += f"-{hashlib.blake2b(words.encode(), digest_size=4).hexdigest()}"
    if args.video:
        stem = f"{stem}-{args.extend}"
    return [folder / f"{stem}-{seed}{'' if args.pictures else '.mp4'}" for seed in seeds]


def sheet_path(args: argparse.Namespace, path: Path) -> Path:
    """Of the contact sheet beside a video, or a folder of pictures."""
    return path.with_name(f"{path.name}.png") if args.pictures else path.with_suffix(".png")


def check_paths(args: argparse.Namespace, paths: list[Path]) -> None:
    """Raises ValueError where one of the files or folders cannot be written, or is what is read."""
    for path in paths:
        if args.video and args.video.resolve() in (path.resolve(), sheet_path(args, path).resolve()):
            raise ValueError(f"--out {path} is the video that is continued: choose another name")
        if args.pictures and path.exists():
            raise ValueError(f"--out {path} exists: give a new folder")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(f"--out {path}: {folder} is no folder that can be written to")


def check_frame_rate(path: Path, rate: float) -> None:
    """Raises ValueError where the file cannot be shown at this rate."""
    if path.suffix.lower() == ".gif" and rate > GIF_FRAME_RATE:
        fix = f"use a --frame-rate of at most {GIF_FRAME_RATE}, or .webp"
        raise ValueError(f"--out {path}: no gif is shown at {rate:g} frames a second: {fix}")


def run(args: argparse.Namespace) -> None:
    """Load, make, write, and say what was written."""
    began = time.perf_counter()
    paths = output_paths(args)
    check_paths(args, paths)
    if args.frame_rate:
        check_frame_rate(paths[0], args.frame_rate)
    from data.sheet import write_contact_sheet
    from data.video_write import write_pictures, write_video
    from video_dit.attention import use_flash_attention_3

    pipe = load_pipeline(args.model, args.device, args.dtype)
    use_flash_attention_3()
    if args.lora:
        from video_dit.lora import load_lora

        load_lora(pipe.transformer, args.lora)
    if args.scheduler:
        choose_scheduler(pipe, args.scheduler)
    check_frame_rate(paths[0], args.frame_rate or pipe.frame_rate)
    loaded = time.perf_counter()
    videos, given, rate = (extend_video if args.video else make_videos)(args, pipe)
    made = time.perf_counter()
    for path, frames in zip(paths, videos, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if args.pictures:
            write_pictures(path, frames)
        else:
            write_video(path, frames, rate)
        sheet = sheet_path(args, path)
        write_contact_sheet(sheet, frames, rate, known=given if args.video else None)
        height, width = frames.shape[1:3]
        print(f"{path}  ({len(frames)} frames of {width}x{height}, {rate:g} a second)\n{sheet}")
    written = time.perf_counter()
    times = f"load {loaded - began:.1f} s, make {made - loaded:.1f} s, write {written - made:.1f} s"
    print(f"{times}, on {pipe.device} in {str(pipe.dtype).removeprefix('torch.')}")


def main() -> int:
    """Exit code 0 when all is written, 2 for what the user got wrong, 1 for what failed, 130 for Ctrl-C."""
    args = parse_arguments()
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"generate.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("generate.py: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
