"""Train the judge of the world: ``python tools/train_judge.py``.

It learns from clips of all triples, held-out ones included, half of them passed through the model's autoencoder.
Clips are rendered and passed through it once, into ``cache/judge`` (about 7 GB); the same command goes on where it was
stopped. It overwrites the shipped judge in ``checkpoints/judge``, first at step 1,000, unless ``--out`` says otherwise.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.dataset import WORLD_VERSION
from data.options import at_least, positive
from data.packing import load_ahead
from data.seeding import keyed_generator
from data.sheet import checked_folder, replacing
from data.transforms import to_float, to_uint8
from data.world import sample_scene
from data.world.judge import FRAME_RATE, PART, WINDOW, ClipFeatures, Judge
from data.world.labels import MAX_OBJECTS, OBJECT_WORDS, SCENE_WORDS, mirrored, scene_labels
from data.world.reading import read_clips
from data.world.score import judge_agreements, shares
from vae3d import LatentCodec
from video_dit.layers import fast_dtype, find_device

ROOT = Path(__file__).parents[1]
SIZES = ((64, 64), (64, 64), (56, 72), (72, 56), (48, 80), (80, 48))
UNSEEN = 10_000_000  # seeds from here on are never trained on


def size_of(seed: int) -> tuple[int, int]:
    """Height and width of the clip of a seed."""
    return SIZES[seed // 2 % len(SIZES)]


def clip_file(folder: Path, seed: int) -> Path:
    return folder / f"{seed:08d}.safetensors"


@dataclass(frozen=True)
class Renders(Dataset):
    """The data set whose item writes the clip of a seed and its labels to a file: for workers to load."""

    seeds: list[int]
    folder: Path

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, number: int) -> int:
        seed = self.seeds[number]
        height, width = size_of(seed)
        scene = sample_scene("all", seed)
        labels = scene_labels(scene, WINDOW, height, width, FRAME_RATE)
        with replacing(clip_file(self.folder, seed)) as draft:
            save_file(labels | {"frames": scene.render(WINDOW, height, width, FRAME_RATE)}, draft)
        return seed


def render_clips(seeds: range, folder: Path, workers: int) -> None:
    """Write the clips that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not clip_file(folder, seed).exists()]
    loader = load_ahead(Renders(missing, folder), range(len(missing)), min(workers, len(missing)))
    for _ in tqdm(loader, desc="rendering", unit="clip", disable=not missing):
        pass


@torch.no_grad()
def reconstruct_clips(seeds: range, folder: Path, codec: LatentCodec, device: torch.device) -> Path:
    """Pass clips through the codec; returns the folder of what came out."""
    out = folder / codec.fingerprint(decoder=True)
    out.mkdir(exist_ok=True)
    missing = [seed for seed in seeds if not clip_file(out, seed).exists()]
    parts = [part for size in dict.fromkeys(SIZES) for part in chunks([s for s in missing if size_of(s) == size], 8)]
    codec.vae.to(device)
    for part in tqdm(parts, desc="through the autoencoder", unit="8 clips", disable=not parts):
        frames = [to_float(load_file(clip_file(folder, seed))["frames"]) for seed in part]
        pixels = torch.stack(frames).to(device, codec.vae.dtype)
        for seed, clip in zip(part, codec.decode(codec.encode(pixels)).float().cpu(), strict=True):
            with replacing(clip_file(out, seed)) as draft:
                save_file({"frames": to_uint8(clip).contiguous()}, draft)
    return out


def chunks(seeds: list[int], size: int) -> list[list[int]]:
    return [seeds[first : first + size] for first in range(0, len(seeds), size)]


def load_clip(seed: int, folder: Path, through: Path | None) -> dict[str, Tensor]:
    """Frames and labels of a clip; with `through`, its frames as they came out of the autoencoder."""
    clip = load_file(clip_file(folder, seed))
    if through is not None:
        clip["frames"] = load_file(clip_file(through, seed))["frames"]
    return clip


