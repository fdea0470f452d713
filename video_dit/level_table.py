"""A table with a row a noise level, and the row of each token: read on the way there, summed over tokens on the way
back.

No rows of ``(n, d)`` are kept for the way back: they are read from the table of ``(l, d)`` again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class LevelIndex:
    """Which level each token has. index: ``(n,)`` int64. order: the tokens sorted by level, ``(n,)``. starts: where
    each level begins in that order, and the end, ``(l + 1,)``."""

    index: Tensor
    order: Tensor
    starts: Tensor

    @classmethod
    def of(cls, level_index: Tensor, count: int) -> "LevelIndex":
        """Of ``level_index (n,)`` into ``count`` levels."""
        ordered, order = level_index.sort(stable=True)
        starts = torch.searchsorted(ordered, torch.arange(count + 1, device=ordered.device))
        return cls(level_index, order, starts)


def of_level(table: Tensor, levels: LevelIndex) -> Tensor:
    """The row of a table ``(l, d)`` for each token, ``(n, d)``."""
    return _Rows.apply(table, levels.index, levels.order, levels.starts)


class _Rows(torch.autograd.Function):
    """The gradient of a row is the sum over all tokens of its level, in fp32: too long a sum for 16 bits."""

    @staticmethod
    def forward(context: Any, table: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        context.save_for_backward(index, order, starts)
        return table.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _sum_by_level(grad.contiguous(), *context.saved_tensors), None, None, None


def add_scaled(base: Tensor, x: Tensor, table: Tensor, levels: LevelIndex) -> Tensor:
    """``base (n, d)`` plus ``x (n, d)`` times the row of a table ``(l, d)`` for each token. x and the table are kept
    for the way back, base is not."""
    return _AddScaled.apply(base, x, table, levels.index, levels.order, levels.starts)


class _AddScaled(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, base: Tensor, x: Tensor, table: Tensor, index: Tensor, order: Tensor, starts: Tensor
    ) -> Tensor:
        context.save_for_backward(x, table, index, order, starts)
        return torch.addcmul(base, x, table.index_select(0, index))

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, index, order, starts = context.saved_tensors
        _, for_x, for_table, *_ = context.needs_input_grad
        of_x = grad * table.index_select(0, index) if for_x else None
        of_table = _sum_by_level((grad * x).contiguous(), index, order, starts) if for_table else None
        return grad, of_x, of_table, None, None, None


@torch.library.custom_op("video_dit::sum_by_level", mutates_args=())
def _sum_by_level(grad: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """``(l, d)``: sums of the rows of ``grad (n, d)`` of each level. On CUDA by a kernel of our own: PyTorch adds them
    one by one, each waiting for others of its level."""
    if grad.is_cuda:
        from video_dit.triton_kernels import sum_rows  # Triton is there with CUDA alone

        return sum_rows(grad, order, starts)
    exact = torch.promote_types(grad.dtype, torch.float32)
    sums = torch.zeros(starts.numel() - 1, grad.shape[1], dtype=exact, device=grad.device)
    return sums.index_add_(0, index, grad.to(exact)).to(grad.dtype)


@_sum_by_level.register_fake
def _(grad: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return grad.new_empty(starts.shape[0] - 1, grad.shape[1])
