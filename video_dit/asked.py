"""What a command line of tools/generate.py asks for, with the files that it names read."""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.generate_options import ADDED_SECONDS, FRACTION
from data.transforms import contained_size
from video_dit.editing import known_tokens, repeat_last, uncropped
from video_dit.few_steps import FOLDER, is_student, use_few_steps
from video_dit.pieces import made_frames
from video_dit.pipeline import VideoPipeline
from video_dit.request import Keyframe, Mode, PromptSchedule, VideoRequest
from video_dit.sampling import SamplingConfig

Say = Callable[[str], None]
"""Takes a line for the user; an empty one says nothing."""


def choose_size(
    args: argparse.Namespace, pipe: VideoPipeline, aspect: float | None, pixels: int | None = None
) -> tuple[int, int]:
    """(height, width): as asked; or the trained size whose shape is nearest to ``aspect`` (width / height), and of
    several of that shape the one nearest to so many ``pixels``, or the usual."""
    if args.size:
        pipe.check_size(*args.size)
        return args.size
    if args.aspect:
        aspect = args.aspect[0] / args.aspect[1]
    if aspect is None:
        return pipe.sizes[0]
    wanted = aspect

    def away(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        return abs(math.log(width / height / wanted)), abs(math.log(height * width / pixels)) if pixels else 0.0

    return min(pipe.sizes, key=away)


def sampling_config(args: argparse.Namespace) -> SamplingConfig:
    """Raises ValueError where an option is out of its range."""
    return SamplingConfig(
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        context_level=args.context_level,
        guidance_interval=args.guidance_interval,
        history_guidance=args.history_guidance,
        step_cache=args.step_cache,
    )


def request_of(args: argparse.Namespace, pipe: VideoPipeline, say: Say) -> VideoRequest:
    """What is asked, but for the prompt and the seed of each video; reads what is given, and says what was changed."""
    rate = args.frame_rate or pipe.frame_rate
    pipe.context_frames(args.context_seconds, rate)  # before anything is read
    nothing = VideoRequest(
        mode="text",
        prompts=(PromptSchedule.parse(""),),
        negative_prompts=(args.negative_prompt,),
        frame_rate=rate,
        sampling=sampling_config(args),
        context_seconds=args.context_seconds,
    )
    return (with_video if args.video else with_text)(args, pipe, nothing, say)


def with_text(args: argparse.Namespace, pipe: VideoPipeline, request: VideoRequest, say: Say) -> VideoRequest:
    """Text to video, with pictures where they are given."""
    from data.video_fit import fitted_picture, read_picture  # PyAV may be missing

    places = [(args.image, 0.0)] if args.image else []
    places += args.keyframe or []
    aspect = pixels = None
    if places:
        picture = read_picture(places[0][0])  # h w 3
        aspect, pixels = picture.shape[1] / picture.shape[0], picture.shape[0] * picture.shape[1]
    height, width = choose_size(args, pipe, aspect, pixels)
    r, _ = pipe.codec.frame_rule
    num_frames = 1 + r * (pipe.window - 1)
    if args.seconds is not None:
        num_frames = 1 + r * max(1, round(args.seconds * request.frame_rate / r))
        say(snapped(args.seconds, (num_frames - 1) / request.frame_rate))
    keyframes = []
    for path, seconds in places:
        picture, change = fitted_picture(path, height, width)
        say(change)
        keyframes.append(Keyframe(seconds, picture))
    return replace(request, num_frames=num_frames, height=height, width=width, keyframes=tuple(keyframes))


def with_video(args: argparse.Namespace, pipe: VideoPipeline, request: VideoRequest, say: Say) -> VideoRequest:
    """A given video continued, connected, closed, edited or interpolated."""
    from data.video import probe_video
    from data.video_fit import fitted_mask, fitted_video

    rate, mode, info = request.frame_rate, mode_of(args), probe_video(args.video)
    shape = args.uncrop or (info.width, info.height)
    height, width = choose_size(args, pipe, shape[0] / shape[1], info.width * info.height)
    r, _ = pipe.codec.frame_rule
    inside = contained_size(info.height, info.width, height, width) if args.uncrop else (height, width)
    videos = []
    for path in [path for path in (args.video, args.connect, args.interpolate) if path]:
        frames, change = fitted_video(path, *inside, rate)
        say(change)
        if len(frames) < 1 + r and mode != "edit":
            reason = f"{path} has {len(frames)} frames at {rate:g} a second and must have at least {1 + r}"
            raise ValueError(f"{reason}: give a longer one, or a higher --frame-rate")
        videos.append(frames)
    lengths = [len(frames) for frames in videos]
    if mode == "edit":
        (video,), mask = videos, None
        if args.uncrop and inside == (height, width):
            what = f"--uncrop {args.uncrop[0]}:{args.uncrop[1]} in a size of {width}x{height}"
            fix = "give a shape farther from its own, or a --size of that shape"
            raise ValueError(f"{what} leaves nothing to be made around a video of that shape: {fix}")
        if args.uncrop:
            video, mask = uncropped(video, height, width)
        elif args.mask:
            mask = fitted_mask(args.mask, (info.height, info.width), len(video), height, width, rate)
        if mask is not None and not bool(known_tokens(repeat_last(mask, r), r, pipe.grid).any()):
            say(f"no {pipe.grid}x{pipe.grid} pixels are left whole: the model sees nothing of what is kept")
        how: dict[str, Any] = {"video": video, "mask": mask, "strength": 1.0 if args.edit is None else args.edit}
        if args.source_prompt:
            how["source_prompt"] = PromptSchedule.parse(args.source_prompt)
    elif mode == "interpolate":
        shortest = min(lengths) - (min(lengths) - 1) % r
        if shortest < max(lengths):
            say(f"videos of {lengths[0]} and {lengths[1]} frames: the first {shortest} of each are taken")
        how = {
            "video": videos[0][:shortest],
            "second": videos[1][:shortest],
            "fraction": FRACTION if args.fraction is None else args.fraction,
        }
    else:
        seconds = ADDED_SECONDS if args.seconds is None else args.seconds
        how = {"video": videos[0], "second": videos[1] if args.connect else None, "seconds": seconds}
    asked = replace(request, mode=mode, height=height, width=width, **how)
    if asked.seconds:
        say(snapped(asked.seconds, made_frames(asked, r) / rate))
    return asked


def in_few_steps(
    args: argparse.Namespace, folder: Path, pipe: VideoPipeline, request: VideoRequest, say: Say
) -> VideoRequest:
    """By the student that the model's ``folder`` has for so few steps, without guidance, unless an option asks for what
    a student does not do. ValueError where one would be guided that is given as an adapter."""
    if args.lora and args.guidance_scale is None and is_student(args.lora):
        fix = f"add --guidance-scale 1, or copy it into the model's folder as {FOLDER}/"
        raise ValueError(f"--lora {args.lora} is a student for few steps, made to be asked without guidance: {fix}")
    sampling = request.sampling
    guided = args.negative_prompt or sampling.history_guidance != 1 or sampling.guidance_interval != (0.0, 1.0)
    if args.lora or guided or request.mode == "interpolate":
        return request
    scale = use_few_steps(pipe, folder, args.steps, args.guidance_scale, say)
    return replace(request, sampling=replace(sampling, guidance_scale=scale))


def mode_of(args: argparse.Namespace) -> Mode:
    """What becomes of a given video."""
    if args.interpolate:
        return "interpolate"
    if args.edit is not None or args.mask or args.uncrop:
        return "edit"
    return args.extend or ("connect" if args.connect else "loop")


def interpolation(args: argparse.Namespace, pipe: VideoPipeline, request: VideoRequest, say: Say) -> VideoRequest:
    """What is made of the noise between those of two videos; how well each is found again is said."""
    between, round_trips = pipe.interpolation(request)
    for path, psnr in zip((args.video, args.interpolate), round_trips, strict=True):
        say(f"{path.name}: made again from its noise with {psnr:.1f} dB to what the autoencoder makes of it")
    return between


def snapped(asked: float, got: float) -> str:
    """That another time is made than was asked for, or "" if it is not."""
    return f"{asked:g} s is no whole number of latent frames: {got:g} s are made" if abs(asked - got) > 1e-6 else ""
