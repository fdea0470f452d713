"""Make a video from text and pictures, or continue, connect, close, edit or interpolate video files.

    python tools/generate.py --prompt "a red sphere bounces on the ground" --seconds 10
    python tools/generate.py --prompt "0: a dog sits | 20: it runs" --seconds 60 --image dog.png
    python tools/generate.py --video a.mp4 --extend both --seconds 4 --prompt "a dog runs"
    python tools/generate.py --video a.mp4 --connect b.mp4 --seconds 2
    python tools/generate.py --video a.mp4 --loop --seconds 2
    python tools/generate.py --video a.mp4 --edit 0.6 --prompt "a cat runs"
    python tools/generate.py --video a.mp4 --edit 0.8 --source-prompt "a dog runs" --prompt "a cat runs"
    python tools/generate.py --video a.mp4 --mask m.png --prompt "a dog runs on grass"
    python tools/generate.py --video a.mp4 --uncrop 16:9 --prompt "a dog runs"
    python tools/generate.py --video a.mp4 --interpolate b.mp4
    python tools/generate.py --repeat outputs/a-dog-runs-0.mp4 --out again.mp4

Writes an mp4, or what --out asks for, and, beside it, a contact sheet as PNG. Frames are written as they are made, and
Ctrl-C leaves those made so far as a whole file. An mp4 and a webm hold all that they were made with, for --repeat.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.generate_options import parse, recorded
from data.output_paths import check_paths, output_paths, sheet_path
from data.settings import Settings, file_hashes, package_versions

if TYPE_CHECKING:  # torch takes seconds to import: only once the arguments are known to be good
    import torch

    from data.sheet_frames import SheetFrames
    from video_dit import VideoPipeline
    from video_dit.request import Piece, VideoRequest
    from video_dit.stopping import Interrupt

MODEL = Path(__file__).parents[1] / "checkpoints" / "sora-tiny"
GIF_FRAME_RATE = 50  # browsers show a frame of a hundredth of a second, the shortest a gif has, for ten


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    return parse(arguments, __doc__ or "", MODEL)


def load_pipeline(folder: Path, device: str, dtype: str) -> "VideoPipeline":
    """The pipeline in ``folder``. "auto" takes CUDA where it is, and 16 bits where they are fast."""
    import torch

    from video_dit.layers import fast_dtype, find_device
    from video_dit.loading import load_model

    place = find_device(device)
    kind = fast_dtype(place) if dtype == "auto" else {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    return load_model(folder, kind, published=True).to(place)


def choose_scheduler(pipe: "VideoPipeline", name: str) -> None:
    """Raises ValueError where it is of another path than the model."""
    from video_dit.schedulers import named_scheduler

    pipe.scheduler = named_scheduler(name, pipe.scheduler)


def say(line: str) -> None:
    """A line, if there is anything to say."""
    if line:
        print(line)


def check_frame_rate(path: Path, rate: float) -> None:
    """Raises ValueError where the file cannot be shown at this rate."""
    if path.suffix.lower() == ".gif" and rate > GIF_FRAME_RATE:
        fix = f"use a --frame-rate of at most {GIF_FRAME_RATE}, or .webp"
        raise ValueError(f"--out {path}: no gif is shown at {rate:g} frames a second: {fix}")


@dataclass(frozen=True)
class Video:
    """One of those that are made."""

    prompt: str
    seed: int
    path: Path
    sheet: Path


def videos_of(args: argparse.Namespace) -> list[Video]:
    """All that a command makes, in order."""
    paths = output_paths(args)
    check_paths(args, paths)
    seeds = range(args.seed, args.seed + args.num_videos)
    texts = itertools.product(args.prompt_file or [args.prompt], seeds)
    return [
        Video(prompt, seed, path, sheet_path(args, path)) for (prompt, seed), path in zip(texts, paths, strict=True)
    ]


def expanded(args: argparse.Namespace, folder: Path, videos: list[Video]) -> list[Video]:
    """With their prompts told in full, as ``--expand-prompt`` asks; says them."""
    from video_dit.layers import find_device
    from video_dit.model_folder import check_model_folder
    from video_dit.prompt_expansion import expanded_prompts

    check_model_folder(folder, published=True)
    asked = [(video.prompt, video.seed) for video in videos]
    place, examples = find_device(args.device), args.expand_examples or ()
    prompts = expanded_prompts(asked, args.expand_prompt, folder, place, examples, say)
    return [replace(video, prompt=prompt) for video, prompt in zip(videos, prompts, strict=True)]


def repeated(args: argparse.Namespace) -> argparse.Namespace:
    """What ``--repeat`` names, with the options that the file holds.

    Raises:
        ValueError: it holds none, or what it was made with is not there as it was.
    """
    import torch

    from data.video_comment import read_comment

    settings = Settings.from_json(read_comment(args.repeat))
    if settings is None:
        raise ValueError(f"--repeat {args.repeat} does not say how it was made: give an mp4 or webm of generate.py")
    settings.check_files()
    for difference in settings.differences(package_versions()):
        print(f"{args.repeat.name} was made with {difference}: the video may differ")
    if (threads := settings.made_with.get("threads", "")).isdecimal():
        torch.set_num_threads(max(1, int(threads)))  # sums differ with their number
    told = parse_arguments(settings.words())
    told.repeat, told.out, told.pictures = args.repeat, args.out, args.pictures
    for name in ("device", "dtype"):
        if getattr(args, name) != "auto":
            setattr(told, name, getattr(args, name))
    return told


class Notes:
    """What a video's file holds of how it was made."""

    def __init__(self, args: argparse.Namespace, pipe: "VideoPipeline", request: "VideoRequest") -> None:
        import torch

        from video_dit.lora import find_lora

        read = [args.video, args.connect, args.mask, args.interpolate, args.image]
        read += [find_lora(args.lora) if args.lora else None]
        read += [args.model if args.model.exists() else None]  # a name on the Hub tells its revision
        self.files = file_hashes([path for path in read if path] + [path for path, _ in args.keyframe or []])
        self.args = argparse.Namespace(**vars(args))
        self.args.size = request.height, request.width
        self.args.frame_rate = request.frame_rate
        if request.mode not in ("edit", "interpolate") and request.num_frames != 1:
            self.args.seconds = request.seconds or (request.num_frames - 1) / request.frame_rate
        self.args.device = str(pipe.device)
        self.args.dtype = {torch.bfloat16: "bf16", torch.float32: "fp32"}[pipe.dtype]
        self.made_with = package_versions() | {"threads": str(torch.get_num_threads())}

    def of(self, video: Video) -> str:
        """Those of one video."""
        self.args.prompt, self.args.seed = video.prompt, video.seed
        return Settings(recorded(self.args), self.files, self.made_with).to_json()


