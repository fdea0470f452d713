"""Linear layers, by oneDNN on a CPU.

PyTorch gives products in fp32 to MKL, which left half of the speed of an AMD EPYC with AVX-512 unused (103 GFLOP/s a
core, oneDNN 230), and adds a bias in a pass of its own. On other processors it was not measured.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """`torch.nn.Linear` with the same parameters and, up to rounding, the same result."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """``(…, in_features)`` to ``(…, out_features)``. ``gelu``: and the exact GELU, in one pass without grad."""
        if _takes(x, self.weight):
            if gelu and not torch.is_grad_enabled():
                return _linear(x, self.weight, self.bias, "gelu")
            out = _ByOneDNN.apply(x, self.weight, self.bias)
        else:
            out = super().forward(x)
        return F.gelu(out) if gelu else out


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a (s, n, k)`` and ``b (s, m, k)`` to ``a @ b.mT``, without gradients."""
    if len(a) == 1 and a.dtype == torch.float32 and _takes(a, b):
        return _linear(a[0], b[0])[None]
    return torch.bmm(a, b.mT)


def _takes(x: Tensor, weight: Tensor) -> bool:
    """Whether both are plain matrices of a CPU that has oneDNN, and of a dtype that it is fast in."""
    if x.device.type != "cpu" or x.dtype != weight.dtype or x.numel() == 0 or torch.is_autocast_enabled("cpu"):
        return False
    return _is_fast(x.dtype)


@torch.compiler.assume_constant_result
def _is_fast(dtype: torch.dtype) -> bool:
    fast = dtype == torch.float32 or (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())
    return fast and torch.backends.mkldnn.is_available()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: Literal["none", "gelu"] = "none") -> Tensor:
    """``x @ weight.T + bias``, and what comes after it."""
    if torch.compiler.is_compiling():
        return _opaque_linear(x, weight, bias, then)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")


@torch.library.custom_op("video_dit::linear", mutates_args=())
def _opaque_linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
    """For `torch.compile`, which knows no shapes of oneDNN's own operator."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")


@_opaque_linear.register_fake
def _(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


class _ByOneDNN(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        for_x, for_weight, for_bias = context.needs_input_grad
        rows, inputs = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, x))
        of_x = _linear(grad, weight.t()) if for_x else None
        of_weight = None
        if for_weight and grad.dtype == torch.float32:
            of_weight = _linear(rows.t().contiguous(), inputs.t().contiguous())
        elif for_weight:
            of_weight = rows.t() @ inputs
        return of_x, of_weight, rows.sum(dim=0) if for_bias else None
