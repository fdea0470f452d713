"""What a run shows of its averaged weights at each checkpoint: the loss on unseen clips, and sample videos."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
        error += float(denoiser(pack))
        count += pack.loss_elements
    return global_sum(error, device) / global_sum(count, device)


def write_samples(pipe: VideoPipeline, prompts: list[str], folder: Path, step: int) -> None:
    """One video of the trained window and its contact sheet for each prompt, always from seed 0.

    There are sheets alone of a window of one frame, and where PyAV is not installed, as on some training machines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipe.set_progress_bar_config(disable=True)
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(0)
        output: Any = pipe(prompt=prompt, generator=generator, output_type="np")
        levels = (output.frames[0] * 255).round().astype("uint8")
        path = folder / f"step-{step:07d}-{number}.png"
        write_contact_sheet(path, levels, pipe.frame_rate)
        if len(levels) > 1 and find_spec("av") is not None:
            from data.video import write_video

            write_video(path.with_suffix(".mp4"), levels, pipe.frame_rate)
