"""Rows of a table by level: read for each token, their gradients summed over all tokens of a level."""

import pytest
import torch
from torch.nn import functional as F

from video_dit.level_table import LevelIndex, of_level

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
