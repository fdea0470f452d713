"""Train the video autoencoder: ``deepspeed tools/train_vae.py --config vae_tiny.yaml [section.key=value …]``.

Writes into ``run_dir``: ``vae/`` (averaged weights with the statistics of their latents, for `LatentCodec`),
``checkpoints/`` (the same command resumes from them), ``tensorboard/`` and ``validation.png``.
"""

import logging
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import deepspeed
import torch
from deepspeed import comm as dist
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.dataset import ClipShape, ClipSource, ManifestClips, WorldClips
from data.latents import TensorCache
from data.packing import load_ahead, rank_positions
from data.seeding import draw_integer, keyed_generator
from data.sheet import write_contact_sheet
from data.transforms import to_float, to_uint8
from vae3d import LatentCodec, VideoVAE
from vae3d.losses import Equivariance, LossWeights, psnr, reconstruction_loss
from video_dit.config import check_start, config_from_command_line, save_config
from video_dit.ema import EMA
from video_dit.engine import (
    TrainConfig,
    averaged_weights,
    checkpoint_folder,
    initialize,
    is_newer,
    learning_rate,
    replace_folder,
    resume,
    save_checkpoint,
    set_learning_rate,
)
from video_dit.layers import fast_dtype
from video_dit.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `VideoVAE`."""

    latent_channels: int = 8
    time_factor: int = 4
    space_factor: int = 8
    wavelet_levels: int = 1
    width: int = 256
    encoder_depth: int = 2
    decoder_depth: int = 4
    ratio: float = 3.0
    thin_width: int = 32
    thin_depth: int = 2


@dataclass(frozen=True)
class CropConfig:
    """What batches are cut from. A batch is ``[clips, frames, height, width]``, drawn anew for each step."""

    world_clips: int = 300
    world_frames: int = 33
    world_sizes: list[list[int]] = field(default_factory=lambda: [[64, 64], [128, 128]])
    manifest: str = ""
    """Real clips (rows of split ``train``); empty trains on the world alone."""
    manifest_frames: int = 65
    manifest_sizes: list[list[int]] = field(default_factory=lambda: [[160, 160], [160, 224], [160, 288], [224, 160]])
    frame_rate: float = 8.0
    world_share: float = 0.5
    """Share of batches from the world when there is a manifest."""
    batches: list[list[int]] = field(default_factory=lambda: [[4, 17, 128, 128], [16, 17, 64, 64], [32, 1, 128, 128]])
    equivariance: float = 0.0
    """Share of steps that decode transformed latents to transformed frames."""
    cache: str = "cache/frames"
    workers: int = 1


@dataclass(frozen=True)
class VAEConfig:
    """Everything a run of this program depends on.

    Raises:
        ValueError: a value is out of its range, or ``data.batches`` does not fit the model's factors.
    """

    run_dir: str = "runs/vae"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    data: CropConfig = field(default_factory=CropConfig)

    def __post_init__(self) -> None:
        if self.train.accumulation != 1:
            raise ValueError("train.accumulation is not for the autoencoder: leave it out")
        r, s = self.model.time_factor, self.model.space_factor
        if min(r, s) < 1:
            raise ValueError(f"model.time_factor={r} and model.space_factor={s} must both be at least 1")
        for batch in self.data.batches:
            if len(batch) != 4 or min(batch) < 1:
                raise ValueError(f"data.batches has {list(batch)}: each must be [clips, frames, height, width]")
            if (batch[1] - 1) % r or batch[2] % s or batch[3] % s:
                raise ValueError(
                    f"data.batches has {list(batch)}: frames must be 1 + {r}k, height and width multiples of {s}"
                )


class Crops(Dataset):
    """Batch ``position``: uint8 frames ``(b, t, h, w, 3)``, a pure function of (seed, position).

    It holds no clip where none of those that are large enough can be read.

    Raises:
        ValueError: no clip is large enough for a batch.
    """

    def __init__(self, config: CropConfig, time_factor: int, seed: int, split: str) -> None:
        self.config, self.seed = config, seed
        self.cache = TensorCache(Path(config.cache) if config.cache else None, space="frames")
        rate = config.frame_rate
        world = WorldClips(split, config.world_clips, config.world_frames, config.world_sizes, [rate])
        self.sources: list[ClipSource] = [world]
        if config.manifest and split == "train":
            sizes, frames = config.manifest_sizes, config.manifest_frames
            self.sources.append(ManifestClips(config.manifest, split, frames, sizes, rate, time_factor))
        self.damaged: set[tuple[ClipSource, int]] = set()  # reported, and not opened again
        self.shapes = [[source.shape(index) for index in range(len(source))] for source in self.sources]
        for _, frames, height, width in config.batches:
            for shapes in self.shapes:
                if not any(_holds(shape, frames, height, width) for shape in shapes):
                    raise ValueError(f"data.batches: no clip has {frames} frames of {height}x{width}: ask for less")

    def __getitem__(self, position: int) -> Tensor:
        generator = keyed_generator(self.seed, position, "batch")
        batch, frames, height, width = self.config.batches[draw_integer(len(self.config.batches), generator)]
        from_world = len(self.sources) == 1 or torch.rand((), generator=generator) < self.config.world_share
        source, shapes = self.sources[not from_world], self.shapes[not from_world]
        fitting = [index for index, shape in enumerate(shapes) if _holds(shape, frames, height, width)]
        crops: list[Tensor] = []
        while len(crops) < batch:
            if not fitting:
                return torch.empty(0, frames, height, width, 3, dtype=torch.uint8)
            index = fitting[draw_integer(len(fitting), generator)]
            if (clip := self._frames(source, index)) is None:
                fitting.remove(index)
                continue
            t, y, x = (
                draw_integer(size - crop + 1, generator)
                for size, crop in zip(clip.shape[:3], (frames, height, width), strict=True)
            )
            crops.append(clip[t : t + frames, y : y + height, x : x + width])
        return torch.stack(crops)

    def _frames(self, source: ClipSource, index: int) -> Tensor | None:
        """The clip ``(t, h, w, 3)``, or None where its file is damaged or gone."""
        if (source, index) in self.damaged:
            return None
        try:
            key = source.key(index)
            if (stored := self.cache.get(key)) is not None:
                return stored[0]["frames"]
            clip = source.load(index)
        except (ValueError, OSError) as error:  # `data.video.VideoError`, or the file is gone
            logger.warning("left out: %s", error)
            self.damaged.add((source, index))
            return None
        self.cache.put(key, {"frames": clip.frames}, clip.text)
        return clip.frames


def _holds(shape: ClipShape, frames: int, height: int, width: int) -> bool:
    return shape.num_frames >= frames and shape.height >= height and shape.width >= width


class Autoencode(nn.Module):
    """The autoencoder with its loss, as one module for DeepSpeed."""

    def __init__(self, vae: VideoVAE, weights: LossWeights) -> None:
        super().__init__()
        self.vae = vae
        self.weights = weights

    def forward(
        self, frames: Tensor, transform: Equivariance | None, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch ``(b, 3, t, h, w)`` in [-1, 1], and its terms; ``generator`` draws the latents."""
        posterior = self.vae.encode(frames).latent_dist
        latents, target = posterior.sample(generator), frames
        if transform is not None:
            latents, target = transform.latents(latents), transform.frames(frames, self.vae.config.space_factor)
        prediction = self.vae.decode(latents).sample
        return reconstruction_loss(prediction, target, posterior, self.vae.config.time_factor, self.weights)