def chunks(pieces: Iterator["Piece"], interrupt: "Interrupt", sheet: "SheetFrames") -> "Iterator[torch.Tensor]":
    """Frames as they are made, uint8 ``(t, h, w, 3)``, up to a Ctrl-C; a sheet of them is kept.

    Raises:
        KeyboardInterrupt: none was made before it.
    """
    from data.transforms import to_uint8

    made = False
    for piece in interrupt.until(pieces):
        frames = to_uint8(piece.frames)[0]
        sheet.add(frames, piece.given)
        made = made or not piece.given
        yield frames
    if interrupt.asked and not made:
        raise KeyboardInterrupt("stopped before any frame was made: nothing is written")


def write(
    args: argparse.Namespace, pipe: "VideoPipeline", request: "VideoRequest", video: Video, note: str | None
) -> None:
    """Make and write a video and its contact sheet, and say so.

    Raises:
        KeyboardInterrupt: there was a Ctrl-C; what was made before is written.
    """
    from data.sheet_frames import SheetFrames
    from data.video_write import write_pictures, write_video
    from video_dit.stopping import hold_interrupts

    sheet = SheetFrames()
    with hold_interrupts() as interrupt:
        frames = chunks(iter(pipe.stream(request)), interrupt, sheet)
        first = next(frames)  # what is refused leaves no folder behind
        video.path.parent.mkdir(parents=True, exist_ok=True)
        frames = itertools.chain([first], frames)
        if args.pictures:
            write_pictures(video.path, frames)
        else:
            write_video(video.path, frames, request.frame_rate, reproducible=True, comment=note)
        sheet.write(video.sheet, request.frame_rate)
    height, width = first.shape[1:3]
    rate = request.frame_rate
    print(f"{video.path}  ({sheet.count} frames of {width}x{height}, {rate:g} a second)\n{video.sheet}")
    if interrupt.asked:
        so_far = f"{video.path} has what was made so far, {sheet.count / rate:g} s"
        raise KeyboardInterrupt(f"stopped: {so_far}" + ("; --repeat makes all of it" if note else ""))


