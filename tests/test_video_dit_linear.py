"""Linear layers by oneDNN are PyTorch's, and their products are of the precision asked for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from video_dit.layers import fast_dtype
from video_dit.linear import Linear, product

SHAPES = [(70,), (3, 5), ()]


def of_both(layer: Linear, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Output and gradients of the layer and of `torch.nn.functional.linear`, in turn."""
    x = torch.randn(*shape, 24).to(layer.weight.dtype).requires_grad_()
    weight = torch.randn(*shape, 40)
    learnt = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
    found = []
    for out in (layer(x), F.linear(x, layer.weight, layer.bias)):
        found.append([out.detach(), *torch.autograd.grad((out.float() * weight).sum(), learnt)])
    return [tensor for pair in zip(*found, strict=True) for tensor in pair]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias")])
def test_output_and_gradients_are_those_of_pytorch(shape: tuple[int, ...], bias: bool, frozen: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=bias)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name not in frozen)
    tensors = of_both(layer, shape)
    for ours, theirs in zip(tensors[::2], tensors[1::2], strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_in_sixteen_bits_they_are_within_rounding() -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40).to(torch.bfloat16)
    tensors = of_both(layer, (70,))
    for ours, theirs in zip(tensors[::2], tensors[1::2], strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs.float()).norm() < 0.01 * theirs.float().norm()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_onednn_computes_what_the_cpu_is_fast_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """That autocast and other dtypes are PyTorch's, which casts, or says what does not go together."""
    calls: list[torch.dtype] = []
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: calls.append(x.dtype) or forward(self, x))
    layer = Linear(24, 40)
    layer(torch.randn(2, 24))
    layer.to(fast_dtype(torch.device("cpu")))(torch.randn(2, 24, dtype=fast_dtype(torch.device("cpu"))))
    assert calls == []
    layer.double()(torch.randn(2, 24, dtype=torch.float64))
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 24)).dtype == torch.bfloat16
    assert calls == [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gradients", [True, False])
def test_gelu_on_top_is_pytorchs(dtype: torch.dtype, gradients: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40).to(dtype), torch.randn(70, 24).to(dtype)
    with torch.set_grad_enabled(gradients):
        ours, theirs = layer(x, gelu=True), F.gelu(layer(x))
    assert ours.requires_grad == gradients
    assert ours.dtype == dtype
    assert torch.allclose(ours, theirs, atol=2 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as it compiles, PyTorch warns of what it does itself
@pytest.mark.parametrize("gradients", [True, False])
def test_compiled_it_is_one_graph_of_the_same_numbers(gradients: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40)
    compiled = torch.compile(layer, fullgraph=True)
    for rows in (7, 12):
        x = torch.randn(rows, 24, requires_grad=True)
        with torch.set_grad_enabled(gradients):
            found = [forward(x, gelu=True) for forward in (layer, compiled)]
        assert torch.allclose(*found, atol=1e-6)
        if gradients:
            learnt = (x, *layer.parameters())
            eager, ours = (torch.autograd.grad(out.square().sum(), learnt) for out in found)
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(eager, ours, strict=True))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_have_the_precision_of_their_dtype(count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(count, rows, 64, dtype=dtype) for rows in (30, 50))
    expected = a.double() @ b.double().mT
    error = (product(a, b).double() - expected).norm() / expected.norm()
    assert error < 16 * torch.finfo(dtype).eps
    turned = product(a.mT.contiguous().mT, b.mT.contiguous().mT)  # whatever their layout
    assert torch.allclose(turned.double(), expected, atol=1e-4)
