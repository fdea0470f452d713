"""Autoencoders of any design trained alike for the same time, and how well they then reconstruct unseen clips.

Same data, loss, optimizer and rate schedule; each has its own best learning rate of a short list.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data.crops import CropConfig, Crops
from data.manifest import has_split, read_manifest
from data.seeding import draw_integer, keyed_generator
from data.transforms import to_float
from data.world import sample_scene
from vae3d.interop import Autoencoder, decode_whole
from vae3d.losses import kl_per_value
from vae3d.metrics import psnr
from video_dit.evaluation.candidates import Candidate
from video_dit.evaluation.vae import fit_short_side, read_frames
from video_dit.layers import fast_dtype

KL_WEIGHT = 1e-6
WARMUP, DECAY = 0.03, 0.3
"""Shares of the time in which the rate rises from a tenth of its height, and at last falls to 0."""
HELD = 4  # batches kept from training, to choose the rate by
CACHE = "cache/frames"


@dataclass(frozen=True)
class TrainOptions:
    """How all are trained.

    Args:
        seconds: of training, each: on a CPU of processor time, summed over threads, so that other work on the machine
            does not matter; on CUDA of the wall's.
        frames, size, batch: of a batch's clips, which are square; whole clips are tested at twice that size.
        batches: kept in memory, and drawn from at random.
        rates: learning rates to choose from.
        optimizer: "adamw", or "muon" for all matrices, at ten times the rate, and AdamW for the rest. The weights of
            convolutions are matrices in `VideoVAE` alone.
        seeds: trainings with the best rate, from other weights and in another order.
        manifest: real clips; rows of split ``train`` are trained on, half of the time, and those of ``test`` tested.
        world_clips: renders to train on. test_clips: unseen renders, and at most as many real clips, spread over their
            rows: large rivals take seconds for each. threads: of the CPU. device: "cpu" or "cuda".
        max_steps: ends a training, instead of ``seconds``.
    """

    seconds: float
    frames: int
    size: int
    batch: int
    rates: tuple[float, ...]
    seeds: int
    manifest: Path | None
    threads: int
    device: str
    optimizer: str = "adamw"
    batches: int = 256
    world_clips: int = 200
    test_clips: int = 16
    max_steps: int | None = None


@dataclass(frozen=True)
class Footage:
    """All clips, read once. train, held: batches, uint8 ``(b, t, h, w, 3)``; the latter are not trained on.
    test: unseen whole clips, uint8 ``(t, h, w, 3)``, by "world" and, with a manifest, "real"."""

    train: list[Tensor]
    held: list[Tensor]
    test: dict[str, list[Tensor]]


@dataclass(frozen=True)
class Training:
    """A training's end. losses: of each step; seconds: as `TrainOptions` counts them."""

    losses: list[float]
    seconds: float

    @property
    def diverged(self) -> bool:
        """The loss left the numbers."""
        return not math.isfinite(self.losses[-1])


@dataclass(frozen=True)
class Trial:
    """One training of one candidate. held: PSNR in dB on batches that were kept from it, -inf if it diverged;
    test: mean PSNR of unseen clips by group, empty where that was not asked."""

    rate: float
    seed: int
    steps: int
    seconds: float
    held: float
    test: dict[str, float]


