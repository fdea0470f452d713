"""Train the video autoencoder: ``deepspeed tools/train_vae.py --config vae_tiny.yaml [section.key=value …]``.

Writes into ``run_dir``: ``vae/`` (averaged weights with the statistics of their latents, for `LatentCodec`),
``checkpoints/`` (the same command resumes from them), ``tensorboard/``, ``metrics.jsonl`` and ``loss.png``,
``validation.png`` (originals above reconstructions) and ``config.yaml`` (all settings).
"""

import math
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean

import torch
from deepspeed import comm as dist
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor, nn

from data.crops import CropConfig, Crops
from data.manifest import has_split
from data.packing import load_ahead, rank_positions
from data.seeding import keyed_generator
from data.sheet import checked_folder
from data.transforms import to_float, to_uint8
from vae3d import LatentCodec, VideoVAE
from vae3d.losses import Equivariance, LossWeights, reconstruction_loss
from vae3d.lpips import LPIPS
from vae3d.metrics import psnr, ssim
from video_dit.checkpoint import averaged_weights, checkpoint_folder, is_newer, replace_folder, resume, save_checkpoint
from video_dit.config import check_start, config_from_command_line, save_config
from video_dit.ema import EMA
from video_dit.engine import TrainConfig, global_sum, initialize, process_group, set_learning_rate
from video_dit.evaluation.pairs import Pair, write_picture
from video_dit.failures import failure_line
from video_dit.layers import fast_dtype
from video_dit.progress import Progress
from video_dit.stopping import Stop, stop_on_sigterm


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `VideoVAE`."""

    latent_channels: int = 8
    time_factor: int = 4
    space_factor: int = 8
    wavelet_levels: int = 1
    encoder_width: int = 256
    encoder_depth: int = 2
    decoder_width: int = 256
    decoder_depth: int = 4
    ratio: float = 3.0
    thin_width: int = 32
    thin_depth: int = 2


@dataclass(frozen=True)
class VAEConfig:
    """Everything a run of this program depends on.

    Raises:
        ValueError: a value is out of its range, or ``data.batches`` does not fit the model's factors.
    """

    run_dir: str = "runs/vae"
    seed: int = 0
    freeze_encoder: bool = False
    """Train the decoder alone: latents, and what was trained on them, stay as they are."""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    data: CropConfig = field(default_factory=CropConfig)

    def __post_init__(self) -> None:
        if self.train.accumulation != 1:
            raise ValueError("train.accumulation is not for the autoencoder: leave it out")
        if self.train.lora.rank:
            raise ValueError(f"train.lora.rank={self.train.lora.rank} is not for the autoencoder: leave it out")
        if self.freeze_encoder and not self.train.init_from:
            raise ValueError("freeze_encoder=true needs train.init_from: give the folder of a trained autoencoder")
        r, s = self.model.time_factor, self.model.space_factor
        if min(r, s) < 1:
            raise ValueError(f"model.time_factor={r} and model.space_factor={s} must both be at least 1")
        for batch in self.data.batches:
            if (batch[1] - 1) % r or batch[2] % s or batch[3] % s:
                raise ValueError(
                    f"data.batches has {list(batch)}: frames must be 1 + {r}k, height and width multiples of {s}"
                )


class Autoencode(nn.Module):
    """The autoencoder with its loss, as one module for DeepSpeed."""

    def __init__(self, vae: VideoVAE, weights: LossWeights) -> None:
        super().__init__()
        self.vae = vae
        self.weights = weights

    def forward(
        self, frames: Tensor, generator: torch.Generator, perceptual: LPIPS | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch ``(b, 3, t, h, w)`` in [-1, 1], fp32, and its terms; ``generator`` draws latents and
        transform."""
        r, grid = self.vae.config.time_factor, self.vae.config.space_factor
        posterior = self.vae.encode(frames.to(self.vae.dtype)).latent_dist
        latents, target = posterior.sample(generator), frames
        if float(torch.rand((), generator=generator)) < self.weights.equivariance:
            transform = Equivariance.draw(generator)
            latents, target = transform.latents(latents), transform.frames(frames, grid)
        prediction = self.vae.decode(latents).sample
        return reconstruction_loss(prediction, target, posterior, r, grid, self.weights, perceptual)


