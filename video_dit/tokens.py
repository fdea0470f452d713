"""Latents to packed tokens and back; where tokens stand in time and space; which sample they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Segments:
    """The samples of a pack, end to end.

    cu_seqlens: ``(s + 1,)`` int32, where each begins, and the end. bounds: the same on the host, always, so that no
    kernel waits for a device to know a length. split: where these tokens are one rank's slice of a pack.
    """

    cu_seqlens: Tensor
    bounds: Tensor
    split: "Split | None" = None

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> "Segments":
        """Segments of the given numbers of tokens, each at least 1."""
        assert lengths and min(lengths) > 0
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cpu")
        return cls(bounds.to(device), bounds)

    @property
    def count(self) -> int:
        """Number of segments."""
        return self.bounds.numel() - 1

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return self.bounds.diff().tolist()

    @property
    def max_length(self) -> int:
        """Tokens of the longest."""
        return max(self.lengths)

    def to(self, device: torch.device | str) -> "Segments":
        """The same on another device."""
        split = self.split and Split(self.split.segments.to(device), self.split.group)
        return Segments(self.cu_seqlens.to(device, non_blocking=True), self.bounds, split)


@dataclass(frozen=True)
class Split:
    """The segments of a whole pack, and the ranks that have a slice of its tokens each (see
    `video_dit.sequence_parallel`)."""

    segments: Segments
    group: ProcessGroup


def patchify(latents: Tensor, patch_size: int) -> Tensor:
    """Latents ``(b, c, t, h, w)`` to tokens ``(b, t·h/p·w/p, c·p·p)``, in order of time, row, column."""
    p = patch_size
    return rearrange(latents, "b c t (h ph) (w pw) -> b (t h w) (c ph pw)", ph=p, pw=p)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch_size: int) -> Tensor:
    """Inverse of `patchify`; ``grid`` is (t, h / p, w / p)."""
    t, h, w = grid
    p = patch_size
    return rearrange(tokens, "b (t h w) (c ph pw) -> b c t (h ph) (w pw)", t=t, h=h, w=w, ph=p, pw=p)


def latent_times(num_latent_frames: int, frame_rate: float, r: int, starts_clip: bool) -> Tensor:
    """Times in seconds ``(t,)`` of consecutive latent frames.

    A one-frame latent (the first, when ``starts_clip``) stands at its frame's time, any other at the mean time
    of its r frames. Time 0 is the first pixel frame.
    """
    index = torch.arange(num_latent_frames, dtype=torch.float32)
    if starts_clip:
        frames = index * r - (r - 1) / 2
        frames[0] = 0
    else:
        frames = index * r + (r - 1) / 2
    return frames / frame_rate


def grid_coords(times: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """Coordinates ``(t·h/p·w/p, 3)`` fp32 of the tokens of latents of ``height`` × ``width`` latent pixels.

    Time in seconds; the patch's centre in latent pixels, counted from the grid's centre.
    """
    rows = (torch.arange(height // patch_size, dtype=torch.float32) + 0.5) * patch_size - height / 2
    columns = (torch.arange(width // patch_size, dtype=torch.float32) + 0.5) * patch_size - width / 2
    grid = torch.meshgrid(times.float(), rows, columns, indexing="ij")
    return rearrange(torch.stack(grid), "d t h w -> (t h w) d")


def per_token(per_frame: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """Repeat values ``(t,)`` of latent frames for each of their tokens, ``(t·h/p·w/p,)``."""
    return repeat(per_frame, "t -> (t hw)", hw=(height // patch_size) * (width // patch_size))