def load_footage(options: TrainOptions, multiple: int, warn: Callable[[str], None]) -> Footage:
    """Render, read and cut all clips. multiple: of the sides of whole clips, in pixels.

    Raises:
        ValueError: the manifest is no good, or no clip is large enough.
    """
    side = 2 * options.size
    config = CropConfig(
        world_clips=options.world_clips,
        world_frames=2 * options.frames - 1,
        world_sizes=[[side, side]],
        manifest=str(options.manifest or ""),
        manifest_frames=max(CropConfig.manifest_frames, options.frames),
        batches=[[options.batch, options.frames, options.size, options.size]],
        cache=CACHE,
    )
    if options.manifest and not (has_split(options.manifest, "train") and has_split(options.manifest, "test")):
        raise ValueError(f"--manifest {options.manifest} must have rows of split train and of split test")
    try:
        crops = Crops(config, seed=0, split="train")
    except ValueError as error:
        asked = f"--train-frames {options.frames} --train-size {options.size} --manifest {options.manifest}"
        raise ValueError(f"{asked}: {error}") from None
    positions = tqdm(range(options.batches + HELD), desc="training clips", leave=False, disable=None)
    batches = [batch for position in positions if len(batch := crops[position])]
    if len(batches) <= HELD:
        raise ValueError(f"--manifest {options.manifest}: no clip of split train can be read: mend it")
    seeds = tqdm(range(options.test_clips), desc="unseen clips", leave=False, disable=None)
    test = {"world": [sample_scene("test", seed).render(options.frames, side, side, 8.0) for seed in seeds]}
    if options.manifest:
        test["real"] = _real_clips(options.manifest, options.frames, side, multiple, warn)
        places = torch.linspace(0, len(test["real"]) - 1, min(len(test["real"]), options.test_clips))
        test["real"] = [test["real"][round(place)] for place in places.tolist()]
    return Footage(batches[HELD:], batches[:HELD], test)


def _real_clips(manifest: Path, num_frames: int, side: int, multiple: int, warn: Callable[[str], None]) -> list[Tensor]:
    """The first frames of the rows of split ``test``."""
    from data.video import VideoError  # PyAV may be missing where only the world is measured

    clips = []
    for record in tqdm(read_manifest(manifest, split="test"), desc="real clips", leave=False, disable=None):
        try:
            frames, _ = read_frames(record, num_frames, None)
        except VideoError as error:
            warn(f"left out: {error}")
            continue
        clips.append(fit_short_side(frames, side, multiple))
    if not clips:
        raise ValueError(f"--manifest {manifest}: no clip of split test can be read: mend it")
    return clips


def train_for(
    vae: Autoencoder,
    batches: Sequence[Tensor],
    seconds: float,
    seed: int,
    rate: float,
    max_steps: int | None = None,
    optimizer: str = "adamw",
) -> Training:
    """Train any autoencoder of diffusers' interface in place: squared error and a little divergence.

    Args:
        vae: with fp32 weights; computes in bf16 where its device is fast in it.
        batches: uint8 ``(b, t, h, w, 3)``, drawn from at random.
        seconds: of its steps alone, as `TrainOptions` counts them; ``max_steps`` ends it instead where it is given,
            and makes the result a function of weights, batches and seed.
        seed: of the order and of the latents' noise. rate: the learning rate's height (see `schedule`).
        optimizer: as in `TrainOptions`.
    Returns:
        The loss of each step. It ends early where the loss is not finite.
    """
    device = vae.device
    generator = keyed_generator(seed, "equal training")
    optimizers = build_optimizers(vae, rate, optimizer)
    groups = [(group, group["lr"]) for one in optimizers for group in one.param_groups]
    losses: list[float] = []
    spent = 0.0
    vae.train()
    while (done := len(losses) / max_steps if max_steps else spent / seconds) < 1:
        frames = to_float(batches[draw_integer(len(batches), generator)]).to(device)
        start = used_time(device)
        for group, height in groups:
            group["lr"] = height * schedule(done)
        with fast_autocast(device):
            posterior = vae.encode(frames).latent_dist
            prediction = decode_whole(vae, posterior.sample(generator))
        loss = F.mse_loss(prediction.float(), frames) + KL_WEIGHT * kl_per_value(posterior, frames.numel())
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for one in optimizers:
            one.step()
        losses.append(loss.item())
        spent += used_time(device) - start
        if not math.isfinite(losses[-1]):
            break
    vae.eval()
    return Training(losses, spent)


