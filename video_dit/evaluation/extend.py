"""How well a model continues unseen clips of the world, after their end and before their start: the truth is known."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.sheet import GIVEN_COLOUR, MADE_COLOUR, write_rows
from data.transforms import to_float, to_uint8
from data.world import sample_scene
from vae3d.metrics import SEEN, psnr
from video_dit.evaluation.vae import find_device
from video_dit.evaluation.world import UNSEEN
from video_dit.layers import fast_dtype
from video_dit.model_folder import check_model_folder
from video_dit.pipeline import VideoPipeline

DIRECTIONS = ("forward", "backward")
CODEC, STILL = "through codec", "boundary repeated"
SHOWN = 8  # clips in the picture
COLUMNS = 9  # frames of each
STRIP = 4  # pixels


@dataclass(frozen=True)
class ExtendOptions:
    """What is measured, and how the continuations are made.

    Args:
        model: a folder that train.py wrote. clips: how many scenes. known: latent frames that the model is given, None
            for half a window. steps, guidance_scale, context_level: of the sampler. seed: of the first clip's noise;
            those of the next follow. picture: of the first continuations below the truth.
    """

    model: Path
    clips: int
    known: int | None
    steps: int
    guidance_scale: float
    context_level: float
    seed: int
    picture: Path | None


@dataclass(frozen=True)
class Cut:
    """Which of a clip's frames are known and which are new.

    direction: "forward" where the new ones come last, "backward" where they come first. join: the first frame after the
    border of the two. context: latent frames that the model sees of the known ones.
    """

    direction: str
    num_frames: int
    join: int
    context: int

    @property
    def known(self) -> slice:
        """The frames that are given."""
        return slice(0, self.join) if self.direction == "forward" else slice(self.join, self.num_frames)

    @property
    def new(self) -> slice:
        """The frames that are made."""
        return slice(self.join, self.num_frames) if self.direction == "forward" else slice(0, self.join)

    @property
    def num_new(self) -> int:
        """How many are made."""
        return self.new.stop - self.new.start

    @property
    def boundary(self) -> int:
        """The known frame at the join."""
        return self.join - 1 if self.direction == "forward" else self.join


def cut_window(direction: str, window: int, known: int, r: int) -> Cut:
    """A clip of ``window`` latent frames of which the model sees ``known`` and makes the others, all at once.

    Forward, ``1 + r·(known - 1)`` frames are given. Backward it is r more: the latent of the first one stands for it
    alone, as none within a longer clip does, so the pipeline leaves it out.
    """
    join = 1 + r * (known - 1) if direction == "forward" else r * (window - 1 - known)
    return Cut(direction, 1 + r * (window - 1), join, known)


def choose_known(pipe: VideoPipeline, options: ExtendOptions) -> int:
    """Latent frames that the model is given; ValueError where one direction could not do with that many, or would be
    left fewer than 2 frames to make."""
    most = pipe.window - 1 - math.ceil(2 / pipe.codec.frame_rule[0])
    if most < 2:
        raise ValueError(f"{options.model} makes {pipe.window} latent frames at a time: give a model of at least 4")
    known = pipe.window // 2 if options.known is None else options.known
    if not 2 <= known <= most:
        raise ValueError(f"--known {known}: a window has {pipe.window} latent frames: use 2 to {most}")
    return known


@dataclass(frozen=True)
class Figures:
    """How near a continuation comes to the truth.

    psnr: of the new frames, dB; 100 at most. seam: the step across the join over the median of those between known
    frames, over the same of the true clip through the codec; 1 is no seam, and what stands still has none either.
    motion: mean step between new frames over that of the same frames of the truth through the codec; next to 0 stands
    still, and flicker counts as well. colour_shift: of the new frames' mean colour, in [0, 1].
    """

    psnr: float
    seam: float
    motion: float
    colour_shift: float


NAMES = {"psnr": "PSNR, dB", "seam": "seam", "motion": "motion", "colour_shift": "colour shift"}


def measure(clip: Tensor, truth: Tensor, decoded: Tensor, cut: Cut) -> Figures:
    """Figures of a continued clip, the truth, and the truth through the codec, all uint8 ``(t, h, w, 3)``."""
    made, wanted = clip[cut.new], truth[cut.new]
    return Figures(
        psnr=float(psnr(to_float(made)[None], to_float(wanted)[None])),
        seam=seam(clip, cut) / seam(decoded, cut),
        motion=float(steps(made).mean().clamp_min(SEEN) / steps(decoded[cut.new]).mean().clamp_min(SEEN)),
        colour_shift=colour_shift(made, wanted),
    )


def steps(frames: Tensor) -> Tensor:
    """Mean absolute difference of each uint8 frame ``(t, h, w, 3)`` to the next ``(t - 1,)``, for pixels in [-1, 1]."""
    return to_float(frames).diff(dim=1).abs().mean(dim=(0, 2, 3))


def seam(frames: Tensor, cut: Cut) -> float:
    """The step across the join of ``(t, h, w, 3)``, uint8, over the median of the steps between known frames; both
    count as what can be seen at least, so that a still clip has 1."""
    at_join = steps(frames[cut.join - 1 : cut.join + 1]).clamp_min(SEEN)
    between_known = steps(frames[cut.known]).clamp_min(SEEN)
    return float(at_join / between_known.quantile(0.5))


def colour_shift(frames: Tensor, truth: Tensor) -> float:
    """Absolute difference of the mean colours of uint8 clips ``(t, h, w, 3)``, the mean over channels, in [0, 1]."""
    of_frames, of_truth = (clip.float().mean(dim=(0, 1, 2)) / 255 for clip in (frames, truth))  # 3
    return float((of_frames - of_truth).abs().mean())


def joined(truth: Tensor, new: Tensor, cut: Cut) -> Tensor:
    """The true clip ``(t, h, w, 3)`` with other new frames."""
    clip = truth.clone()
    clip[cut.new] = new
    return clip


@torch.no_grad()
def evaluate_extend(options: ExtendOptions, say: Callable[[str], None]) -> dict:
    """Have a model make the rest of clips of which it is given a half, and compare it to the truth.

    No training sees the scenes: they are of split "all", from which only the judge takes any, and of seeds that it does
    not reach. Clips have the size, rate and length that the model was trained on most, one window. Beside what it makes
    stand the most to be hoped for, the truth's new frames through the codec, and a still: the boundary frame
    repeated. All are joined to the known frames as these are, so the seam of the first is what the codec alone gives,
    which loses detail.

    Args:
        options: what to measure.
        say: takes each table, for people to read.
    Returns:
        All figures, as JSON can hold them: ``{"model": …, "settings": {…}, "directions": {direction: {"known frames":
        …, "new frames": …, "known frames changed": clips, "mean", "standard error": {continuation: figures}, "clips":
        [{"seed": …, "prompt": …, continuation: figures}]}}}`` with the continuations "made", "through codec" and
        "boundary repeated", and figures by the names in `Figures`.
    Raises:
        ValueError: the model or an option of the sampler is no good, or the model has too short a window.
    """
    check_model_folder(options.model)
    device = find_device("auto")
    pipe = VideoPipeline.from_pretrained(options.model, dtype=fast_dtype(device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    (height, width), r, known = pipe.sizes[0], pipe.codec.frame_rule[0], choose_known(pipe, options)
    cuts = [cut_window(direction, pipe.window, known, r) for direction in DIRECTIONS]
    measured: dict[str, list[dict[str, Figures]]] = {cut.direction: [] for cut in cuts}
    changed = dict.fromkeys(DIRECTIONS, 0)
    scenes = [sample_scene("all", UNSEEN + number) for number in range(options.clips)]
    rows: list[tuple[str, Tensor]] = []
    for number, scene in enumerate(tqdm(scenes, unit="clip", leave=False, disable=None)):
        truth = scene.render(cuts[0].num_frames, height, width, pipe.frame_rate)
        pixels = to_float(truth)[None].to(device)
        decoded = to_uint8(pipe.codec.decode(pipe.codec.encode(pixels))[0].cpu())
        for cut in cuts:
            clip = extended(pipe, truth, scene.caption(), cut, options, number)
            changed[cut.direction] += not torch.equal(clip[cut.known], truth[cut.known])
            continuations = {
                "made": clip,
                CODEC: joined(truth, decoded[cut.new], cut),
                STILL: joined(truth, truth[cut.boundary], cut),
            }
            figures = {name: measure(one, truth, decoded, cut) for name, one in continuations.items()}
            measured[cut.direction].append(figures)
            if number < SHOWN:
                label = f"{cut.direction}, {figures['made'].psnr:.1f} dB: {scene.caption()}"
                rows.append((label, row(truth, clip, cut)))
    results: dict = {"model": str(options.model), "settings": settings_of(options, pipe, known), "directions": {}}
    for cut in cuts:
        clips = measured[cut.direction]
        means, errors = summary(clips)
        say(table(cut, means, errors, len(clips), changed[cut.direction]))
        results["directions"][cut.direction] = {
            "known frames": cut.num_frames - cut.num_new,
            "new frames": cut.num_new,
            "known frames changed": changed[cut.direction],
            "mean": means,
            "standard error": errors,
            "clips": [
                {"seed": scene.seed, "prompt": scene.caption(), **{name: asdict(one) for name, one in figures.items()}}
                for scene, figures in zip(scenes, clips, strict=True)
            ],
        }
    if options.picture:
        write_rows(options.picture, rows, COLUMNS)
        say(f"wrote {options.picture}: truth above made; the line between is green where frames were given")
    return results


def extended(pipe: VideoPipeline, truth: Tensor, prompt: str, cut: Cut, options: ExtendOptions, number: int) -> Tensor:
    """The known frames of clip ``number`` with those that the model makes, in order of time: uint8 ``(t, h, w, 3)``."""
    r, _ = pipe.codec.frame_rule
    output: Any = pipe.extend(
        truth[cut.known],
        cut.direction,
        seconds=cut.num_new / pipe.frame_rate,
        prompt=prompt,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        generator=torch.Generator().manual_seed(options.seed + number),
        context_seconds=cut.context * r / pipe.frame_rate,
        context_level=options.context_level,
    )
    clip = torch.as_tensor(output.frames[0]).mul(255).round().to(torch.uint8)
    assert clip.shape == truth.shape
    return clip


def row(truth: Tensor, clip: Tensor, cut: Cut) -> Tensor:
    """Frames of the truth above those of the clip, and a line between them that says which were given and which made:
    uint8 ``(t, 2·h + STRIP, w, 3)``."""
    line = torch.empty_like(truth[:, :STRIP])
    line[cut.known] = torch.tensor(GIVEN_COLOUR, dtype=torch.uint8)
    line[cut.new] = torch.tensor(MADE_COLOUR, dtype=torch.uint8)
    return torch.cat([truth, line, clip], dim=1)


Summary = dict[str, dict[str, float]]
"""By continuation and by figure."""


def summary(clips: list[dict[str, Figures]]) -> tuple[Summary, Summary]:
    """The mean of each figure of each continuation over two clips or more, and its standard error."""
    means: Summary = {}
    errors: Summary = {}
    for name in clips[0]:
        columns = {field.name: [getattr(one[name], field.name) for one in clips] for field in fields(Figures)}
        means[name] = {figure: mean(values) for figure, values in columns.items()}
        errors[name] = {figure: stdev(values) / math.sqrt(len(values)) for figure, values in columns.items()}
    return means, errors


def settings_of(options: ExtendOptions, pipe: VideoPipeline, known: int) -> dict[str, float | str]:
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
        "context_level": options.context_level,
        "seed": options.seed,
    }


def table(cut: Cut, means: Summary, errors: Summary, count: int, changed: int) -> str:
    """One line a figure: its mean and standard error for each continuation."""
    lines = [
        f"\n{cut.direction}: {cut.num_frames - cut.num_new} frames known, {cut.num_new} new; "
        f"mean of {count} clips ± its standard error",
        " " * 14 + "".join(f"{name:>22}" for name in means),
    ]
    for figure, label in NAMES.items():
        digits = {"psnr": 2, "colour_shift": 4}.get(figure, 3)
        cells = [f"{means[name][figure]:.{digits}f} ± {errors[name][figure]:.{digits}f}" for name in means]
        lines.append(f"{label:14}" + "".join(f"{cell:>22}" for cell in cells))
    lines.append(f"clips whose known frames changed: {changed}")
    return "\n".join(lines)