def held_out(config: CropConfig, seed: int) -> dict[str, list[Tensor]]:
    """Batches of unseen clips, not of images: "real" if the manifest has rows of split ``val``; and "world", as far as
    its renders hold them, unless it is not trained on and there are real ones."""
    moving = [batch for batch in config.batches if batch[1] > 1] or config.batches
    sets: dict[str, list[Tensor]] = {}
    if config.manifest and has_split(config.manifest, "val"):
        real = Crops(replace(config, batches=moving, world_share=0.0), seed, "val")
        sets["real"] = [batch for position in range(8) if len(batch := real[position])]
    if config.world_share > 0 or not any(sets.values()):
        held = [batch for batch in moving if world_holds(config, batch)] or moving
        world = Crops(replace(config, batches=held, manifest=""), seed, "val")
        sets["world"] = [world[position] for position in range(8)]
    return sets


def world_holds(config: CropConfig, batch: list[int]) -> bool:
    """Whether renders of the world are large enough for a batch."""
    _, frames, height, width = batch
    return frames <= config.world_frames and any(h >= height and w >= width for h, w in config.world_sizes)


def clips_as_trained(config: CropConfig, seed: int) -> list[Tensor]:
    """Batches of the longest clips that are trained on, to measure latents by: in shorter ones, and in images, latents
    of a single frame have a larger share than in the clips that a transformer sees."""
    crops = Crops(replace(config, batches=[max(config.batches, key=lambda batch: batch[1])]), seed, "train")
    return [batch for position in range(32) if len(batch := crops[position])]


def validate(codec: LatentCodec, sets: dict[str, list[Tensor]], sheet: Path) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of each set; writes a clip of each batch, the original above the reconstruction."""
    scores: dict[str, list[float]] = {f"{name}_{figure}": [] for name in sets for figure in ("psnr", "ssim")}
    pairs: list[Pair] = []
    for name, batches in sets.items():
        for number, batch in enumerate(batches):
            frames = to_float(batch)
            decoded = codec.decode(codec.encode(frames)).cpu()
            scores[f"{name}_psnr"] += psnr(decoded, frames).tolist()
            scores[f"{name}_ssim"] += ssim(decoded, frames).tolist()
            pairs.append(Pair(f"{name} {number}", batch[0], to_uint8(decoded[0]), 1.0))
    write_picture(sheet, pairs)
    return {name: mean(values) for name, values in scores.items() if values}


@torch.no_grad()
def latent_statistics(vae: VideoVAE, batches: list[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over batches of frames."""
    latents = [vae.encode(to_float(b).to(vae.device, vae.dtype)).latent_dist.mode().float() for b in batches]
    flat = torch.cat([rearrange(z, "b c t h w -> (b t h w) c") for z in latents])
    return flat.mean(0).tolist(), flat.std(0).tolist()


def averaged_vae(
    vae: VideoVAE, state: dict[str, Tensor], batches: list[Tensor] | None, device: torch.device
) -> VideoVAE:
    """A copy of ``vae`` with the averaged weights, as bf16 holds them. The statistics of its latents are those of
    ``batches``; None keeps those of ``vae``."""
    weights = {name.removeprefix("vae."): tensor for name, tensor in state.items()}
    copy = VideoVAE.from_config(vae.config)
    copy.load_state_dict(weights)
    copy = copy.bfloat16().to(device=device, dtype=fast_dtype(device)).eval()
    if batches is not None:
        mean, std = latent_statistics(copy, batches)
        copy.register_to_config(latents_mean=mean, latents_std=std)
    return copy


def build_vae(config: VAEConfig) -> VideoVAE:
    """An autoencoder with random weights, or that of the model or run in the folder ``train.init_from``.

    Raises:
        ValueError: there is no autoencoder there, or ``model.*`` says otherwise.
    """
    torch.manual_seed(config.seed)
    if not (folder := config.train.init_from):
        return VideoVAE(**asdict(config.model))
    vae = LatentCodec.from_pretrained(folder).vae
    if not isinstance(vae, VideoVAE):
        raise ValueError(f"train.init_from={folder} holds a {type(vae).__name__}: this program trains a VideoVAE")
    check_start("model", asdict(config.model), vae.config, folder)
    vae.encoder.requires_grad_(not config.freeze_encoder)
    return vae.train()


