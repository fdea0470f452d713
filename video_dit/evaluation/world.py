"""How much of what their prompts say a model's samples show, as the judge of the world reads them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from tqdm import tqdm

from data.sheet import write_rows
from data.transforms import to_float, to_uint8
from data.world import is_held_out, sample_scene
from data.world.judge import FRAME_RATE, WINDOW, Judge
from data.world.prompt import Prompt, read_prompt
from data.world.reading import MOST_FOUND, Reading, read_clips
from data.world.scene import Scene
from data.world.score import (
    ATTRIBUTES,
    Share,
    against_others,
    agreement,
    asked_of,
    flicker,
    frechet_distance,
    judge_agreements,
    kept_identity,
    shares,
)
from vae3d import LatentCodec
from video_dit.few_steps import use_few_steps
from video_dit.layers import fast_dtype
from video_dit.loading import load_model
from video_dit.pipeline import VideoPipeline
from video_dit.prompt_expansion import told_prompts
from video_dit.schedulers import named_scheduler

HELD_OUT = "held-out triples"
UNSEEN = 20_000_000  # seeds from here on: scenes that the judge never saw


@dataclass(frozen=True)
class WorldOptions:
    """What is measured, and how the samples are made.

    Args:
        model, judge: folders. picture: the .png of the best and the worst samples.
        prompts: captions of unseen scenes, half of them held out; or those of ``prompt_file``, one a line.
        style: of the captions. size: (height, width) in pixels, None for the model's usual one. seconds: of each clip.
        expand_prompt: what tells prompts in full for the model, as in tools/generate.py, or None; what they say
        themselves is what counts.
        scheduler: a name of `data.options.SCHEDULER_NAMES`, or None for the model's own. steps, guidance_scale: of the
        sampler. seed: of the first sample. batch: samples made at a time.
    """

    model: Path
    judge: Path
    picture: Path
    prompts: int
    prompt_file: Path | None
    style: str
    expand_prompt: str | None
    size: tuple[int, int] | None
    seconds: float
    scheduler: str | None
    steps: int
    guidance_scale: float | None
    seed: int
    batch: int


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one kind, and the scenes they describe where those are known."""

    label: str
    texts: list[str]
    scenes: list[Scene]
    first_seed: int = 0
    """Of its samples; those of the next texts follow."""


