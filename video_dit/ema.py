"""Exponential moving average of weights, kept in fp32 as each rank's slices of the master weights."""

from pathlib import Path

import torch

from video_dit.engine import Engine
from video_dit.slices import local_fp32_slices, read_slices, write_slices

KIND = "ema"  # of slices


class EMA:
    """``average ← decay · average + (1 − decay) · weight``, once a step; begins as a copy of the weights.

    Early on the decay is lower, ``(1 + step) / (10 + step)``, so that the average forgets the random start.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        self.decay = decay
        self.slices = {name: (at, part.clone()) for name, (at, part) in local_fp32_slices(engine).items()}

    @torch.no_grad()
    def update(self, engine: Engine, step: int) -> None:
        """Move the average towards the weights after optimizer step ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = local_fp32_slices(engine)
        averages = [self.slices[name][1] for name in now]
        if averages:  # a rank may have no part of any
            torch._foreach_lerp_(averages, [part for _, part in now.values()], 1 - decay)

    def save(self, folder: Path, rank: int) -> Path:
        """Write this rank's slices to ``folder/ema-rank-N.safetensors``."""
        return write_slices(self.slices, folder, KIND, rank)

    def load(self, folder: Path) -> None:
        """Read this rank's slices from files that any number of ranks wrote.

        Raises:
            ValueError: the files do not cover a parameter.
        """
        wanted = {name: (at, at + part.numel()) for name, (at, part) in self.slices.items()}
        for name, part in read_slices(folder, KIND, wanted).items():
            self.slices[name][1].copy_(part)