@torch.no_grad()
def reconstruct(vae: VideoVAE, frames: Tensor) -> Tensor:
    """Frames ``(b, 3, t, h, w)`` through the mean of their latents, in [-1, 1]."""
    return vae.forward(frames.to(vae.device, vae.dtype)).sample.float().clamp(-1, 1).cpu()


def validate(vae: VideoVAE, batches: list[Tensor], sheet: Path) -> float:
    """Mean PSNR over fixed batches; writes original above reconstruction for the first clip of the first."""
    scores: list[float] = []
    for number, batch in enumerate(batches):
        frames = to_batch(batch)
        decoded = reconstruct(vae, frames)
        scores.append(float(psnr(decoded, frames).mean()))
        if number == 0:
            pair = torch.cat([frames[0], decoded[0]], dim=2)  # c t (2 h) w
            write_contact_sheet(sheet, to_uint8(pair), 8.0, columns=4)
    return sum(scores) / len(scores)


def to_batch(frames: Tensor) -> Tensor:
    """uint8 ``(b, t, h, w, 3)`` to float ``(b, 3, t, h, w)`` in [-1, 1]."""
    b = frames.shape[0]
    return rearrange(to_float(rearrange(frames, "b t h w c -> (b t) h w c")), "c (b t) h w -> b c t h w", b=b)


