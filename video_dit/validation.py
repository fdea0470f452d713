"""What a run shows of its averaged weights at each checkpoint: the loss on unseen clips, and sample videos."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed import comm as dist

from data.sheet import write_contact_sheet
from video_dit.denoiser import Denoiser
from video_dit.pack_factory import PackFactory
from video_dit.pipeline import VideoPipeline


def global_sums(values: Sequence[float], device: torch.device) -> list[float]:
    """Sums over all ranks."""
    totals = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return totals.tolist()


def global_sum(value: float, device: torch.device) -> float:
    """Sum over all ranks."""
    return global_sums([value], device)[0]


@torch.no_grad()
def validation_loss(denoiser: Denoiser, factory: PackFactory, rank: int, world: int, device: torch.device) -> float:
    """Mean loss over the fixed packs of the validation set, each on one rank."""
    error = count = 0.0
    for position in range(rank, factory.config.data.validation_packs, world):
        pack = factory.build(factory.packs[position], position).to(device)
        error += float(denoiser(pack).sum())
        count += pack.loss_elements
    return global_sum(error, device) / global_sum(count, device)


def write_samples(
    pipe: VideoPipeline, prompts: list[str], folder: Path, step: int, rank: int = 0, world: int = 1
) -> None:
    """One video of the trained window and its contact sheet for each prompt, always from seed 0; the prompts are shared
    out over ranks."""
    pipe.set_progress_bar_config(disable=True)
    for number in range(rank, len(prompts), world):
        generator = torch.Generator().manual_seed(0)
        output: Any = pipe(prompt=prompts[number], generator=generator, output_type="np")
        levels = (output.frames[0] * 255).round().astype("uint8")
        write_clip(folder / f"step-{step:07d}-{number}.png", levels, pipe.frame_rate)


def write_clip(sheet: Path, frames: np.ndarray, frame_rate: float, known: np.ndarray | None = None) -> None:
    """A contact sheet of uint8 frames ``(t, h, w, 3)`` and, beside it, an mp4.

    Where PyAV is not installed, as on some training machines, there is the sheet alone.

    Args:
        known: which frames were given, ``(t,)`` bool.
    """
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_contact_sheet(sheet, frames, frame_rate, known=known)
    if find_spec("av") is not None:
        from data.video import write_video

        write_video(sheet.with_suffix(".mp4"), frames, frame_rate)
