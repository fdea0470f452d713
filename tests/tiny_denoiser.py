"""A text encoder and a transformer that are trained in milliseconds, and their packs, as several test files take them
through the engine."""

from collections.abc import Callable

import torch
from deepspeed import comm as dist
from torch.distributed import ProcessGroup

from data.packing import View, rank_positions
from vae3d import LatentCodec, VideoVAE
from video_dit import VideoDiT
from video_dit.batch import Pack, build_pack
from video_dit.context import ContextConfig
from video_dit.denoiser import Denoiser
from video_dit.engine import Engine, TrainConfig, set_learning_rate
from video_dit.noise import NoiseConfig
from video_dit.sequence_parallel import split_pack
from video_dit.tally import StepTally
from video_dit.text import TextConfig, byte_t5

SHAPES = [(3, 4, 4), (1, 2, 6), (5, 6, 2), (2, 4, 8), (4, 2, 2)]  # latent frames, height, width


def denoiser() -> Denoiser:
    """All parameters random: a transformer that was just built gives zeros."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        tokenizer, encoder = byte_t5(TextConfig(max_length=24, width=16, num_layers=1, num_heads=2, hidden=32))
        transformer = VideoDiT(
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            text_dim=16,
            sample_sizes=[[32, 32]],
            sample_latent_frames=3,
            base_tokens=4,
        )
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return Denoiser(transformer, tokenizer, encoder)


def codec() -> LatentCodec:
    """A small autoencoder of as many channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        vae = VideoVAE(
            latent_channels=4,
            encoder_width=16,
            encoder_depth=1,
            decoder_width=16,
            decoder_depth=1,
            thin_width=8,
            thin_depth=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    return LatentCodec(vae.eval())


def pack(position: int) -> Pack:
    """Two to four clips of random latents, which are a function of the position."""
    clips = []
    for index in range(position, position + 2 + position % 3):
        t, h, w = SHAPES[index % len(SHAPES)]
        g = torch.Generator().manual_seed(index)
        encoded = {
            "latents": torch.randn(4, t, h, w, generator=g).bfloat16(),
            "keyframe": torch.randn(4, 1, h, w, generator=g).bfloat16(),
            "keyframe_frame": torch.tensor(1),
            "cold": torch.randn(4, t, h, w, generator=g).bfloat16(),
            "cold_start": torch.tensor(0),
            "frame_rate": torch.tensor(8.0),
        }
        clips.append((View(index, 0, 0, t, False, t * h * w // 4), encoded, f"clip {index}"))
    tokenizer, _ = byte_t5(TextConfig(max_length=24, width=16, num_layers=1, num_heads=2, hidden=32))
    return build_pack(clips, position, 0, 4, 2, 4, ContextConfig(), NoiseConfig(), tokenizer)


def steps(
    engine: Engine,
    config: TrainConfig,
    first: int,
    stop: int,
    group: ProcessGroup | None = None,
    make: Callable[[int], Pack] = pack,
) -> list[float]:
    """Train as train.py does; the losses. ``make`` gives the pack of a position."""
    rank, world = (n // config.sequence_parallel for n in (dist.get_rank(), dist.get_world_size()))
    losses = []
    for step in range(first, stop):
        set_learning_rate(engine, config, step)
        packs = [split_pack(make(at), group) for at in rank_positions(step, step + 1, config.accumulation, rank, world)]
        tally = StepTally(packs, {}, {}, engine.device)
        for each in packs:
            errors = engine(each.to(engine.device))
            tally.add(each, errors)
            engine.backward(errors.sum() * tally.scale)
            engine.step()
        losses.append(tally.totals().loss)
    return losses
