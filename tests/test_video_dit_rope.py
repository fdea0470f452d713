"""Rotations by coordinates: attention sees differences of place only."""

import pytest
import torch

from video_dit.rope import ANGLE_PER_SECOND, apply_rope, axis_pairs, rope_angles

HEAD_DIM, THETA = 64, 1000.0


def scores(q: torch.Tensor, k: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    rope = rope_angles(coords, q.shape[-1], THETA)
    return torch.einsum("qhd,khd->hqk", apply_rope(q, *rope), apply_rope(k, *rope))


@pytest.mark.parametrize("head_dim", [2, 16, 32, 64, 128])
def test_every_pair_belongs_to_an_axis(head_dim: int) -> None:
    pairs = axis_pairs(head_dim)
    assert sum(pairs) == head_dim // 2
    assert pairs[0] >= pairs[1] == pairs[2]
    cos, sin = rope_angles(torch.randn(5, 3), head_dim, THETA)
    assert cos.shape == sin.shape == (5, 1, head_dim // 2)
    assert cos.dtype == torch.float32


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_differences_count(axis: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 7, 3, HEAD_DIM)
    coords = torch.randn(7, 3)
    offset = torch.zeros(3)
    offset[axis] = 5.3
    before = scores(q, k, coords)
    assert torch.allclose(scores(q, k, coords + offset), before, atol=1e-3)
    moved = coords.clone()
    moved[0] += offset  # one token alone: that does count
    assert (scores(q, k, moved) - before).abs().max() > 0.5


def test_axes_turn_pairs_of_their_own() -> None:
    still = rope_angles(torch.zeros(1, 3), HEAD_DIM, THETA)[1]
    start = 0
    for axis, pairs in enumerate(axis_pairs(HEAD_DIM)):
        place = torch.zeros(1, 3)
        place[0, axis] = 0.01
        turned = (rope_angles(place, HEAD_DIM, THETA)[1] != still).flatten()
        assert turned[start : start + pairs].all()
        assert turned.sum() == pairs
        start += pairs


def test_time_enters_in_eighths_of_a_second() -> None:
    second, eighth = torch.tensor([[1.0, 0, 0]]), torch.tensor([[1 / ANGLE_PER_SECOND, 0, 0]])
    fastest = [rope_angles(place, HEAD_DIM, THETA)[0].flatten()[0] for place in (second, eighth)]
    assert torch.allclose(torch.stack(fastest), torch.tensor([8.0, 1.0]).cos())


def test_lengths_stay_and_the_origin_does_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, HEAD_DIM)
    turned = apply_rope(x, *rope_angles(torch.randn(6, 3), HEAD_DIM, THETA))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert not torch.allclose(turned, x, atol=0.1)
    assert torch.equal(apply_rope(x, *rope_angles(torch.zeros(6, 3), HEAD_DIM, THETA)), x)


def test_sixteen_bits_are_turned_in_fp32() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, HEAD_DIM).bfloat16()
    rope = rope_angles(50 * torch.randn(6, 3), HEAD_DIM, THETA)
    turned = apply_rope(x, *rope)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, apply_rope(x.float(), *rope).bfloat16())
