"""Whether an edit changes what it should and leaves the rest, as the judge of the world sees it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.sheet import write_rows
from data.world import sample_scene
from data.world.judge import FRAME_RATE, Judge
from data.world.labels import parted_motion
from data.world.motion import SceneObject
from data.world.reading import ObjectReading, read_clips
from data.world.scene import Scene
from data.world.score import Share, true_owners
from data.world.words import family_of
from video_dit.evaluation.requirements import Requirement
from video_dit.evaluation.world import UNSEEN, share_as_json, through_codec
from video_dit.few_steps import use_few_steps
from video_dit.layers import fast_dtype, find_device
from video_dit.loading import load_model

FROM, TO = "red", "green"
KINDS = ("sdedit", "flowedit", "inpaint")
STRENGTHS = {"sdedit": 0.6, "flowedit": 0.8}  # of the recolouring, by default
WANTED = {"colour changed": 0.8, "motion stayed": 0.8, "same object": 0.9}  # shares that are asked for
SHOWN = 8  # clips in the picture


@dataclass(frozen=True)
class EditOptions:
    """What is measured, and how edits are made.

    model, judge: folders. clips: of each kind of edit. kinds: of `KINDS`: recoloured by the new prompt alone, or by how
    it differs from the clip's own; half an object painted anew. strength: of the recolouring; None is `STRENGTHS`.
    steps, guidance_scale: of the sampler. seed: of the first edit. picture: a .png of the first clips and their edits,
    or None.
    """

    model: Path
    judge: Path
    clips: int
    kinds: Sequence[str]
    strength: float | None
    steps: int
    guidance_scale: float | None
    seed: int
    picture: Path | None


@dataclass(frozen=True)
class Subject:
    """A scene, and the number of the object in it that an edit is about."""

    scene: Scene
    index: int

    @property
    def object(self) -> SceneObject:
        """What the edit is about."""
        return self.scene.objects[self.index]


def subjects() -> Iterator[Subject]:
    """Unseen scenes with one red object and no green one."""
    for seed in count(UNSEEN):
        scene = sample_scene("all", seed)
        colours = [obj.colour for obj in scene.objects]
        if colours.count(FROM) == 1 and TO not in colours:
            yield Subject(scene, colours.index(FROM))


def recoloured(subject: Subject) -> Scene:
    """The scene with the red object green."""
    objects = list(subject.scene.objects)
    objects[subject.index] = replace(subject.object, colour=TO)
    return replace(subject.scene, objects=tuple(objects))


def border_mask(subject: Subject, num_frames: int, height: int, width: int) -> Tensor:
    """A mask ``(h, w)``, true right of a border through the middle of where the object is."""
    truth = subject.scene.truth(num_frames, FRAME_RATE).at_aspect(width / height)
    column = float(truth.objects[subject.index].centres[:, 0].median()) * width
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, min(width - 1, max(1, round(column))) :] = True
    return mask


def seen_of(judge: Judge, clip: Tensor, subject: Subject) -> ObjectReading | None:
    """What the judge sees of the object in a clip ``(t, h, w, 3)``; None if there is nothing where it begins."""
    _, height, width, _ = clip.shape
    reading = read_clips(judge, clip[None])[0]
    truth = subject.scene.truth(len(clip), FRAME_RATE).at_aspect(width / height)
    owner = true_owners(reading, truth)[subject.index]
    return None if owner is None else reading.objects[owner]


def has_colour(seen: ObjectReading | None, colour: str) -> bool:
    """Whether the object is there, and of this colour."""
    return seen is not None and seen.words["colour"] == colour


def moves_as(seen: ObjectReading | None, subject: Subject) -> bool:
    """Whether it moves as in its scene; the way it turns is not asked about."""
    return seen is not None and parted_motion(seen.words["motion"])[0] == family_of(subject.object.motion)


def is_same(seen: ObjectReading | None, subject: Subject) -> bool:
    """Whether it is of the shape and colour that it has in its scene."""
    its = subject.object
    return seen is not None and (seen.words["shape"], seen.words["colour"]) == (its.shape, its.colour)


def evaluate_edits(options: EditOptions, say: Callable[[str], None]) -> dict:
    """Red objects made green, in two ways, and half of each object painted anew behind a border through it.

    Beside the edits stand the clips that would be perfect, through the codec: what the judge makes of these is the most
    there can be.

    Args:
        options: what to measure.
        say: takes each table as soon as it is there, for people to read.
    Returns:
        All figures, as JSON can hold them.

    Raises:
        ValueError: the model or the judge are no good.
    """
    device = find_device("auto")
    judge = Judge.load(options.judge).to(device)
    pipe = load_model(options.model, fast_dtype(device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    scale = use_few_steps(pipe, options.model, options.steps, options.guidance_scale, say)
    options = replace(options, guidance_scale=scale)
    height, width = pipe.sizes[0]
    num_frames = 1 + pipe.codec.frame_rule[0] * (pipe.window - 1)
    strengths = {kind: STRENGTHS[kind] if options.strength is None else options.strength for kind in STRENGTHS}
    told: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    rows: list[tuple[str, Tensor]] = []
    chosen = list(islice(subjects(), options.clips))
    for number, subject in enumerate(tqdm(chosen, leave=False)):
        given, green = (
            scene.render(num_frames, height, width, FRAME_RATE) for scene in (subject.scene, recoloured(subject))
        )
        ideal, kept = through_codec(pipe.codec, torch.stack([green, given]))
        how: dict[str, Any] = {
            "frame_rate": FRAME_RATE,
            "num_inference_steps": options.steps,
            "guidance_scale": options.guidance_scale,
        }
        prompt, own = recoloured(subject).caption(), subject.scene.caption()
        edits = []
        for kind in options.kinds:
            how["generator"] = torch.Generator().manual_seed(options.seed + number)
            if kind == "inpaint":
                mask = border_mask(subject, num_frames, height, width)
                edits.append(as_clip(pipe.inpaint(given, mask, prompt=own, **how)))
                assert torch.equal(edits[-1][:, ~mask], given[:, ~mask])
                seen = [seen_of(judge, clip, subject) for clip in (edits[-1], kept)]
                told["inpaint: same object"].append((is_same(seen[0], subject), is_same(seen[1], subject)))
                continue
            source = own if kind == "flowedit" else None
            edits.append(as_clip(pipe.edit(given, strengths[kind], prompt=prompt, source_prompt=source, **how)))
            seen = [seen_of(judge, clip, subject) for clip in (edits[-1], ideal)]
            told[f"{kind}: colour changed"].append((has_colour(seen[0], TO), has_colour(seen[1], TO)))
            told[f"{kind}: motion stayed"].append((moves_as(seen[0], subject), moves_as(seen[1], subject)))
        if number < SHOWN:
            rows.append((f"{prompt} | {', '.join(options.kinds)}", stacked(given, *edits)))
    shares = {name: [Share(sum(one), len(one)) for one in zip(*pairs, strict=True)] for name, pairs in told.items()}
    say(table(shares, options.clips))
    say("\n".join(required(name, of[0]).line() for name, of in shares.items()))
    if options.picture:
        write_rows(options.picture, rows)
        say(f"wrote {options.picture}: given, and {', '.join(options.kinds)}")
    return {
        "model": str(options.model),
        "settings": {name: str(value) for name, value in vars(options).items()} | {"strength": strengths},
        "shares": {
            name: {"edits": share_as_json(of[0]), "oracle": share_as_json(of[1])} for name, of in shares.items()
        },
    }


def required(name: str, share: Share) -> Requirement:
    """What is asked of a kind of edit: "kind: what of it"."""
    least = WANTED[name.partition(": ")[2]]
    return Requirement(f"{name} in at least {least:.0%}", share.value, share.value >= least)


def as_clip(output: Any) -> Tensor:
    """The first video of a pipeline's output as uint8 ``(t, h, w, 3)``."""
    return torch.as_tensor(output.frames[0]).mul(255).round().to(torch.uint8)


def stacked(*clips: Tensor) -> Tensor:
    """Clips of one size, one above the other."""
    return torch.cat(clips, dim=1)


def table(shares: dict[str, list[Share]], clips: int) -> str:
    """A line each, in percent with 95 % intervals."""
    lines = [f"\n{clips} clips, {FROM} to {TO}, or half an object painted anew: percent (95 % interval)"]
    lines.append(f"{'':26}{'edits':>20}{'perfect, codec':>20}")
    for name, columns in shares.items():
        cells = "".join(
            f"{one.value * 100:>8.1f} ({one.interval[0] * 100:.0f}-{one.interval[1] * 100:.0f})".rjust(20)
            for one in columns
        )
        lines.append(f"{name:26}{cells}")
    return "\n".join(lines)
