"""How well a model continues unseen clips: after their end, before their start, from one to another, and around."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.sheet import GIVEN_COLOUR, MADE_COLOUR, write_rows
from data.transforms import to_float, to_uint8
from data.world.judge import FRAME_RATE, Judge
from video_dit.evaluation.continuations import METHODS, Setting
from video_dit.evaluation.cuts import DIRECTIONS, Cut, Given, assembled, boundary_repeated, cut_clip, given_of
from video_dit.evaluation.extend_report import (
    CODEC,
    Measured,
    Plan,
    extend_requirements,
    plan_as_json,
    summary,
    sweep_table,
    table,
)
from video_dit.evaluation.judged import judge_clips
from video_dit.evaluation.measures import UNJUDGED, Figures, expected_of_given, expected_of_truth, measure
from video_dit.evaluation.unseen import UnseenClip, real_clips, world_clips
from video_dit.few_steps import use_few_steps
from video_dit.layers import fast_dtype, find_device
from video_dit.loading import load_model
from video_dit.pipeline import VideoPipeline
from video_dit.sampling import SamplingConfig

STILL = "boundary repeated"
SHOWN = 8  # clips in the picture
COLUMNS = 9  # frames of each
STRIP = 4  # pixels


@dataclass(frozen=True)
class ExtendOptions:
    """What is measured, and how the continuations are made.

    Args:
        model, judge: folders. clips: how many, of the world, or at most so many of ``split`` of a ``manifest``.
        directions: of `DIRECTIONS`. windows: how many training windows whole clips are long, given frames included.
        methods: of `METHODS`. known: latent frames that are given, None for half a window, or the longest context.
        steps, guidance_scale: of the sampler. context_level: one or more. context_seconds: of the video that each
        window sees, one or more; none for all that is given.
        seed: of the first clip's noise; those of the next follow. picture: of the first continuations below the truth.
    """

    model: Path
    clips: int
    known: int | None
    steps: int
    guidance_scale: float | None
    context_level: Sequence[float]
    seed: int
    picture: Path | None
    judge: Path
    context_seconds: Sequence[float] = ()
    directions: Sequence[str] = DIRECTIONS
    windows: Sequence[int] = (1,)
    methods: Sequence[str] = tuple(METHODS)
    manifest: Path | None = None
    split: str = "test"


def choose_known(pipe: VideoPipeline, options: ExtendOptions, contexts: Sequence[int]) -> int:
    """Latent frames that are given; ValueError where one direction could not do with that many, or would be left fewer
    than 2 frames to make."""
    most = pipe.window - 1 - math.ceil(2 / pipe.codec.frame_rule[0])
    if most < 2:
        raise ValueError(f"{options.model} makes {pipe.window} latent frames at a time: give a model of at least 4")
    longest = max(2, *contexts) if contexts else pipe.window // 2
    known = longest if options.known is None else options.known
    if not 2 <= known <= most:
        raise ValueError(f"--known {known}: a window has {pipe.window} latent frames: use 2 to {most}")
    return known


def plans_of(pipe: VideoPipeline, options: ExtendOptions, known: int, contexts: Sequence[int]) -> list[Plan]:
    """All that is measured, the first direction and length first. A key says what is not the default, or is one of
    several."""
    r, _ = pipe.codec.frame_rule
    plans = []
    for direction in options.directions:
        for windows in options.windows:
            cut = cut_clip(direction, windows * pipe.window, known, r)
            name = direction + ("" if windows == 1 else f", {windows} windows")
            for level in options.context_level:
                for context in contexts or [known]:
                    key = name + (f", level {level:g}" if len(options.context_level) > 1 else "")
                    key += f", context {context}" if len(contexts) > 1 else ""
                    plans.append(Plan(cut, windows, level, context, key))
    return plans


@torch.no_grad()
def evaluate_extend(options: ExtendOptions, say: Callable[[str], None]) -> dict:
    """Have a model make the rest of clips of which it is given a part, and compare it to the truth.

    Clips of the world have the size and rate that the model was trained on most. Beside what is made stand the most to
    be hoped for, the truth's new frames through the codec, and a still: the boundary frame repeated. All are joined to
    the given frames as they are, so the seam of the first is what the codec alone gives, which loses detail.

    What a scene's caption says holds for 10 s. In longer clips what moved has come to rest, and what is given at their
    end tells little of their start: read figures to the truth of those beside each other, and not by themselves.

    Args:
        options: what to measure.
        say: takes each table, for people to read.
    Returns:
        All figures, as JSON can hold them: ``{"model": …, "settings": {…}, "directions": {key: {"known frames": …, "new
        frames": …, "known frames changed": clips, "mean", "standard error": {continuation: figures}, "clips": [{"seed":
        …, "prompt": …, continuation: figures}], …}}, "requirements": […]}``. A key is a direction, with the length and
        the context where they are not the default. Continuations are the methods, "through codec" and "boundary
        repeated"; figures go by the names in `Figures`, None where they could not be told.
    Raises:
        ValueError: the model, the judge, the manifest or an option is no good, or the model has too short a window.
    """
    device = find_device("auto")
    pipe = load_model(options.model, fast_dtype(device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    scale = use_few_steps(pipe, options.model, options.steps, options.guidance_scale, say)
    options = replace(options, guidance_scale=scale)
    contexts = [pipe.context_frames(seconds, pipe.frame_rate) for seconds in options.context_seconds]
    known = choose_known(pipe, options, contexts)
    samplings = {x: SamplingConfig(options.steps, options.guidance_scale, x) for x in options.context_level}
    plans = plans_of(pipe, options, known, contexts)
    judge = None
    if options.manifest is None and pipe.frame_rate == FRAME_RATE:
        judge = Judge.load(options.judge).to(device)

    measured: dict[str, list[Measured]] = {plan.key: [] for plan in plans}
    changed = dict.fromkeys(measured, 0)
    rows: list[tuple[str, Tensor]] = []
    longest, least = (max(of) for of in zip(*((p.cut.num_frames, p.cut.num_given) for p in plans), strict=True))
    longest += -(longest - 1) % pipe.codec.frame_rule[0]  # 1 + r·k
    clips = (
        real_clips(pipe, options.manifest, options.split, options.clips, longest, least, say)
        if options.manifest
        else world_clips(pipe, options.clips, longest)
    )
    for number, clip in enumerate(tqdm(clips, total=options.clips, unit="clip", leave=False, disable=None)):
        pixels = to_float(clip.frames)[None].to(device)
        decoded = to_uint8(pipe.codec.decode(pipe.codec.encode(pixels))[0].cpu())
        for plan in tqdm(plans, leave=False, disable=None):
            setting = Setting(samplings[plan.level], plan.context, options.seed + number)
            made = {name: METHODS[name](pipe, given_of(clip.frames, plan.cut), plan.cut, clip.prompt, setting)
                    for name in options.methods}  # fmt: skip
            figures = figures_of(made, clip, decoded, plan.cut, judge, pipe.frame_rate)
            measured[plan.key].append(Measured(clip.name, clip.prompt, figures))
            first = next(iter(made))
            changed[plan.key] += not untouched(made[first], clip.frames, plan.cut)
            if options.picture and number < SHOWN:
                reached = "" if figures[first].psnr is None else f", {figures[first].psnr:.1f} dB"
                truth = clip.frames if plan.cut.has_truth else None
                rows.append((f"{plan.key}{reached}: {clip.prompt}", row(truth, made[first], plan.cut)))

    summaries = {key: summary([one.figures for one in clips]) for key, clips in measured.items()}
    means, errors = ({key: one[i] for key, one in summaries.items()} for i in (0, 1))
    requirements = []
    for plan in plans:
        say(table(plan, means[plan.key], errors[plan.key], len(measured[plan.key]), changed[plan.key]))
        if "ours" in options.methods:
            asked = extend_requirements(plan, means[plan.key], pipe.frame_rate)
            requirements += [{"text": one.text, "value": one.value, "met": one.met} for one in asked]
            say("\n".join(one.line() for one in asked))
    if len(options.context_level) * max(1, len(contexts)) > 1:
        for name in options.methods:
            say(sweep_table(plans, means, errors, name))
    if options.picture:
        write_rows(options.picture, rows, COLUMNS)
        say(f"wrote {options.picture}: truth above made; the line between is green where frames were given")
    return {
        "model": str(options.model),
        "settings": settings_of(options, pipe, known),
        "directions": {
            p.key: plan_as_json(p, means[p.key], errors[p.key], measured[p.key], changed[p.key]) for p in plans
        },
        "requirements": requirements,
    }


def figures_of(
    made: dict[str, Tensor], clip: UnseenClip, decoded: Tensor, cut: Cut, judge: Judge | None, frame_rate: float
) -> dict[str, Figures]:
    """Figures of whole continued clips by method, and of those that they are read beside.

    Args:
        decoded: all frames of the clip through the codec.
    """
    frames, given = clip.frames, given_of(clip.frames, cut)
    reaches = len(frames) >= cut.num_frames
    truth = frames[: cut.num_frames] if reaches and cut.has_truth else None
    whole = dict(made)
    if truth is not None:
        whole[CODEC] = assembled(given, decoded[cut.made], cut)
    whole[STILL] = boundary_repeated(given, cut)
    if reaches:
        expected = expected_of_truth(frames[: cut.num_frames], decoded[: cut.num_frames], cut, frame_rate)
    else:
        expected = expected_of_given(frames, decoded, frame_rate)
    judged = [UNJUDGED] * len(whole)
    if judge is not None and clip.scene is not None:
        judged = judge_clips(judge, torch.stack(list(whole.values())), clip.scene, cut, frame_rate)
    return {
        name: measure(one, truth, expected, cut, frame_rate, seen)
        for (name, one), seen in zip(whole.items(), judged, strict=True)
    }


def untouched(clip: Tensor, frames: Tensor, cut: Cut) -> bool:
    """Whether what was given of ``frames`` is in the whole clip as it was, bit for bit."""
    given: Given = given_of(frames, cut)
    return torch.equal(clip, assembled(given, clip[cut.made], cut))


def row(truth: Tensor | None, clip: Tensor, cut: Cut) -> Tensor:
    """Frames of the truth, where it is known and reaches, above those of the clip, and a line between them that says
    which were given and which made: uint8 ``(t, 2·h + STRIP, w, 3)``, black where there is no truth."""
    above = torch.zeros_like(clip)
    if truth is not None and len(truth) >= len(clip):
        above = truth[: len(clip)]
    line = torch.empty_like(clip[:, :STRIP])
    line[:] = torch.tensor(GIVEN_COLOUR, dtype=torch.uint8)
    line[cut.made] = torch.tensor(MADE_COLOUR, dtype=torch.uint8)
    return torch.cat([above, line, clip], dim=1)


def settings_of(options: ExtendOptions, pipe: VideoPipeline, known: int) -> dict[str, Any]:
    """What the figures depend on besides the model."""
    height, width = pipe.sizes[0]
    return {
        "size": f"{width}x{height}",
        "frame_rate": pipe.frame_rate,
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "known": known,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seed": options.seed,
        "clips": f"{options.split} of {options.manifest}" if options.manifest else "unseen scenes of the world",
    }
