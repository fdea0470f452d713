"""The judge's layers: which steps and which members of a sequence see which."""

from collections.abc import Iterator

import pytest
import torch

from data.world.layers import AttentionBlock, TimeShiftBlock


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def changes(one: torch.Tensor, two: torch.Tensor) -> list[bool]:
    """By index along the second axis."""
    return ((one - two).abs().flatten(2).amax((0, 2)) > 1e-6).tolist()


@torch.no_grad()
def test_a_step_sees_the_one_before_and_the_one_after_and_no_other_clip() -> None:
    block = TimeShiftBlock(16).eval()
    x = torch.randn(2, 6, 16, 8, 8)
    other = x.clone()
    other[1, 3] += 1.0
    one, two = (block(clips.flatten(0, 1), 6).unflatten(0, (2, 6)) for clips in (x, other))
    assert changes(one[:1], two[:1]) == [False] * 6
    assert changes(one[1:], two[1:]) == [False, False, True, True, True, False]


@torch.no_grad()
def test_earlier_and_later_are_told_apart() -> None:
    block = TimeShiftBlock(16).eval()
    x = torch.randn(5, 16, 8, 8)
    assert (block(x, 5) - block(x.flip(0), 5).flip(0)).abs().max() > 1e-3


@torch.no_grad()
def test_attention_looks_at_those_that_are_there_only() -> None:
    block = AttentionBlock(16, 4).eval()
    x = torch.randn(1, 4, 16)
    other = x.clone()
    other[:, 2] *= -1.0
    there = torch.tensor([[True, True, False, True]])
    assert changes(block(x), block(other)) == [True] * 4
    assert changes(block(x, there), block(other, there)) == [False, False, True, False]
