"""How near a reconstruction comes to its clip: pure functions of frames ``(b, 3, t, h, w)`` in [-1, 1], in fp32.

Each gives one figure a clip, ``(b,)``.
"""

import torch
from einops import rearrange
from torch import Tensor

SEEN = 1e-3
"""A mean difference below this, an eighth of a grey level, is nothing to be seen."""
CHUNK = 8  # frames whose SSIM is taken at a time: it needs about 20 times their memory


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip ``(b,)``, over all its values; 100 at most."""
    error = (prediction.float() - target.float()).square().flatten(1).mean(dim=1) / 4
    return -10 * error.clamp_min(1e-10).log10()


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity, at most 1, the mean over colours and frames; Gaussian windows of 11 x 11 pixels.

    Both sides of a frame have 6 pixels or more. Source: Wang et al., 2004, "Image quality assessment: from error
    visibility to structural similarity".
    """
    # imports transformers and matplotlib, which not all who take another figure from here need
    from torchmetrics.functional.image import structural_similarity_index_measure

    scores = []
    for one, other in zip(_pictures(prediction).split(CHUNK), _pictures(target).split(CHUNK), strict=True):
        score = structural_similarity_index_measure(one, other, data_range=2.0, reduction="none")
        assert isinstance(score, Tensor)  # not the pair that other options give
        scores.append(score.reshape(-1))
    return rearrange(torch.cat(scores), "(b t) -> b t", b=target.shape[0]).mean(dim=1)


def _pictures(frames: Tensor) -> Tensor:
    """In [0, 2]: the formula weighs the product of two means, which must not be negative."""
    return rearrange(frames.float() + 1, "b c t h w -> (b t) c h w")


def error_flicker(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean size of the change of the error from frame to frame, in [0, 1] of the range; t >= 2.

    Zero for an error that stands still; motion of the clip itself does not count, unlike in `data.world.score.flicker`,
    which has no original to compare with.
    """
    if target.shape[2] < 2:
        raise ValueError(f"a clip of {target.shape[2]} frames cannot flicker: give at least 2")
    error = (prediction.float() - target.float()) / 2
    return error.diff(dim=2).abs().mean(dim=(1, 2, 3, 4))


def blocking_in_time(frames: Tensor, r: int) -> Tensor:
    """Mean absolute difference of neighbouring frames across the borders of latent groups over that inside groups.

    The groups are frame 0, frames 1 to r, r + 1 to 2r, and so on. Motion makes it differ from 1 in the original too,
    so a reconstruction's is to be divided by its original's: 1 then means no blocking. In a still clip both
    differences count as `SEEN`: its ratio is 1, unless it pulses visibly.

    Raises:
        ValueError: there is no border, or nothing inside groups.
    """
    t = frames.shape[2]
    if r < 2 or t < 3:
        raise ValueError(f"{t} frames in groups of r={r} have no borders and insides: give at least 3, and r of 2")
    steps = frames.float().diff(dim=2).abs().mean(dim=(1, 3, 4))  # b (t - 1)
    border = torch.arange(t - 1, device=frames.device) % r == 0
    return _ratio(steps[:, border].mean(dim=1), steps[:, ~border].mean(dim=1))


def blocking_in_space(frames: Tensor, size: int) -> Tensor:
    """Mean absolute difference of neighbouring pixels across the borders of patches, which lie at multiples of
    ``size``, over that inside patches; both directions weigh alike.

    Divide and read it as `blocking_in_time`.

    Raises:
        ValueError: there is no border, or nothing inside patches.
    """
    h, w = frames.shape[3:]
    if size < 2 or min(h, w) <= size:
        raise ValueError(f"frames of {w}x{h} have no borders and insides of patches of size={size}: give larger frames")
    across, inside = frames.new_zeros(2, frames.shape[0], dtype=torch.float32)
    for dim in (3, 4):
        steps = frames.float().diff(dim=dim).abs().mean(dim=(1, 2, 7 - dim))  # b (h - 1), then b (w - 1)
        border = torch.arange(1, frames.shape[dim], device=frames.device) % size == 0
        across = across + steps[:, border].mean(dim=1) / 2
        inside = inside + steps[:, ~border].mean(dim=1) / 2
    return _ratio(across, inside)


def _ratio(across: Tensor, inside: Tensor) -> Tensor:
    return across.clamp_min(SEEN) / inside.clamp_min(SEEN)
