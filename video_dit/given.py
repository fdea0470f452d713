"""What may be said of a given video: the arguments that all methods of `VideoPipeline` about one have in common."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from video_dit.request import Mode, PromptSchedule, VideoRequest
from video_dit.sampling import Generators, SamplingConfig

Frames = Tensor | np.ndarray
"""uint8 ``(t, h, w, 3)``."""


class SamplingOptions(TypedDict, total=False):
    """prompt: what the video shows; a schedule counts from the start of the whole video. negative_prompt: what guidance
    leads away from, the empty text by default. frame_rate: of the frames; default: the model's. generator: of the
    noise. context_seconds: of the video that each window sees; default: half a window. The others are those of
    `SamplingConfig`."""

    prompt: str | PromptSchedule
    negative_prompt: str
    frame_rate: float | None
    num_inference_steps: int
    guidance_scale: float | None
    generator: Generators
    context_seconds: float | None
    context_level: float
    guidance_interval: tuple[float, float]
    history_guidance: float
    step_cache: float


class GivenOptions(SamplingOptions, total=False):
    """And what comes back. output_type: "np", "pt" or "pil" (see `VideoPipelineOutput`); "latent" is not offered, since
    given frames have none. callback_on_step_end: see `video_dit.pipeline.Callback`. return_dict: False returns a tuple.
    """

    output_type: str
    callback_on_step_end: Callable[..., dict] | None
    return_dict: bool


def given_request(
    mode: Mode,
    frames: Frames,
    frame_rate: float,
    options: GivenOptions,
    second: Frames | None = None,
    seconds: float = 0.0,
    strength: float = 1.0,
    mask: Frames | None = None,
    source_prompt: str | PromptSchedule | None = None,
    fraction: float = 0.5,
) -> VideoRequest:
    """A request about given video; see `VideoRequest`. frame_rate: where ``options`` say none. mask: as `as_mask` takes
    it.

    Raises:
        TypeError: there is no such option.
        ValueError: a value is out of its range.
    """
    video = torch.as_tensor(frames).cpu()
    return VideoRequest(
        mode,
        (PromptSchedule.of(options.get("prompt", "")),),
        (options.get("negative_prompt", ""),),
        frame_rate if (rate := options.get("frame_rate")) is None else rate,
        _sampling_of(options),
        options.get("context_seconds"),
        options.get("generator"),
        video=video,
        second=None if second is None else torch.as_tensor(second).cpu(),
        seconds=seconds,
        strength=strength,
        mask=None if mask is None else as_mask(mask, len(video)),
        source_prompt=None if source_prompt is None else PromptSchedule.of(source_prompt),
        fraction=fraction,
    )


def _sampling_of(options: GivenOptions) -> SamplingConfig:
    for name in options:
        if name not in GivenOptions.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    told: dict[str, Any] = dict(options)
    return SamplingConfig(**{field.name: told[field.name] for field in fields(SamplingConfig) if field.name in told})


def as_mask(mask: Frames, num_frames: int) -> Tensor:
    """A mask as bool ``(t, h, w)``, true where the video is to be made anew.

    Args:
        mask: one for all frames, ``(h, w)``, or one each, ``(t, h, w)``; bool, or uint8 that is true from 128 on, as
            white is in a picture.
    Raises:
        ValueError: it is of another type.
    """
    told = torch.as_tensor(mask).cpu()
    if told.dtype not in (torch.bool, torch.uint8) or told.ndim not in (2, 3):
        raise ValueError(f"mask of {told.dtype} {tuple(told.shape)} must be bool or uint8, (h, w) or (t, h, w)")
    if told.dtype == torch.uint8:
        told = told > 127
    return told.expand(num_frames, *told.shape) if told.ndim == 2 else told
