"""Where made frames meet given ones: what the codec lost of a given frame fades out over the made ones beside it.

Without it, brightness, tint and sharpness jump at the seam. The finest details are left out, as they would stay behind
what moves; with a blur of an eighth of the short side, so of tint alone, the step at the join was up to twice as large,
and the frames no nearer to the truth (docs/sampling.md).
"""

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

SEAM_SECONDS = 0.5
BLUR = 1 / 64
"""Sigma of what is left out, in short sides of the picture."""
BORDER = 1 / 32
"""Sigma of what fades out inside a mask, in the same."""


def fade_seams(chunks: Iterator[Tensor], given: Mapping[int, Tensor], frame_rate: float) -> Iterator[Tensor]:
    """Decoded frames with given ones in their place, and no jump beside these.

    Args:
        chunks: frames ``(b, c, t, h, w)`` in [-1, 1] in order of time, as they are decoded.
        given: by their number, frames ``(b, c, h, w)`` that are known.
    Yields:
        The same frames in chunks of other lengths: those within half a second before a given frame are held back until
        that is decoded.
    """
    reach = math.ceil(SEAM_SECONDS * frame_rate)
    residuals: dict[int, Tensor] = {}  # low-pass, of those that are decoded
    waiting: Tensor | None = None
    begin = 0  # number of the first frame that waits
    for chunk in chunks:
        waiting = chunk if waiting is None else torch.cat([waiting, chunk], dim=2)
        end = begin + waiting.shape[2]
        for place, frame in given.items():
            if begin <= place < end and place not in residuals:
                residual = frame.to(waiting) - waiting[:, :, place - begin]
                residuals[place] = low_pass(residual, min(waiting.shape[3:]) * BLUR)
        until = min([end, *(place - reach for place in given if place >= end)])
        if until > begin:
            yield _faded(waiting[:, :, : until - begin], begin, given, residuals, frame_rate)
            waiting, begin = waiting[:, :, until - begin :], until
    if waiting is not None and waiting.shape[2]:
        yield _faded(waiting, begin, given, residuals, frame_rate)


def _faded(
    frames: Tensor, begin: int, given: Mapping[int, Tensor], residuals: Mapping[int, Tensor], frame_rate: float
) -> Tensor:
    """Frames ``(b, c, t, h, w)`` from number ``begin`` on."""
    numbers = torch.arange(begin, begin + frames.shape[2], device=frames.device, dtype=frames.dtype)
    weights = {
        place: (1 - (numbers - place).abs() / (SEAM_SECONDS * frame_rate + 1)).clamp_min(0) for place in residuals
    }
    most = torch.stack([torch.ones_like(numbers), sum(weights.values(), torch.zeros_like(numbers))]).amax(dim=0)
    for place, residual in residuals.items():  # between two, a mean of both
        frames = frames + (weights[place] / most).view(-1, 1, 1) * residual[:, :, None]
    frames = frames.clamp(-1, 1)
    for place, frame in given.items():
        if begin <= place < begin + frames.shape[2]:
            frames[:, :, place - begin] = frame.to(frames)
    return frames


def fade_border(frames: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """Given frames with others inside a mask, which take on there, near its border, how those given differ from them.

    Args:
        frames: made and decoded, ``(b, c, t, h, w)`` in [-1, 1]. given: what they were made from, of the same shape.
        mask: bool ``(t, h, w)``, true where frames are made.
    """
    b, t = frames.shape[0], frames.shape[2]
    kept = repeat((~mask).to(frames), "t h w -> (b t) 1 h w", b=b)
    residual = rearrange(given - frames, "b c t h w -> (b t) c h w") * kept
    sigma = min(frames.shape[3:]) * BORDER
    near = low_pass(kept, sigma)  # a half at a straight border
    fading = low_pass(residual, sigma) / near.clamp_min(1e-6) * (2 * near).clamp_max(1)
    faded = (frames + rearrange(fading, "(b t) c h w -> b c t h w", t=t)).clamp(-1, 1)
    return torch.where(mask, faded, given)


def low_pass(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``(b, c, h, w)`` with edges repeated; sigma in pixels."""
    radius = int(3 * sigma) + 1
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum()
    b = len(images)
    flat = rearrange(images, "b c h w -> (b c) 1 h w")
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return rearrange(flat, "(b c) 1 h w -> b c h w", b=b)
