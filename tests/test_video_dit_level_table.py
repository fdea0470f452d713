"""Rows of a table by level: read for each token, their gradients summed over all tokens of a level."""

import pytest
import torch
from torch.nn import functional as F

from video_dit.level_table import LevelIndex, add_scaled, of_level

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]


@pytest.mark.parametrize("device", DEVICES)
def test_rows_and_their_gradients_are_those_of_an_embedding(device: str) -> None:
    g = torch.Generator().manual_seed(0)
    index = torch.randint(0, 7, (100,), generator=g).to(device)
    index[index == 3] = 2  # a level that no token has
    table = torch.randn(7, 200, generator=g).to(device).requires_grad_()
    weight = torch.randn(100, 200, generator=g).to(device)
    rows, expected = of_level(table, LevelIndex.of(index, 7)), F.embedding(index, table)
    assert torch.equal(rows, expected)
    ours, theirs = (torch.autograd.grad((x * weight).sum(), table)[0] for x in (rows, expected))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not ours[3].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("frozen", [None, 0, 1, 2], ids=["none frozen", "base frozen", "x frozen", "table frozen"])
def test_tokens_times_rows_and_their_gradients(device: str, frozen: int | None) -> None:
    g = torch.Generator().manual_seed(0)
    index = torch.randint(0, 7, (100,), generator=g).to(device)
    inputs = [torch.randn(rows, 200, generator=g).to(device) for rows in (100, 100, 7)]
    learnt = [tensor.requires_grad_() for place, tensor in enumerate(inputs) if place != frozen]
    base, x, table = inputs
    weight = torch.randn(100, 200, generator=g).to(device)
    ours, theirs = add_scaled(base, x, table, LevelIndex.of(index, 7)), base + x * F.embedding(index, table)
    assert torch.allclose(ours, theirs, atol=1e-6)
    pairs = zip(*(torch.autograd.grad((y * weight).sum(), learnt) for y in (ours, theirs)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_no_rows_are_kept_for_the_way_back() -> None:
    """Nothing as long as the tokens but what it is given."""
    kept: list[torch.Tensor] = []
    x, table = torch.randn(100, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    levels = LevelIndex.of(torch.arange(100) % 4, 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        add_scaled(of_level(table, levels), x, table, levels).sum()
    given = {tensor.data_ptr() for tensor in (x, table, levels.index, levels.order, levels.starts)}
    assert {tensor.data_ptr() for tensor in kept} <= given


@pytest.mark.parametrize("device", DEVICES)
def test_sums_of_many_tokens_are_not_rounded_on_the_way(device: str) -> None:
    """A sum of 16 bits stands still once it is 256 times what is added."""
    table = torch.zeros(2, 4, dtype=torch.bfloat16, device=device, requires_grad=True)
    index = torch.arange(8192, device=device) % 2
    of_level(table, LevelIndex.of(index, 2)).sum().backward()
    assert table.grad is not None
    assert torch.equal(table.grad, torch.full_like(table, 4096))


def test_the_index_sorts_tokens_by_level() -> None:
    levels = LevelIndex.of(torch.tensor([2, 0, 2, 3]), 5)
    assert levels.order.tolist() == [1, 0, 2, 3]
    assert levels.starts.tolist() == [0, 1, 1, 3, 4, 4]
