"""Steps at which the model is not asked again, since its output would hardly be another one.

After EasyCache (Zhou et al., 2025, arXiv:2507.02860): how much the output changes for a change of what the model sees
is taken from the last two calls, and holds until the next. That is soon: near pure noise of the variance-preserving
path epsilons hardly change, and what is learnt there says nothing of later steps.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MOST_IN_A_ROW = 2
"""Steps without a call, one after the other."""


@dataclass(frozen=True)
class LastCall:
    """What the model saw when it was last asked, what it said, both ``(b, n, d)``, and which rows it was asked about.
    slope: change of the output over that of what was seen, since the call before, ``(b,)``; infinite at first. served:
    steps that its output was taken for since."""

    seen: Tensor
    output: Tensor
    rows: tuple[int, ...]
    slope: Tensor
    served: int = 0

    def serves(self, seen: Tensor, rows: tuple[int, ...], threshold: float) -> bool:
        """Whether the output for ``seen`` is expected to differ from this one, in each sample, by a share of it below
        the threshold; never if other rows guide, nor too often."""
        return self.served < MOST_IN_A_ROW and rows == self.rows and self._expected_change(seen) < threshold

    def once_more(self) -> "LastCall":
        """After it has served for a step."""
        return replace(self, served=self.served + 1)

    def _expected_change(self, seen: Tensor) -> float:
        change = self.slope * _size(seen - self.seen) / _size(self.output)
        return float(change.max())


def next_call(last: LastCall | None, seen: Tensor, output: Tensor, rows: tuple[int, ...]) -> LastCall:
    """What the model was asked now, after ``last``."""
    if last is None or last.rows != rows:
        return LastCall(seen, output, rows, torch.full((len(seen),), math.inf, device=seen.device))
    return LastCall(seen, output, rows, _size(output - last.output) / _size(seen - last.seen))


def _size(x: Tensor) -> Tensor:
    """Mean absolute value of each sample ``(b, n, d)``, ``(b,)``; not 0, so that it can be divided by."""
    return x.abs().mean(dim=(1, 2)).clamp_min(torch.finfo(x.dtype).tiny)
