"""What an optimizer step amounts to over all ranks, by two reductions and one wait for the device."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from deepspeed import comm as dist
from torch import Tensor

from video_dit.batch import Pack

LEVEL_BINS = 10  # of a tenth of the levels each


@dataclass(frozen=True)
class Totals:
    """Of a step, over all ranks.

    loss: per element that bears loss. sums, apart: the figures given, as sums and as one of each rank. level_errors,
    level_elements: squared errors, and how many, by tenths of the noise level. not_finite: ranks whose loss is not.
    packs_not_finite: which of this rank's packs those are.
    """

    loss: float
    sums: dict[str, float]
    apart: dict[str, list[float]]
    level_errors: list[float]
    level_elements: list[float]
    not_finite: list[int]
    packs_not_finite: list[int]


class StepTally:
    """Sums up a step. All ranks make one, `add` each pack's errors and ask for the `totals`.

    ``scale`` turns the sum of a pack's squared errors into what DeepSpeed must be given, so that the gradient is that
    of the mean over all elements of the step: it averages over ranks and over accumulation, and the count is global.

    The device is waited for in `totals` alone, and there no longer than until the last forward pass is done.

    Args:
        packs: of this rank, on the host. device: where `add` gets its tensors from.
        sums, apart: what the host knows of the step: to be summed over ranks, or told of each rank.
    """

    def __init__(
        self, packs: Sequence[Pack], sums: Mapping[str, float], apart: Mapping[str, float], device: torch.device
    ) -> None:
        rank, self._world = dist.get_rank(), dist.get_world_size()
        self._rank, self._packs, self._added = rank, len(packs), 0
        self._sums, self._apart = list(sums), list(apart)
        slots = [0.0] * (self._world * len(apart))
        slots[rank :: self._world] = apart.values()
        count = sum(pack.loss_elements for pack in packs)
        known = torch.tensor([count, *sums.values(), *slots], dtype=torch.float64)
        if device.type == "cuda":
            known = known.pin_memory()
        self._known = known.to(device, non_blocking=True)
        dist.all_reduce(self._known)
        self.scale = (self._world * self._packs / self._known[0]).float()
        self._measured = torch.zeros(1 + 2 * LEVEL_BINS + self._world, dtype=torch.float64, device=device)
        self._bad = torch.zeros(self._packs, dtype=torch.float64, device=device)
        self._copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def add(self, pack: Pack, errors: Tensor) -> None:
        """Take in the squared errors ``(n,)`` of a pack's tokens; ``pack`` is where they are."""
        error = errors.sum()
        bins = (pack.levels[pack.level_index] * LEVEL_BINS).long().clamp(0, LEVEL_BINS - 1)
        self._measured[0] += error
        self._measured[1 : 1 + LEVEL_BINS].index_add_(0, bins, errors.double())
        elements = pack.made.double() * pack.target.shape[1]
        self._measured[1 + LEVEL_BINS : 1 + 2 * LEVEL_BINS].index_add_(0, bins, elements)
        self._bad[self._added] = ~error.isfinite()
        self._added += 1
        if self._added == self._packs:
            self._measured[1 + 2 * LEVEL_BINS + self._rank] = self._bad.sum()
            dist.all_reduce(self._measured)
            every = torch.cat([self._known, self._measured, self._bad])
            self._host = every.to("cpu", non_blocking=True)
            if every.is_cuda:
                self._copied = torch.cuda.Event()
                self._copied.record()

    def totals(self) -> Totals:
        """Of all ranks, once all packs were added."""
        assert self._added == self._packs
        if self._copied is not None:
            self._copied.synchronize()
        values = iter(self._host.tolist())

        def take(number: int) -> list[float]:
            return [next(values) for _ in range(number)]

        (count,) = take(1)
        sums = dict(zip(self._sums, take(len(self._sums)), strict=True))
        apart = {name: take(self._world) for name in self._apart}
        (error,) = take(1)
        level_errors, level_elements = take(LEVEL_BINS), take(LEVEL_BINS)
        ranks = [rank for rank, bad in enumerate(take(self._world)) if bad]
        packs = [number for number, bad in enumerate(take(self._packs)) if bad]
        return Totals(error / count, sums, apart, level_errors, level_elements, ranks, packs)


class LevelLosses:
    """Mean loss of the made tokens by tenths of their noise level, over the steps since it was last asked."""

    def __init__(self) -> None:
        self._errors, self._elements = [0.0] * LEVEL_BINS, [0.0] * LEVEL_BINS

    def add(self, totals: Totals) -> None:
        """Take in a step."""
        self._errors = [a + b for a, b in zip(self._errors, totals.level_errors, strict=True)]
        self._elements = [a + b for a, b in zip(self._elements, totals.level_elements, strict=True)]

    def take(self) -> dict[str, float]:
        """By name, such as ``0.3-0.4``; bins that had no token are left out. Begins anew."""
        pairs = zip(self._errors, self._elements, strict=True)
        means = {f"{n / 10:.1f}-{(n + 1) / 10:.1f}": e / c for n, (e, c) in enumerate(pairs) if c}
        self._errors, self._elements = [0.0] * LEVEL_BINS, [0.0] * LEVEL_BINS
        return means


def peak_memory(device: torch.device) -> float:
    """The most that this process has held so far, in GiB: of the device's memory, or on a CPU resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