def run(args: argparse.Namespace) -> None:
    """Load, make, write, and say what was written."""
    began = time.perf_counter()
    if args.repeat:
        args = repeated(args)
    videos = videos_of(args)
    if args.frame_rate:
        check_frame_rate(videos[0].path, args.frame_rate)
    import torch

    from data.video_write import COMMENTED
    from video_dit.asked import in_few_steps, interpolation, request_of, sampling_config
    from video_dit.attention import use_flash_attention_3
    from video_dit.model_folder import find_model
    from video_dit.pieces import check_starts
    from video_dit.request import PromptSchedule

    prompts = [PromptSchedule.parse(video.prompt) for video in videos]
    PromptSchedule.parse(args.source_prompt or "")
    sampling_config(args)  # what is out of range is refused before a model is loaded
    folder, args.model = find_model(args.model)
    if args.expand_prompt:
        videos = expanded(args, folder, videos)
        prompts = [PromptSchedule.parse(video.prompt) for video in videos]
    pipe = load_pipeline(folder, args.device, args.dtype)
    use_flash_attention_3()
    if args.lora:
        from video_dit.lora import load_lora

        load_lora(pipe.transformer, args.lora)
    if args.scheduler:
        choose_scheduler(pipe, args.scheduler)
    check_frame_rate(videos[0].path, args.frame_rate or pipe.frame_rate)
    request = in_few_steps(args, folder, pipe, request_of(args, pipe, say), say)
    for prompt in prompts:  # the last is refused before the first is made
        check_starts(replace(request, prompts=(prompt,)), pipe.codec.frame_rule[0])
    remembers = not args.pictures and videos[0].path.suffix.lower() in COMMENTED
    notes = Notes(args, pipe, request) if remembers else None
    loaded = time.perf_counter()
    for video, prompt in zip(videos, prompts, strict=True):
        pipe.set_progress_bar_config(desc=video.path.name)
        generator = torch.Generator().manual_seed(video.seed)
        asked = replace(request, prompts=(prompt,), generator=generator)
        if asked.mode == "interpolate":
            asked = interpolation(args, pipe, asked, say)
        write(args, pipe, asked, video, notes.of(video) if notes else None)
    times = f"load {loaded - began:.1f} s, make and write {time.perf_counter() - loaded:.1f} s"
    print(f"{times}, on {pipe.device} in {str(pipe.dtype).removeprefix('torch.')}")


def main() -> int:
    """Exit code 0 when all is written, 2 for what the user got wrong, 1 for what failed, 130 for Ctrl-C."""
    args = parse_arguments()
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"generate.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except (RuntimeError, MemoryError) as error:
        from video_dit.failures import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        print(f"generate.py: out of memory ({reason}): use a smaller --size", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"generate.py: {str(error) or 'stopped'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