def by_size(seeds: range, batch: int) -> list[list[int]]:
    """The seeds of clips of each size; ValueError where there is no batch of one."""
    groups = [[seed for seed in seeds if size_of(seed) == shape] for shape in dict.fromkeys(SIZES)]
    if max(map(len, groups)) < batch:
        raise ValueError(
            f"--batch {batch} is more than there are clips of one size: use more --clips than {len(seeds)}"
        )
    return groups


def batches(seeds: range, size: int, folder: Path, through: Path, start: int) -> Iterator[dict[str, Tensor]]:
    """Batches of clips of one shape, for ever, from batch `start` on; even seeds come out of the autoencoder.

    Every fifth holds `PART` frames of each clip.
    """
    groups = by_size(seeds, size)
    step, epoch = 0, 0
    while True:
        generator = keyed_generator("judge", epoch)
        order: list[list[int]] = []
        for group in groups:
            mixed = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            order += [part for part in chunks(mixed, size) if len(part) == size]
        for index in torch.randperm(len(order), generator=generator).tolist():
            if step >= start:
                batch = collate([varied(seed, folder, through, step) for seed in order[index]])
                yield part_of(batch, step % (WINDOW - PART + 1)) if step % 5 == 0 else batch
            step += 1
        epoch += 1


def varied(seed: int, folder: Path, through: Path, step: int) -> dict[str, Tensor]:
    """A clip as it is trained on: half of them mirrored, some blurred, all a little brighter or darker, and followed
    from a little beside the true centres."""
    clip = load_clip(seed, folder, through if seed % 2 == 0 else None)
    generator = keyed_generator("judge", seed, step)
    if torch.rand((), generator=generator) < 0.5:
        clip = mirrored(clip) | {"frames": clip["frames"].flip(2)}
    if torch.rand((), generator=generator) < 0.2:
        pixels = rearrange(clip["frames"], "t h w c -> t c h w").float()
        blurred = F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
        clip["frames"] = rearrange(blurred.round().to(torch.uint8), "t c h w -> t h w c")
    tone = 1.0 + 0.1 * torch.randn(2, generator=generator).clamp(-1.5, 1.5)
    jitter = 0.01 * torch.randn(MAX_OBJECTS, 2, generator=generator)
    return clip | {"tone": tone, "jitter": jitter}


