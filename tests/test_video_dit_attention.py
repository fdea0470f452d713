"""Attention within segments: all branches are the plain softmax."""

import pytest
import torch
from torch import Tensor

from video_dit.attention import TILE, segment_attention, use_flash_attention_3
from video_dit.tokens import Segments

HEADS, DIM = 2, 16
MIXED, TEXT = [70, 1, 33], [5, 9, 2]


def reference(q: Tensor, k: Tensor, v: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """Softmax over all keys, those of other segments masked."""
    row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows)).to(q.device)
    column = torch.repeat_interleave(torch.arange(len(columns)), torch.tensor(columns)).to(q.device)
    scores = torch.einsum("qhd,khd->hqk", q, k) / DIM**0.5
    scores = scores.masked_fill(row[:, None] != column[None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v)


def inputs(rows: list[int], columns: list[int]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = sum(rows), sum(columns), sum(columns)
    return tuple(torch.randn(n, HEADS, DIM, generator=generator).requires_grad_() for n in sizes)


def gradients(out: Tensor, of: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return torch.autograd.grad((out * weight).sum(), of)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([70, 70, 70], [70, 70, 70]),
        ([200] * 2, [TILE // 128] * 2),
        ([70], [70]),
        (MIXED, MIXED),
        (MIXED, TEXT),
        ([6, 6, 6], TEXT),
    ],
)
def test_forward_and_gradient_are_those_of_plain_softmax(rows: list[int], columns: list[int]) -> None:
    qkv = inputs(rows, columns)
    out = segment_attention(*qkv, Segments.from_lengths(rows), Segments.from_lengths(columns))
    expected = reference(*qkv, rows, columns)
    assert torch.allclose(out, expected, atol=2e-6)
    for ours, theirs in zip(gradients(out, qkv), gradients(expected, qkv), strict=True):
        assert torch.allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_whose_powers_are_beyond_the_dtype(dtype: torch.dtype) -> None:
    q, k, v = inputs(MIXED, TEXT)
    with torch.no_grad():
        q *= 300
        q[0] = -q[0].abs()  # all of one row's powers would be zero
        k[:5] = k[:5].abs()
    qkv = tuple(x.detach().to(dtype).requires_grad_() for x in (q, k, v))
    out = segment_attention(*qkv, Segments.from_lengths(MIXED), Segments.from_lengths(TEXT))
    plain = tuple(x.detach().float().requires_grad_() for x in qkv)
    expected = reference(*plain, MIXED, TEXT)
    pairs = (out, expected), *zip(gradients(out, qkv), gradients(expected, plain), strict=True)
    for ours, theirs in pairs:
        assert ours.isfinite().all()
        if dtype == torch.float32:  # in 16 bits scores as large as these are off by more than one
            assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("columns", [MIXED, TEXT])
def test_sixteen_bits_lose_little_where_values_have_a_mean(columns: list[int]) -> None:
    """Weights that do not quite add up to 1 would turn what all values have in common into gradients of queries."""
    q, k, v = (x.detach().bfloat16() for x in inputs(MIXED, columns))
    qkv = tuple(x.requires_grad_() for x in (q, k, v + 3))
    out = segment_attention(*qkv, Segments.from_lengths(MIXED), Segments.from_lengths(columns))
    exact = tuple(x.detach().double().requires_grad_() for x in qkv)
    expected = reference(*exact, MIXED, columns)
    ours, theirs = (torch.autograd.grad(y, of, torch.ones_like(y)) for y, of in ((out, qkv), (expected, exact)))
    assert (out - expected).norm() < 0.004 * expected.norm()
    for got, wanted, bound in zip(ours, theirs, (0.03, 0.03, 0.01), strict=True):
        assert (got - wanted).norm() < bound * wanted.norm()


def test_as_many_segments_of_keys_as_of_queries() -> None:
    with pytest.raises(AssertionError):
        segment_attention(*inputs([4, 4], [8]), Segments.from_lengths([4, 4]), Segments.from_lengths([8]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("rows", "columns"), [(MIXED, MIXED), (MIXED, TEXT), ([70] * 3, [70] * 3), ([6, 6, 6], TEXT)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_kernels_are_the_plain_softmax(rows: list[int], columns: list[int], dtype: torch.dtype) -> None:
    qkv = tuple(x.detach().cuda().to(dtype).requires_grad_() for x in inputs(rows, columns))
    segments, kv_segments = (Segments.from_lengths(lengths, "cuda") for lengths in (rows, columns))
    out = segment_attention(*qkv, segments, kv_segments)
    expected = reference(*(x.float() for x in qkv), rows, columns)
    atol = 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert out.dtype == dtype
    assert torch.allclose(out.float(), expected, atol=atol)
    for ours, theirs in zip(gradients(out, qkv), gradients(expected, qkv), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=4 * atol)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about CPUs")
def test_flash_attention_3_is_not_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not use_flash_attention_3()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability in ((8, 0), (9, 0), (10, 0)):  # that of the H100 lacks the package here
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert not use_flash_attention_3()
    monkeypatch.delattr(torch.nn.attention, "list_flash_attention_impls", raising=False)  # an older PyTorch
    assert not use_flash_attention_3()
