"""Measure a model: how well its autoencoder reconstructs, and whether its samples have the colour they should.

python tools/evaluate.py vae --manifest clips.csv
python tools/evaluate.py world --prompts 64
"""

import argparse
import colorsys
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

MODEL = Path(__file__).parents[1] / "checkpoints" / "sora-tiny"
HUES = {"red": 0.0, "yellow": 50.0, "green": 120.0, "cyan": 180.0, "blue": 225.0, "purple": 280.0}


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


def colour_of(frames: "Tensor") -> str:
    """The word for the hue that most strongly coloured pixels of uint8 frames ``(t, h, w, 3)`` have; "" for none.

    Ground and sky are pale, so what is left are objects; white ones cannot be told this way.
    """
    votes = dict.fromkeys(HUES, 0)
    for red, green, blue in frames[::4].reshape(-1, 3).tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        if saturation > 0.5 and value > 0.25:
            votes[min(HUES, key=lambda word: abs((hue * 360 - HUES[word] + 180) % 360 - 180))] += 1
    best = max(votes, key=lambda word: votes[word])
    return best if votes[best] else ""


def evaluate_world(args: argparse.Namespace) -> dict:
    """Share of samples whose one object has the prompt's colour, for seen and for held-out triples.

    Beside it: the same measure on true renders through the codec (the most it can be), and on samples matched with
    the next prompt (what chance gives).
    """
    import torch

    from data.transforms import to_float, to_uint8
    from data.world import sample_scene
    from video_dit import VideoPipeline
    from video_dit.pipeline import check_model_folder

    check_model_folder(args.model)
    fast = torch.cpu._is_avx512_bf16_supported()
    pipe = VideoPipeline.from_pretrained(args.model, dtype=torch.bfloat16 if fast else torch.float32)
    height, width = pipe.sizes[0]
    r, _ = pipe.codec.frame_rule
    num_frames = 1 + r * (pipe.window - 1)
    results: dict[str, dict[str, float]] = {}
    for label, split in (("seen", "val"), ("held out", "test")):
        scenes = (sample_scene(split, seed) for seed in range(1_000_000))
        single = (s for s in scenes if len(s.objects) == 1 and s.objects[0].colour in HUES)
        chosen = [next(single) for _ in range(args.prompts)]
        wanted = [scene.objects[0].colour for scene in chosen]
        made, true = [], []
        for number, scene in enumerate(chosen):
            pipe.set_progress_bar_config(desc=f"{label} {number + 1}/{len(chosen)}", leave=False)
            generator = torch.Generator().manual_seed(number)
            frames = pipe(scene.caption(), num_frames=num_frames, generator=generator).frames[0]
            made.append(colour_of(torch.as_tensor(frames).mul(255).round().to(torch.uint8)))
            pixels = to_float(scene.render(num_frames, height, width, pipe.frame_rate))[None]
            true.append(colour_of(to_uint8(pipe.codec.decode(pipe.codec.encode(pixels))[0])))
        rows = {"samples": (made, wanted), "oracle": (true, wanted), "wrong prompt": (made, wanted[1:] + wanted[:1])}
        results[label] = {name: _share(*pair) for name, pair in rows.items()}
    for label, row in results.items():
        for name, share in row.items():
            print(f"{label:9} {name:13} colour right {share:6.1%} ± {1.96 * _deviation(share, args.prompts):.1%}")
    return results


def _share(found: list[str], wanted: list[str]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def _deviation(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def main() -> int:
    """Exit code 2 for what the user got wrong."""
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
    world.add_argument("--prompts", type=int, default=64, help="of each kind (default: %(default)s)")
    for command in (vae, world):
        command.add_argument("--model", type=Path, default=MODEL, help="default: sora-tiny")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    try:
        results = (evaluate_vae if args.command == "vae" else evaluate_world)(args)
    except ValueError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
