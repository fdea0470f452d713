"""Frames as diffusers' pipelines give them."""

from dataclasses import dataclass

import numpy as np
from diffusers.utils.outputs import BaseOutput
from einops import rearrange
from PIL import Image
from torch import Tensor

OUTPUT_TYPES = ("np", "pt", "pil", "latent")

Videos = np.ndarray | Tensor | list[list[Image.Image]]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """frames: by output type, "np" ``(b, t, h, w, c)`` in [0, 1], "pt" ``(b, t, c, h, w)`` in [0, 1], "pil" a list of
    lists of images, "latent" ``(b, c, t, h, w)`` normalised."""

    frames: Videos


@dataclass
class InterpolationOutput(VideoPipelineOutput):
    """round_trips: for each of the two videos, the PSNR in dB of what its noise leads back to (see `Inversion`)."""

    round_trips: tuple[float, float]


def check_output_type(output_type: str) -> None:
    """Raises ValueError unless it is one of `OUTPUT_TYPES`."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} must be one of {', '.join(OUTPUT_TYPES)}")


def check_frames_output(output_type: str) -> None:
    """Raises ValueError unless it is one that frames are given in; given ones have no latents."""
    check_output_type(output_type)
    if output_type == "latent":
        raise ValueError("output_type='latent' is not offered here: use 'np', 'pt' or 'pil'")


def to_output(frames: Tensor, output_type: str) -> Videos:
    """Frames ``(b, c, t, h, w)`` in [-1, 1] as "np", "pt" or "pil"."""
    unit = rearrange((frames.float() + 1) / 2, "b c t h w -> b t c h w").clamp(0, 1)
    if output_type == "pt":
        return unit
    array = rearrange(unit, "b t c h w -> b t h w c").cpu().numpy()
    if output_type == "np":
        return array
    levels = (array * 255).round().astype(np.uint8)
    return [[Image.fromarray(frame) for frame in clip] for clip in levels]