def collate(clips: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Frames (b, 3, t, h, w) in [-1, 1], and the labels stacked."""
    stacked = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
    frames = to_float(stacked["frames"])
    tone = rearrange(stacked.pop("tone"), "b k -> k b 1 1 1 1")
    return stacked | {"frames": (frames * tone[0] + tone[1] - 1.0).clamp(-1.0, 1.0)}


def part_of(batch: dict[str, Tensor], first: int) -> dict[str, Tensor]:
    """`PART` frames of each clip from frame `first` on, and what the labels say of them."""
    labels = {name: batch[name][:, :, first : first + PART] for name in ("centres", "depths", "visible")}
    return batch | labels | {"frames": batch["frames"][:, :, first : first + PART]}


def judge_loss(judge: Judge, clip: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """The sum of all losses of a batch, and the parts. What a part of a clip does not show is not asked of it."""
    device = clip["frames"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16):
        features = ClipFeatures(*(part.float() for part in judge.encode(clip["frames"])))
    centres, visible, count = clip["centres"], clip["visible"], clip["count"]
    present = torch.arange(MAX_OBJECTS, device=count.device) < count.unsqueeze(1)  # b k
    present = present & visible[:, :, 0]
    found = judge(features, centres[:, :, 0] + clip["jitter"], present, centres.shape[2])
    whole = centres.shape[2] == WINDOW
    losses = {"points": point_loss(features.points, centres[:, :, 0], present)}
    in_sight = (visible & present.unsqueeze(2)).float()  # b k t
    weight = in_sight + 0.2 * present.unsqueeze(2)
    away = F.smooth_l1_loss(found.centres, centres, beta=0.01, reduction="none").sum(-1)
    losses["centres"] = 10.0 * weighted_mean(away, weight)
    losses["depths"] = 2.0 * weighted_mean(F.l1_loss(found.depths, clip["depths"], reduction="none"), weight)
    if whole:
        away = F.smooth_l1_loss(found.paths, clip["paths"], beta=0.05, reduction="none").sum(-1)
        losses["paths"] = weighted_mean(away, weight)
        losses["view"] = F.l1_loss(found.view, clip["view"])
    cells = cell_shares(centres[:, :, ::2], features.maps.shape[2:4])  # b k s cells
    for name, logits in zip(("match", "rematch"), found.matches, strict=True):
        cost = -(cells * logits.log_softmax(-1)).sum(-1)
        losses[name] = 0.15 * weighted_mean(cost, in_sight[:, :, ::2])
    for name in OBJECT_WORDS if whole else ("shape", "colour", "material"):
        wrong = F.cross_entropy(rearrange(found.objects[name], "b k c -> b c k"), clip[name], reduction="none")
        losses[name] = weighted_mean(wrong, present.float())
    for name in SCENE_WORDS if whole else ("ground", "time_of_day"):
        losses[name] = 0.5 * F.cross_entropy(found.scene[name], clip[name])
    return torch.stack(list(losses.values())).sum(), {name: float(value.detach()) for name, value in losses.items()}


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """0 where nothing has a weight: a batch may show no object."""
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def point_loss(logits: Tensor, centres: Tensor, present: Tensor) -> Tensor:
    """The focal loss of CenterNet on a map (b, h, w), for the centres (b, k, 2) that are present (b, k)."""
    h, w = logits.shape[1:]
    y = torch.arange(h, device=logits.device) + 0.5
    x = torch.arange(w, device=logits.device) + 0.5
    dx = (x - centres[..., :1] * w) ** 2  # b k w
    dy = (y - centres[..., 1:] * h) ** 2  # b k h
    bumps = torch.exp(-(dx.unsqueeze(2) + dy.unsqueeze(3)) / (2.0 * 1.2**2)) * present[..., None, None]  # b k h w
    target = bumps.amax(1)
    peak = F.max_pool2d(bumps, 31, 1, 15)  # the cell nearest to a centre is its peak
    is_peak = ((bumps == peak) & (bumps > 0.5)).any(1)
    chance = logits.sigmoid()
    hit = -((1.0 - chance) ** 2) * F.logsigmoid(logits)
    miss = -((1.0 - target) ** 4) * chance**2 * F.logsigmoid(-logits)
    return torch.where(is_peak, hit, miss).sum() / present.sum().clamp(min=1)


def cell_shares(centres: Tensor, grid: tuple[int, ...]) -> Tensor:
    """How the places (b, k, s, 2) are shared among the nearest four cells of a grid: (b, k, s, cells), summing to 1."""
    rows, columns = grid

    def along(place: Tensor, size: int) -> Tensor:
        cell = torch.arange(size, device=place.device) + 0.5
        share = (1.0 - (place.unsqueeze(-1) * size - cell).abs()).clamp(min=0.0)
        return share / share.sum(-1, keepdim=True).clamp(min=1e-3)

    x, y = along(centres[..., 0].clamp(0, 1), columns), along(centres[..., 1].clamp(0, 1), rows)
    return rearrange(y.unsqueeze(-1) * x.unsqueeze(-2), "b k s h w -> b k s (h w)")


@torch.no_grad()
def validate(judge: Judge, seeds: range, folder: Path) -> str:
    """How often the judge is right about the clips of a folder, whose seeds it has not seen."""
    judge.eval()
    told = []
    for height, width in dict.fromkeys(SIZES):
        same = [seed for seed in seeds if size_of(seed) == (height, width)]
        clips = [
            torch.stack([load_file(clip_file(folder, seed))["frames"] for seed in part]) for part in chunks(same, 16)
        ]
        readings = [reading for part in clips for reading in read_clips(judge, part)]
        scenes = [sample_scene("all", seed) for seed in same]
        told.append(judge_agreements(readings, scenes, WINDOW, FRAME_RATE, width / height))
    judge.train()
    errors = [error for _, part in told for error in part]
    right = shares([one for part, _ in told for one in part])
    words = ", ".join(f"{name} {share.value:.1%}" for name, share in right.items())
    return f"{words}, centre error {sum(errors) / max(1, len(errors)):.2%}"


def resume(judge: Judge, optimizer: torch.optim.Optimizer, state: Path, settings: dict[str, str]) -> int:
    """Load what a stopped run with these settings has left in a file, if it has; returns the steps done.

    Raises:
        ValueError: the settings of that run were others, or its judge was.
    """
    if not state.exists():
        return 0
    saved = torch.load(state, map_location=next(judge.parameters()).device, weights_only=True)
    for name, value in settings.items():
        was, option = saved["settings"].get(name), "--" + name.replace("_", "-")
        if was != value:
            raise ValueError(
                f"{state} is of a run with {option} {was}, not {value}: go on with that, or remove the file"
            )
    try:
        judge.load_state_dict(saved["judge"])
    except RuntimeError:
        raise ValueError(f"{state} is of another version of the judge: remove the file") from None
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def train(args: argparse.Namespace) -> None:
    """Make the clips that are missing, then train, save and validate."""
    device = find_device(args.device)
    folder = args.cache / f"world-{WORLD_VERSION}"
    seen, unseen = range(args.clips), range(UNSEEN, UNSEEN + args.validation)
    for option in ("cache", "out"):  # what can be wrong is found before hours of rendering
        checked_folder(f"--{option} {getattr(args, option)}", getattr(args, option))
    by_size(seen, args.batch)
    codec = LatentCodec.from_pretrained(args.vae)
    torch.manual_seed(0)
    judge = (Judge.load(args.init_from) if args.init_from else Judge()).train().to(device)
    render_clips(seen, folder, args.workers)
    render_clips(unseen, folder, args.workers)
    reconstruct_clips(unseen, folder, codec, device)
    through = reconstruct_clips(seen[::2], folder, codec, device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.02)
    state = through / "state.pt"
    settings = {name: str(getattr(args, name)) for name in ("clips", "batch", "steps", "lr", "init_from")}
    start = resume(judge, optimizer, state, settings)
    if start >= args.steps:
        judge.save(args.out)  # it may have been stopped in between
        print(f"{state} is of a finished run: saved it in {args.out}")
        return
    bar = tqdm(batches(seen, args.batch, folder, through, start), initial=start, total=args.steps, desc="judge")
    for step, batch in enumerate(bar, start=start + 1):
        if step > args.steps:
            break
        rate = args.lr * min(step / 200, 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / args.steps))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, parts = judge_loss(judge, {name: value.to(device) for name, value in batch.items()})
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix({name: f"{value:.2f}" for name, value in parts.items()}, refresh=False)
        if step % args.save_every == 0 or step == args.steps:
            saved = {"judge": judge.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            with replacing(state) as draft:
                torch.save(saved | {"settings": settings}, draft)
            judge.save(args.out)
            for name, clips in (("as rendered", folder), ("through the autoencoder", through)):
                bar.write(f"step {step}, clips {name}: {validate(judge, unseen, clips)}")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="train_judge.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=at_least(1), default=12_000, help="to learn from (default: %(default)s)")
    parser.add_argument("--validation", type=at_least(1), default=240, help="unseen clips (default: %(default)s)")
    parser.add_argument("--steps", type=at_least(1), default=10_000, help="default: %(default)s")
    parser.add_argument("--batch", type=at_least(1), default=8, help="default: %(default)s")
    parser.add_argument("--lr", type=positive, default=1.2e-3, help="default: %(default)s")
    parser.add_argument("--save-every", type=at_least(1), default=1_000, help="steps (default: %(default)s)")
    parser.add_argument("--vae", type=Path, default=ROOT / "checkpoints" / "sora-tiny", help="default: sora-tiny")
    parser.add_argument("--init-from", type=Path, help="a folder with a judge to go on from")
    parser.add_argument("--out", type=Path, default=ROOT / "checkpoints" / "judge", help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=ROOT / "cache" / "judge", help="default: %(default)s")
    parser.add_argument("--workers", type=at_least(0), default=2, help="processes that render (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    return parser.parse_args(arguments)


def main() -> int:
    """Exit code 2 for what the user got wrong."""
    try:
        train(parse_arguments())
    except ValueError as error:
        print(f"train_judge.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