def prompt_sets(options: WorldOptions) -> list[PromptSet]:
    """The prompts of a file, one a line; or captions of unseen scenes, half of them with held-out triples."""
    if options.prompt_file:
        try:
            lines = options.prompt_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--prompt-file {options.prompt_file} cannot be read: {error}") from None
        texts = [line.strip() for line in lines if line.strip()]
        if len(texts) < 2:
            raise ValueError(
                f"--prompt-file {options.prompt_file} has {len(texts)} prompts: write at least 2, one a line"
            )
        return [PromptSet(options.prompt_file.name, texts, [])]
    if options.prompts < 4:
        raise ValueError(f"--prompts {options.prompts}: half of them are held out and each half takes 2: use 4 or more")
    sets: list[PromptSet] = []
    for label, split, count in (
        ("seen triples", "val", (options.prompts + 1) // 2),
        (HELD_OUT, "test", options.prompts // 2),
    ):
        scenes = [sample_scene(split, seed) for seed in range(count)]
        first = sum(len(part.texts) for part in sets)
        sets.append(PromptSet(label, [scene.caption(options.style) for scene in scenes], scenes, first))
    return sets


def read_prompts(texts: list[str]) -> list[Prompt]:
    """What each prompt states; ValueError for one of which the judge could not tell all objects apart."""
    prompts = [read_prompt(text) for text in texts]
    for text, prompt in zip(texts, prompts, strict=True):
        if len(prompt.objects) > MOST_FOUND:
            raise ValueError(f"prompt={text!r} names {len(prompt.objects)} objects: name at most {MOST_FOUND}")
    return prompts


@dataclass(frozen=True)
class ClipFormat:
    """What all clips of an evaluation have in common."""

    num_frames: int
    height: int
    width: int

    def render(self, scenes: list[Scene]) -> Tensor:
        """True clips: uint8 (n, t, h, w, 3)."""
        clips = [
            scene.render(self.num_frames, self.height, self.width, FRAME_RATE) for scene in tqdm(scenes, leave=False)
        ]
        return torch.stack(clips)


def told_in_full(
    sets: Sequence[PromptSet], options: WorldOptions, device: torch.device, say: Callable[[str], None]
) -> list[PromptSet]:
    """With what the model is given for each prompt; what there is to know of that is said."""
    if not options.expand_prompt:
        return list(sets)
    asked = [(text, options.seed + part.first_seed + number) for part in sets for number, text in enumerate(part.texts)]
    told = told_prompts(asked, options.expand_prompt, options.model, device, ())
    for note in dict.fromkeys(note for _, notes in told for note in notes):
        say(note)
    texts = iter([text for text, _ in told])
    return [replace(part, texts=list(islice(texts, len(part.texts)))) for part in sets]


def make_samples(pipe: VideoPipeline, part: PromptSet, clip_format: ClipFormat, options: WorldOptions) -> Tensor:
    """A clip for each prompt, from a seed of its own: uint8 (n, t, h, w, 3)."""
    made = []
    for first in range(0, len(part.texts), options.batch):
        texts = part.texts[first : first + options.batch]
        pipe.set_progress_bar_config(desc=f"{part.label} {first + len(texts)}/{len(part.texts)}", leave=False)
        generators = [
            torch.Generator().manual_seed(options.seed + part.first_seed + first + i) for i in range(len(texts))
        ]
        frames = pipe(
            texts,
            num_frames=clip_format.num_frames,
            height=clip_format.height,
            width=clip_format.width,
            frame_rate=FRAME_RATE,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            generator=generators,
        ).frames
        made.append(torch.as_tensor(frames).mul(255).round().to(torch.uint8))
    return torch.cat(made)


def through_codec(codec: LatentCodec, clips: Tensor) -> Tensor:
    """Clips (n, t, h, w, 3) as they come out of the autoencoder, uint8."""
    decoded = []
    for clip in tqdm(clips, leave=False):
        pixels = to_float(clip)[None].to(codec.vae.device)
        decoded.append(to_uint8(codec.decode(codec.encode(pixels))[0].cpu()))
    return torch.stack(decoded)


def read_all(judge: Judge, clips: Tensor) -> list[Reading]:
    """What the judge reads off clips (n, t, h, w, 3)."""
    return [reading for part in clips.split(16) for reading in read_clips(judge, part)]


def measures_of(readings: list[Reading], clips: Tensor, reference: list[Reading]) -> dict[str, float]:
    """What is measured of clips beside their words; how far they are off is told from readings of other true clips."""
    found = {"flicker": mean(flicker(clip) for clip in clips)}
    if (kept := kept_identity(readings)).asked:
        found["identity kept"] = kept.value
    features = [torch.stack([reading.features for reading in part]) for part in (readings, reference)]
    found["Fréchet distance"] = frechet_distance(*features)
    return found


def held_out_objects(part: PromptSet, prompts: list[Prompt]) -> list[list[bool]] | list[None]:
    """Which objects of each prompt are of a held-out triple, in the set that is about those; else None, for all."""
    if part.label != HELD_OUT:
        return [None] * len(prompts)
    about = []
    for scene, prompt in zip(part.scenes, prompts, strict=True):
        held = {(o.shape, o.colour) for o in scene.objects if is_held_out(o.shape, o.colour, o.motion)}
        about.append([(said.shape, said.colour) in held for said in prompt.objects])
    return about


def evaluate_world(options: WorldOptions, say: Callable[[str], None]) -> dict:
    """How much of what prompts state the judge finds in samples, and how far to trust it.

    Beside the samples stand true clips of the same scenes through the codec ("oracle": the most there can be), the
    samples against one another's prompts (what chance gives), and how often the judge is right about everything there
    is to say of unseen clips. In the table of held-out triples, only objects of such a triple are counted. Of clips
    shorter than 4 s only what `asked_of` leaves is asked about.

    Args:
        options: what to measure.
        say: takes each table as soon as it is there, for people to read.
    Returns:
        All figures, as JSON can hold them.

    Raises:
        ValueError: the model, the judge, the prompts or the size are no good.
    """
    sets = prompt_sets(options)
    said = [read_prompts(part.texts) for part in sets]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told_sets = told_in_full(sets, options, device, say)
    judge = Judge.load(options.judge).to(device)
    pipe = load_model(options.model, fast_dtype(device)).to(device)
    if options.scheduler:
        pipe.scheduler = named_scheduler(options.scheduler, pipe.scheduler)
    scale = use_few_steps(pipe, options.model, options.steps, options.guidance_scale, say)
    options = replace(options, guidance_scale=scale)
    height, width = options.size or pipe.sizes[0]
    pipe.check_size(height, width)
    r, _ = pipe.codec.frame_rule
    clip_format = ClipFormat(1 + r * round(options.seconds * FRAME_RATE / r), height, width)
    prompts = [[asked_of(prompt, clip_format.num_frames) for prompt in part] for part in said]
    if clip_format.num_frames < WINDOW:
        say(f"{clip_format.num_frames} frames do not tell motions, directions, sizes and the camera: not asked about")

    scenes = [sample_scene("all", UNSEEN + seed) for seed in range(options.prompts)]
    renders = clip_format.render(scenes)
    reference = read_all(judge, renders)
    own, off = {}, {}
    for name, read in (("judge, codec", read_all(judge, through_codec(pipe.codec, renders))), ("judge", reference)):
        told, errors = judge_agreements(read, scenes, clip_format.num_frames, FRAME_RATE, width / height)
        own[name], off[name] = shares(told), mean(errors) if errors else math.nan

    results: dict = {"model": str(options.model), "settings": settings_of(options, clip_format), "sets": {}}
    results["centre error"] = {name: None if math.isnan(error) else error for name, error in off.items()}
    examples: list[tuple[float, str, Tensor]] = []
    for part, told_part, stated, wanted in zip(sets, told_sets, said, prompts, strict=True):
        samples = make_samples(pipe, told_part, clip_format, options)
        readings, about = read_all(judge, samples), held_out_objects(part, wanted)
        told = [agreement(r, p, about=a) for r, p, a in zip(readings, wanted, about, strict=True)]
        columns = {"samples": shares(told), "wrong prompt": shares(against_others(readings, wanted, about))}
        others = reference[: len(readings)]
        measures = {"samples": measures_of(readings, samples, others)}
        if part.scenes:
            true = clip_format.render(part.scenes)
            through = through_codec(pipe.codec, true)
            oracle = read_all(judge, through)
            pairs = zip(oracle, wanted, about, strict=True)
            columns["oracle"] = shares([agreement(r, p, about=a) for r, p, a in pairs])
            measures["oracle"] = measures_of(oracle, through, others)
            measures["true clips"] = measures_of(read_all(judge, true), true, others)
        say(table(f"{len(wanted)} prompts, {part.label}", columns | own, measures))
        missed = [[name for name, holds in one.items() if name != "all" and not all(holds)] for one in told]
        results["sets"][part.label] = {
            "shares": {
                name: {key: share_as_json(share) for key, share in column.items()}
                for name, column in (columns | own).items()
            },
            "measures": measures,
            "prompts": [
                {"text": text, "read as": asdict(prompt), "wrong": names, "all right": one["all"][0]}
                for text, prompt, names, one in zip(part.texts, stated, missed, told, strict=True)
            ],
        }
        for text, one, names, clip in zip(part.texts, told, missed, samples, strict=True):
            right = [held for holds in one.values() for held in holds]
            label = f"{mean(right):.0%} right{', wrong: ' if names else ''}{', '.join(names)} | {text}"
            examples.append((mean(right), label, clip))
    for name, error in off.items():
        say(f"{name}: centres are off by {error:.2%} of the width")
    write_examples(options.picture, examples)
    say(f"wrote {options.picture}: the best and the worst ten")
    return results


def share_as_json(share: Share) -> dict[str, float | None]:
    """With its 95 % interval; None where nothing was asked."""
    low, high = share.interval
    figures = {"right": share.right, "asked": share.asked, "share": share.value, "low": low, "high": high}
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def settings_of(options: WorldOptions, clip_format: ClipFormat) -> dict[str, float | str | None]:
    """What the figures depend on besides model and prompts."""
    return {
        "size": f"{clip_format.width}x{clip_format.height}",
        "frames": clip_format.num_frames,
        "scheduler": options.scheduler,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seed": options.seed,
        "style": options.style,
        "expand_prompt": options.expand_prompt,
    }


def table(title: str, columns: dict[str, dict[str, Share]], measures: dict[str, dict[str, float]]) -> str:
    """One line an attribute: the share that is right in each column, in percent, with its 95 % interval."""
    lines = [f"\n{title}: percent right (95 % interval)", " " * 18 + "".join(f"{name:>20}" for name in columns)]
    for name in (*ATTRIBUTES, "all"):
        cells = []
        for share in (column[name] for column in columns.values()):
            low, high = share.interval
            cells.append(f"{share.value:.1%} ({low:.0%}-{high:.0%})".replace("%", "") if share.asked else "")
        lines.append(f"{name:18}" + "".join(f"{cell:>20}" for cell in cells))
    for name in dict.fromkeys(name for values in measures.values() for name in values):
        told = ", ".join(f"{of} {values[name]:.4g}" for of, values in measures.items() if name in values)
        lines.append(f"{name}: {told}")
    return "\n".join(lines)


def write_examples(path: Path, examples: list[tuple[float, str, Tensor]]) -> None:
    """A picture of the ten clips of which most is right, and the ten of which least is."""
    ranked = [(label, clip) for _, label, clip in sorted(examples, key=lambda example: -example[0])]
    write_rows(path, ranked if len(ranked) <= 20 else ranked[:10] + ranked[-10:])