@torch.no_grad()
def latent_statistics(vae: VideoVAE, batches: list[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over batches of frames."""
    latents = [vae.encode(to_batch(b).to(vae.device, vae.dtype)).latent_dist.mode().float() for b in batches]
    flat = torch.cat([rearrange(z, "b c t h w -> (b t h w) c") for z in latents])
    return flat.mean(0).tolist(), flat.std(0).tolist()


def averaged_vae(vae: VideoVAE, state: dict[str, Tensor], batches: list[Tensor], device: torch.device) -> VideoVAE:
    """A copy of ``vae`` with the averaged weights, as bf16 holds them, and the statistics of its latents."""
    weights = {name.removeprefix("vae."): tensor for name, tensor in state.items()}
    copy = VideoVAE.from_config(vae.config)
    copy.load_state_dict(weights)
    copy = copy.bfloat16().to(device=device, dtype=fast_dtype(device)).eval()
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
    vae = LatentCodec.from_pretrained(folder).vae.train()
    check_start(asdict(config.model), vae.config, folder)
    return vae


def train(config: VAEConfig) -> None:
    """The whole run: build, resume, step, log, validate, save."""
    vae = build_vae(config)
    deepspeed.init_distributed()
    rank, world = dist.get_rank(), dist.get_world_size()
    run_dir = Path(config.run_dir)
    module = Autoencode(vae, config.losses)
    engine = initialize(module, config.train)
    ema = EMA(engine, config.train.ema_decay)
    start = resume(engine, ema, run_dir)

    nothing_to_read = f"data.manifest={config.data.manifest}: no clip of a batch's size can be read: mend it"
    crops = Crops(config.data, config.model.time_factor, config.seed, "train")
    held = Crops(config.data, config.model.time_factor, config.seed, "val")
    loader = load_ahead(crops, rank_positions(start, config.train.max_steps, 1, rank, world), config.data.workers)
    if rank == 0:
        save_config(config, run_dir / "config.yaml")
        validation = [held[position] for position in range(8)]
        statistics = [batch for position in range(16) if len(batch := crops[position])]
        if not statistics:
            raise ValueError(nothing_to_read)
    progress = Progress(run_dir, start, config.train.max_steps, show=rank == 0)

    def publish(done: int, folder: Path) -> None:
        """Write and measure the averaged weights of a checkpoint."""
        if rank == 0:
            averaged = averaged_vae(vae, averaged_weights(module, folder), statistics, engine.device)
            with replace_folder(run_dir / "vae") as draft:
                averaged.bfloat16().save_pretrained(draft)
            averaged.to(fast_dtype(engine.device))
            score = validate(averaged, validation, run_dir / "validation.png")
            progress.record(done, {"validation/psnr": score})
            progress.say(f"step {done}: validation PSNR {score:.2f} dB")
            progress.plot("train/loss", "validation/psnr")
        dist.barrier()

    last = checkpoint_folder(run_dir, start)
    if start >= config.train.max_steps and not is_newer(run_dir / "vae", last):  # it was stopped in between
        publish(start, last)
    for step, batch in enumerate(loader, start=start):
        if not len(batch):
            raise ValueError(nothing_to_read)
        set_learning_rate(engine, learning_rate(config.train, step))
        generator = keyed_generator(config.seed, step * world + rank, "noise")
        transformed = torch.rand((), generator=generator) < config.data.equivariance
        transform = Equivariance.draw(generator) if transformed else None
        loss, terms = engine(to_batch(batch).to(engine.device, vae.dtype), transform, generator)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step} on rank {rank}")
        engine.backward(loss)
        engine.step()
        ema.update(engine, step)
        done = step + 1
        progress.step(done, {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}})
        if done == config.train.max_steps or done % config.train.save_every == 0:
            publish(done, save_checkpoint(engine, ema, run_dir, done))
    progress.close()


def main() -> int:
    """Exit code 2 for what the user got wrong."""
    try:
        train(config_from_command_line(VAEConfig, __doc__.splitlines()[0]))
    except ValueError as error:
        print(f"train_vae.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