def build_optimizers(vae: Autoencoder, rate: float, name: str) -> list[torch.optim.Optimizer]:
    """Those of `TrainOptions.optimizer` ``name`` over all parameters."""
    parameters: list[nn.Parameter] = list(vae.parameters())
    by_muon = [p for p in parameters if name == "muon" and p.ndim == 2]
    others = [p for p in parameters if name != "muon" or p.ndim != 2]
    adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    return [adamw, torch.optim.Muon(by_muon, lr=10 * rate, weight_decay=0.0)] if by_muon else [adamw]


def schedule(done: float) -> float:
    """The learning rate over its height when the share ``done`` of the training is over: warm-up, level, decay."""
    return min(1.0, max(0.1, done / WARMUP), (1 - done) / DECAY)


def used_time(device: torch.device) -> float:
    """Seconds of the process on a CPU, summed over its threads; on the wall where CUDA computes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def fast_autocast(device: torch.device) -> torch.autocast:
    """bf16 where the device is fast in it."""
    fast = fast_dtype(device)
    return torch.autocast(device.type, fast, enabled=fast != torch.float32)


@torch.no_grad()
def mean_psnr(vae: Autoencoder, batches: Sequence[Tensor]) -> float:
    """Of all clips of batches, uint8 ``(b, t, h, w, 3)``, through the mean of their latents, in dB; NaN where the
    autoencoder gives what is no number."""
    scores: list[float] = []
    for batch in tqdm(batches, desc="PSNR", leave=False, disable=None):
        frames = to_float(batch).to(vae.device)
        with fast_autocast(vae.device):
            prediction = decode_whole(vae, vae.encode(frames).latent_dist.mode())
        scores += psnr(prediction.float().clamp(-1, 1), frames).tolist()
    return mean(scores)


def run_trial(
    candidate: Candidate, footage: Footage, options: TrainOptions, rate: float, seed: int
) -> tuple[Trial, Autoencoder]:
    """Build, train, and measure on the held batches alone."""
    vae = candidate.build(seed=seed, device=options.device)
    training = train_for(vae, footage.train, options.seconds, seed, rate, options.max_steps, options.optimizer)
    held = -math.inf if training.diverged else mean_psnr(vae, footage.held)
    return Trial(rate, seed, len(training.losses), training.seconds, held, {}), vae


def run_trials(
    candidate: Candidate, footage: Footage, options: TrainOptions, say: Callable[[str], None]
) -> tuple[list[Trial], list[Trial]]:
    """The trials of all rates with the first seed, and those of all seeds with the best rate, which are tested; none
    of these if it diverged at every rate."""
    torch.set_num_threads(options.threads)

    def tested(trial: Trial, vae: Autoencoder) -> Trial:
        test = {group: mean_psnr(vae, [clip[None] for clip in clips]) for group, clips in footage.test.items()}
        scores = ", ".join(f"{group} {score:.2f} dB" for group, score in test.items())
        say(f"{candidate.name}: rate {trial.rate:g}, seed {trial.seed}, unseen clips: {scores}")
        return replace(trial, test=test)

    searched: list[Trial] = []
    best: tuple[Trial, Autoencoder] | None = None
    for rate in options.rates:
        trial, vae = run_trial(candidate, footage, options, rate, seed=0)
        say(f"{candidate.name}: rate {rate:g}, {trial.steps} steps in {trial.seconds:.0f} s, held {trial.held:.2f} dB")
        searched.append(trial)
        if math.isfinite(trial.held) and (best is None or trial.held > best[0].held):
            best = trial, vae
    if best is None:
        return searched, []
    final = [tested(*best)]
    rate = best[0].rate
    best = None
    for seed in range(1, options.seeds):
        final.append(tested(*run_trial(candidate, footage, options, rate, seed)))
    return searched, final


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, which is None for a single value; NaN and None if any is NaN."""
    if any(math.isnan(value) for value in values):
        return math.nan, None
    return mean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
