"""Measure a model: how well its autoencoder reconstructs, and how much of their prompts its samples show.

python tools/evaluate.py vae --manifest clips.csv
python tools/evaluate.py world --prompts 256
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from data.options import at_least, positive, size

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from data.world.judge import Judge
    from data.world.prompt import Prompt
    from data.world.reading import Reading
    from data.world.scene import Scene
    from data.world.score import Share
    from vae3d import LatentCodec
    from video_dit import VideoPipeline

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "sora-tiny"
HELD_OUT = "held-out triples"
UNSEEN = 20_000_000  # seeds from here on: scenes that the judge never saw


def evaluate_vae(args: argparse.Namespace) -> dict:
    """PSNR of clips through the codec: unseen renders of the world, and the manifest's rows of split ``test``."""
    import torch

    from data.manifest import read_manifest
    from data.transforms import fit, nearest_size, to_float
    from data.video import VideoError, read_video
    from data.world import sample_scene
    from vae3d import LatentCodec
    from vae3d.losses import psnr

    codec = LatentCodec.from_pretrained(args.model, dtype=torch.float32)
    size = args.short_side
    scores: dict[str, dict[str, float]] = {"world": {}, "real": {}}

    def score(frames: "Tensor") -> float:
        pixels = to_float(frames)[None]
        return float(psnr(codec.decode(codec.encode(pixels)), pixels)[0])

    for seed in range(args.clips):
        scores["world"][f"world/{seed}"] = score(sample_scene("test", seed).render(args.frames, size, size, 8.0))
    for record in read_manifest(args.manifest, split="test") if args.manifest else []:
        try:
            frames = read_video(record.path, seconds=args.frames / 8, frame_rate=8.0).frames
        except VideoError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if len(frames) < args.frames:
            print(f"left out: {record.path}: shorter than {args.frames} frames at 8 a second", file=sys.stderr)
            continue
        height, width = frames.shape[1:3]
        pixels = size * size * max(height, width) // min(height, width)
        scores["real"][record.path.name] = score(fit(frames[: args.frames], *nearest_size(height, width, pixels, 16)))
    for clips in scores.values():
        for name, value in clips.items():
            print(f"{value:6.2f} dB  {name}")
    means = {name: sum(clips.values()) / len(clips) for name, clips in scores.items() if clips}
    for name, value in means.items():
        print(f"mean of {len(scores[name])} {name} clips, {args.frames} frames, short side {size}: {value:.2f} dB")
    return {"psnr": scores, "mean": means}


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one kind, and the scenes they describe where those are known."""

    label: str
    texts: list[str]
    scenes: list["Scene"]
    first_seed: int = 0
    """Of its samples; those of the next texts follow."""


def prompt_sets(args: argparse.Namespace) -> list[PromptSet]:
    """The prompts of a file, one a line; or captions of unseen scenes, half of them with held-out triples."""
    from data.world import sample_scene

    if args.prompt_file:
        try:
            lines = args.prompt_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--prompt-file {args.prompt_file} cannot be read: {error}") from None
        texts = [line.strip() for line in lines if line.strip()]
        if len(texts) < 2:
            raise ValueError(f"--prompt-file {args.prompt_file} has {len(texts)} prompts: write at least 2, one a line")
        return [PromptSet(args.prompt_file.name, texts, [])]
    if args.prompts < 4:
        raise ValueError(f"--prompts {args.prompts}: half of them are held out and each half takes 2: use 4 or more")
    sets: list[PromptSet] = []
    for label, split, count in (
        ("seen triples", "val", (args.prompts + 1) // 2),
        (HELD_OUT, "test", args.prompts // 2),
    ):
        scenes = [sample_scene(split, seed) for seed in range(count)]
        first = sum(len(part.texts) for part in sets)
        sets.append(PromptSet(label, [scene.caption(args.style) for scene in scenes], scenes, first))
    return sets


def read_prompts(texts: list[str]) -> "list[Prompt]":
    """What each prompt states; ValueError for one of which the judge could not tell all objects apart."""
    from data.world.prompt import read_prompt
    from data.world.reading import MOST_FOUND

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

    def render(self, scenes: list["Scene"]) -> "Tensor":
        """True clips: uint8 (n, t, h, w, 3)."""
        import torch

        from data.world.judge import FRAME_RATE

        clips = [scene.render(self.num_frames, self.height, self.width, FRAME_RATE) for scene in progress(scenes)]
        return torch.stack(clips)


def make_samples(pipe: "VideoPipeline", part: PromptSet, clip_format: ClipFormat, args: argparse.Namespace) -> "Tensor":
    """A clip for each prompt, from a seed of its own: uint8 (n, t, h, w, 3)."""
    import torch

    from data.world.judge import FRAME_RATE

    made = []
    for first in range(0, len(part.texts), args.batch):
        texts = part.texts[first : first + args.batch]
        pipe.set_progress_bar_config(desc=f"{part.label} {first + len(texts)}/{len(part.texts)}", leave=False)
        generators = [torch.Generator().manual_seed(args.seed + part.first_seed + first + i) for i in range(len(texts))]
        frames = pipe(
            texts,
            num_frames=clip_format.num_frames,
            height=clip_format.height,
            width=clip_format.width,
            frame_rate=FRAME_RATE,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=generators,
        ).frames
        made.append(torch.as_tensor(frames).mul(255).round().to(torch.uint8))
    return torch.cat(made)


def through_codec(codec: "LatentCodec", clips: "Tensor") -> "Tensor":
    """Clips (n, t, h, w, 3) as they come out of the autoencoder, uint8."""
    import torch

    from data.transforms import to_float, to_uint8

    decoded = []
    for clip in progress(clips):
        pixels = to_float(clip)[None].to(codec.vae.device)
        decoded.append(to_uint8(codec.decode(codec.encode(pixels))[0].cpu()))
    return torch.stack(decoded)


def read_all(judge: "Judge", clips: "Tensor") -> "list[Reading]":
    """What the judge reads off clips (n, t, h, w, 3)."""
    from data.world.reading import read_clips

    return [reading for part in clips.split(16) for reading in read_clips(judge, part)]


def measures_of(readings: "list[Reading]", clips: "Tensor", reference: "list[Reading]") -> dict[str, float]:
    """What is measured of clips beside their words; how far they are off is told from readings of other true clips."""
    import torch

    from data.world.score import flicker, frechet_distance, kept_identity

    found = {"flicker": mean(flicker(clip) for clip in clips)}
    if (kept := kept_identity(readings)).asked:
        found["identity kept"] = kept.value
    features = [torch.stack([reading.features for reading in part]) for part in (readings, reference)]
    found["Fréchet distance"] = frechet_distance(*features)
    return found


def held_out_objects(part: PromptSet, prompts: "list[Prompt]") -> "list[list[bool]] | list[None]":
    """Which objects of each prompt are of a held-out triple, in the set that is about those; else None, for all."""
    from data.world import is_held_out

    if part.label != HELD_OUT:
        return [None] * len(prompts)
    about = []
    for scene, prompt in zip(part.scenes, prompts, strict=True):
        held = {(o.shape, o.colour) for o in scene.objects if is_held_out(o.shape, o.colour, o.motion)}
        about.append([(said.shape, said.colour) in held for said in prompt.objects])
    return about


def evaluate_world(args: argparse.Namespace) -> dict:
    """How much of what prompts state the judge finds in samples, and how far to trust it.

    Beside the samples stand true clips of the same scenes through the codec ("oracle": the most there can be), the
    samples against one another's prompts (what chance gives), and how often the judge is right about everything there
    is to say of unseen clips. In the table of held-out triples, only objects of such a triple are counted.
    """
    import torch

    from data.world import sample_scene
    from data.world.judge import FRAME_RATE, Judge
    from data.world.score import against_others, agreement, judge_agreements, shares
    from video_dit import VideoPipeline
    from video_dit.layers import fast_dtype
    from video_dit.pipeline import check_model_folder

    check_model_folder(args.model)
    sets = prompt_sets(args)
    prompts = [read_prompts(part.texts) for part in sets]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge = Judge.load(args.judge).to(device)
    pipe = VideoPipeline.from_pretrained(args.model, dtype=fast_dtype(device)).to(device)
    height, width = args.size or pipe.sizes[0]
    pipe.check_size(height, width)
    r, _ = pipe.codec.frame_rule
    clip_format = ClipFormat(1 + r * round(args.seconds * FRAME_RATE / r), height, width)

    scenes = [sample_scene("all", UNSEEN + seed) for seed in range(args.prompts)]
    renders = clip_format.render(scenes)
    reference = read_all(judge, renders)
    own, off = {}, {}
    for name, read in (("judge, codec", read_all(judge, through_codec(pipe.codec, renders))), ("judge", reference)):
        told, errors = judge_agreements(read, scenes, clip_format.num_frames, FRAME_RATE, width / height)
        own[name], off[name] = shares(told), mean(errors) if errors else math.nan

    results: dict = {"model": str(args.model), "settings": settings_of(args, clip_format), "sets": {}}
    results["centre error"] = {name: None if math.isnan(error) else error for name, error in off.items()}
    examples: list[tuple[float, str, Tensor]] = []
    for part, wanted in zip(sets, prompts, strict=True):
        samples = make_samples(pipe, part, clip_format, args)
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
        print_table(f"{len(wanted)} prompts, {part.label}", columns | own, measures)
        missed = [[name for name, holds in one.items() if name != "all" and not all(holds)] for one in told]
        results["sets"][part.label] = {
            "shares": {
                name: {key: share_as_json(share) for key, share in column.items()}
                for name, column in (columns | own).items()
            },
            "measures": measures,
            "prompts": [
                {"text": text, "read as": asdict(prompt), "wrong": names, "all right": one["all"][0]}
                for text, prompt, names, one in zip(part.texts, wanted, missed, told, strict=True)
            ],
        }
        for text, one, names, clip in zip(part.texts, told, missed, samples, strict=True):
            right = [held for holds in one.values() for held in holds]
            label = f"{mean(right):.0%} right{', wrong: ' if names else ''}{', '.join(names)} | {text}"
            examples.append((mean(right), label, clip))
    for name, error in off.items():
        print(f"{name}: centres are off by {error:.2%} of the width")
    write_examples(args.picture, examples)
    print(f"wrote {args.picture}: the best and the worst ten")
    return results


def share_as_json(share: "Share") -> dict[str, float | None]:
    """With its 95 % interval; None where nothing was asked."""
    low, high = share.interval
    figures = {"right": share.right, "asked": share.asked, "share": share.value, "low": low, "high": high}
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def settings_of(args: argparse.Namespace, clip_format: ClipFormat) -> dict[str, float | str]:
    """What the figures depend on besides model and prompts."""
    return {
        "size": f"{clip_format.width}x{clip_format.height}",
        "frames": clip_format.num_frames,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "seed": args.seed,
        "style": args.style,
    }


def print_table(title: str, columns: dict, measures: dict[str, dict[str, float]]) -> None:
    """One line an attribute: the share that is right in each column, in percent, with its 95 % interval."""
    from data.world.score import ATTRIBUTES

    print(f"\n{title}: percent right (95 % interval)")
    print(" " * 18 + "".join(f"{name:>20}" for name in columns))
    for name in (*ATTRIBUTES, "all"):
        cells = []
        for share in (column[name] for column in columns.values()):
            low, high = share.interval
            cells.append(f"{share.value:.1%} ({low:.0%}-{high:.0%})".replace("%", "") if share.asked else "")
        print(f"{name:18}" + "".join(f"{cell:>20}" for cell in cells))
    for name in dict.fromkeys(name for values in measures.values() for name in values):
        told = ", ".join(f"{of} {values[name]:.4g}" for of, values in measures.items() if name in values)
        print(f"{name}: {told}")


def write_examples(path: Path, examples: "list[tuple[float, str, Tensor]]") -> None:
    """A picture of the ten clips of which most is right, and the ten of which least is."""
    from data.sheet import write_rows

    ranked = [(label, clip) for _, label, clip in sorted(examples, key=lambda example: -example[0])]
    write_rows(path, ranked if len(ranked) <= 20 else ranked[:10] + ranked[-10:])


def progress(items: Any) -> Any:
    """With a bar that goes away, for what takes long on a small machine."""
    from tqdm import tqdm

    return tqdm(items, leave=False)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    vae = commands.add_parser("vae", help="reconstruction")
    vae.add_argument("--manifest", type=Path, help="real clips; rows of split test are measured")
    vae.add_argument("--frames", type=int, default=17, help="of each clip, 1 + 4k (default: %(default)s)")
    vae.add_argument("--short-side", type=int, default=128, help="pixels, of 16 (default: %(default)s)")
    vae.add_argument("--clips", type=int, default=16, help="renders of the world (default: %(default)s)")
    world = commands.add_parser("world", help="do samples follow their prompts")
    world.add_argument("--prompts", type=at_least(1), default=256, help="half of them held out (default: %(default)s)")
    world.add_argument("--prompt-file", type=Path, help="prompts in your own words instead, one a line")
    world.add_argument("--style", default="exhaustive", help="of the captions: exhaustive, detailed, short or terse")
    world.add_argument("--size", type=size, metavar="WxH", help="pixels (default: as the model was trained most)")
    world.add_argument("--seconds", type=positive, default=4.0, help="of each clip (default: %(default)s)")
    world.add_argument("--steps", type=at_least(1), default=30, help="of the sampler (default: %(default)s)")
    world.add_argument("--guidance-scale", type=positive, default=4.0, help="default: %(default)s")
    world.add_argument("--seed", type=int, default=0, help="of the first sample (default: %(default)s)")
    world.add_argument("--batch", type=at_least(1), default=16, help="samples made at a time (default: %(default)s)")
    world.add_argument("--judge", type=Path, default=ROOT / "checkpoints" / "judge", help="default: the shipped one")
    picture = ROOT / "outputs" / "evaluate-world.png"
    world.add_argument("--picture", type=Path, default=picture, metavar="FILE", help="default: outputs/")
    for command in (vae, world):
        command.add_argument("--model", type=Path, default=MODEL, help="default: sora-tiny")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(arguments)
    if args.json and (args.json.is_dir() or not args.json.parent.is_dir()):
        parser.error(f"--json {args.json}: must be a file in a folder that exists")
    if args.command == "world":
        if args.picture.suffix.lower() != ".png" or args.picture.is_dir():
            parser.error(f"--picture {args.picture}: must be a file whose name ends in .png")
        if args.seconds < 4:
            parser.error(f"--seconds {args.seconds:g}: the judge takes 4 seconds to tell motions apart: use 4 or more")
    return args


def main() -> int:
    """Exit code 2 for what the user got wrong, 1 for what failed."""
    args = parse_arguments()
    try:
        if args.command == "world":
            args.picture.parent.mkdir(parents=True, exist_ok=True)
        results = (evaluate_vae if args.command == "vae" else evaluate_world)(args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