def train(config: VAEConfig, vae: VideoVAE, stop: Stop) -> None:
    """The whole run: resume, step, log, validate, save. When ``stop`` is asked on any rank, all end the step, save and
    return."""
    rank, world = dist.get_rank(), dist.get_world_size()
    run_dir = Path(config.run_dir)
    module = Autoencode(vae, config.losses)
    engine = initialize(module, config.train)
    perceptual = LPIPS.from_folder(config.losses.lpips_weights).to(engine.device) if config.losses.lpips else None
    ema = EMA(engine, config.train.ema_decay)
    start = resume(engine, ema, run_dir)

    nothing_to_read = f"data.manifest={config.data.manifest}: no clip of a batch's size can be read: mend it"
    crops = Crops(config.data, config.seed, "train", ranks=world)
    loader = load_ahead(crops, rank_positions(start, config.train.max_steps, 1, rank, world), config.data.workers)
    if rank == 0:
        save_config(config, run_dir / "config.yaml")
        validation = held_out(config.data, config.seed)
        statistics = None if config.freeze_encoder else clips_as_trained(config.data, config.seed)
        if statistics == []:
            raise ValueError(nothing_to_read)
    progress = Progress(run_dir, start, config.train.max_steps, show=rank == 0, wandb=config.train.wandb)

    def publish(done: int, folder: Path) -> None:
        """Write and measure the averaged weights of a checkpoint; all ranks call it."""
        weights = averaged_weights(module, folder)
        if rank == 0:
            averaged = averaged_vae(vae, weights, statistics, engine.device)
            with replace_folder(run_dir / "vae") as draft:
                averaged.bfloat16().save_pretrained(draft)
            averaged.to(fast_dtype(engine.device))
            scores = validate(LatentCodec(averaged), validation, run_dir / "validation.png")
            progress.record(done, {f"validation/{name}": score for name, score in scores.items()})
            progress.say(f"step {done}: " + ", ".join(f"{name} {score:.4g}" for name, score in scores.items()))
            progress.plot("train/loss", f"validation/{'world' if 'world' in validation else 'real'}_psnr")
        dist.barrier()

    last = checkpoint_folder(run_dir, start)
    if start >= config.train.max_steps and not is_newer(run_dir / "vae", last):  # it was stopped in between
        publish(start, last)
    for step, batch in enumerate(loader, start=start):
        if not len(batch):
            raise ValueError(nothing_to_read)
        set_learning_rate(engine, config.train, step)
        generator = keyed_generator(config.seed, step * world + rank, "noise")
        loss, terms = engine(to_float(batch).to(engine.device), generator, perceptual)
        figures = torch.stack([loss.detach(), *terms.values()]).tolist()  # at once: each by itself would wait for CUDA
        if not math.isfinite(figures[0]):
            raise FloatingPointError(f"the loss is {figures[0]} at step {step} on rank {rank}")
        engine.backward(loss)
        engine.step()
        ema.update(engine, step)
        done = step + 1
        progress.step(done, dict(zip(["loss", *terms], figures, strict=True)))
        stopping = global_sum(stop.asked, engine.device) > 0
        if stopping or done == config.train.max_steps or done % config.train.save_every == 0:
            folder = save_checkpoint(engine, ema, run_dir, done)
            progress.flush()
            if stopping:
                break
            publish(done, folder)
    progress.close()


def main() -> int:
    """Exit code 2 for what the user got wrong, 1 for what failed."""
    try:
        config = config_from_command_line(VAEConfig, __doc__.splitlines()[0])
        checked_folder(f"run_dir={config.run_dir}", Path(config.run_dir))
        vae = build_vae(config)
        with process_group(), stop_on_sigterm() as stop:
            train(config, vae, stop)
    except ValueError as error:
        print(f"train_vae.py: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError, SafetensorError) as error:
        if not (line := failure_line(error)):
            raise
        print(f"\ntrain_vae.py: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
