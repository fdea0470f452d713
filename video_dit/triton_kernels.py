"""Kernels for GPUs in Triton; imported where there is one."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 128


@triton.jit
def _sum_rows(  # type: ignore[no-untyped-def]
    values, order, starts, sums, width, rows: tl.constexpr, columns: tl.constexpr
):
    group = tl.program_id(0)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < width
    start, stop = tl.load(starts + group), tl.load(starts + group + 1)
    total = tl.zeros([rows, columns], dtype=tl.float32)
    for first in range(start, stop, rows):
        place = first + tl.arange(0, rows)
        token = tl.load(order + place, mask=place < stop, other=0)
        wanted = (place < stop)[:, None] & inside[None, :]
        total += tl.load(values + token[:, None] * width + column[None, :], mask=wanted, other=0.0).to(tl.float32)
    tl.store(sums + group * width + column, tl.sum(total, axis=0), mask=inside)


def sum_rows(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sums ``(l, d)`` of groups of rows of ``values (n, d)``, in fp32, of the values' type.

    Args:
        order: ``(n,)``, the rows sorted by group. starts: ``(l + 1,)``, where each group begins in it, and the end.
    """
    groups, width = starts.numel() - 1, values.shape[1]
    sums = torch.empty((groups, width), dtype=values.dtype, device=values.device)
    grid = (groups, triton.cdiv(width, COLUMNS))
    _sum_rows[grid](values, order, starts, sums, width, rows=ROWS, columns=COLUMNS)
    return sums
