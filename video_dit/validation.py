"""What a run shows of its averaged weights at each checkpoint: the loss on unseen clips, and sample videos."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.sheet import write_contact_sheet
from video_dit.denoiser import Denoiser
from video_dit.engine import global_sum, global_sums
from video_dit.pack_factory import PackFactory
from video_dit.pipeline import VideoPipeline
from video_dit.sampling import SamplingConfig
from video_dit.stopping import Stop, StoppedError

logger = logging.getLogger(__name__)


@contextmanager
def failures_told(what: str) -> Iterator[None]:
    """Pass over a failure, as of the disk or for want of memory, and tell of it: samples are not worth a run."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        logger.warning("%s: not made: %s", what, " ".join(str(error).split()) or type(error).__name__)


@torch.no_grad()
def validation_loss(
    denoiser: Denoiser, factory: PackFactory, rank: int, world: int, device: torch.device, stop: Stop
) -> float:
    """Mean loss over the fixed packs of the validation set, shared out over the ranks; all ranks call it.

    Raises:
        StoppedError: on all ranks, when one was asked to end.
    """
    error = count = 0.0
    for position in range(rank, factory.config.data.validation_packs, world):
        if stop.asked:
            break
        pack = factory.build(factory.packs[position], position).pack.to(device)
        error += float(denoiser(pack).sum())
        count += pack.loss_elements
    error, count, asked = global_sums([error, count, stop.asked], device)
    if asked:
        raise StoppedError
    return error / count


def write_samples(
    pipe: VideoPipeline,
    prompts: Sequence[str],
    folder: Path,
    step: int,
    rank: int,
    world: int,
    stop: Stop,
    sampling: SamplingConfig | None = None,
) -> None:
    """One video of the trained window and its contact sheet for each prompt, always from seed 0; the prompts are shared
    out over the ranks, and all ranks call it.

    Raises:
        StoppedError: on all ranks, when one was asked to end.
    """
    pipe.set_progress_bar_config(disable=True)
    with suppress(StoppedError):
        for number in range(rank, len(prompts), world):
            sheet = folder / f"step-{step:07d}-{number}.png"
            with failures_told(sheet.name):
                _write_sample(pipe, prompts[number], sheet, stop, sampling or SamplingConfig())
    if global_sum(stop.asked, pipe.device):
        raise StoppedError


def _write_sample(pipe: VideoPipeline, prompt: str, sheet: Path, stop: Stop, sampling: SamplingConfig) -> None:
    stop.check()
    generator = torch.Generator().manual_seed(0)
    output: Any = pipe(
        prompt=prompt,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        generator=generator,
        output_type="np",
        callback_on_step_end=stop.on_step_end,
    )
    write_clip(sheet, (output.frames[0] * 255).round().astype("uint8"), pipe.frame_rate)


def write_clip(sheet: Path, frames: np.ndarray, frame_rate: float, known: np.ndarray | None = None) -> None:
    """A contact sheet of uint8 frames ``(t, h, w, 3)`` and, beside it, an mp4.

    There is the sheet alone of a single frame, and where PyAV is not installed, as on some training machines.

    Args:
        known: which frames were given, ``(t,)`` bool.
    """
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_contact_sheet(sheet, frames, frame_rate, known=known)
    if len(frames) > 1 and find_spec("av") is not None:
        from data.video import write_video

        write_video(sheet.with_suffix(".mp4"), frames, frame_rate)
