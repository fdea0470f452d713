"""What the averaged weights make of the first clip that is not trained on: its start, continued."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Clip, ClipSource
from video_dit.pipeline import VideoPipeline
from video_dit.request import PromptSchedule
from video_dit.sampling import SamplingConfig
from video_dit.stopping import Stop
from video_dit.validation import write_clip


def write_continuation(
    pipe: VideoPipeline,
    source: ClipSource,
    folder: Path,
    step: int,
    stop: Stop,
    sampling: SamplingConfig | None = None,
) -> None:
    """Half a window of the first clip that can be read, and what the model makes of the other half, always from seed 0:
    ``step-N-continued.png``, and an mp4 beside it.

    Nothing is written where the model makes single images, or no clip can be read or is long enough.

    Raises:
        StoppedError: it was asked to end.
    """
    r, _ = pipe.codec.frame_rule
    groups = pipe.window - 1  # of r frames
    found = first_clip(source, 1 + r) if groups else None  # a source of single images would be read to its end
    if found is None:
        return
    index, clip = found
    known = clip.frames[: 1 + r * max(1, groups // 2)]
    pipe.set_progress_bar_config(disable=True)
    sampling = sampling or SamplingConfig()
    output: Any = pipe.extend(
        known,
        "forward",
        seconds=max(1, groups - groups // 2) * r / clip.frame_rate,
        prompt=PromptSchedule.plain(source.text(index, 0)),
        frame_rate=clip.frame_rate,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        callback_on_step_end=stop.on_step_end,
    )
    levels = (output.frames[0] * 255).round().astype("uint8")
    given = np.arange(len(levels)) < len(known)
    write_clip(folder / f"step-{step:07d}-continued.png", levels, clip.frame_rate, given)


def first_clip(source: ClipSource, num_frames: int) -> tuple[int, Clip] | None:
    """The first that can be read and has so many frames, with its index."""
    return next((found for found in readable_clips(source) if len(found[1].frames) >= num_frames), None)


def readable_clips(source: ClipSource) -> Iterator[tuple[int, Clip]]:
    """Those that can be read, with their index, in order."""
    for index in range(len(source)):
        try:
            clip = source.load(index)
        except (ValueError, OSError):  # `data.video.VideoError`, or the file is gone
            continue
        yield index, clip
