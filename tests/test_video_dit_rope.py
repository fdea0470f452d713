"""Rotations by coordinates: attention sees differences of place only."""

import pytest
import torch
from torch.nn import functional as F

from video_dit.rope import ANGLE_PER_SECOND, RotatedNorm, axis_pairs, rope_angles

HEAD_DIM, THETA = 64, 1000.0


def learnt_norm() -> RotatedNorm:
    norm = RotatedNorm(HEAD_DIM)
    torch.nn.init.normal_(norm.weight)
    return norm


def scores(q: torch.Tensor, k: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    rope = rope_angles(coords, q.shape[-1], THETA)
    norm = RotatedNorm(q.shape[-1])
    return torch.einsum("qhd,khd->hqk", norm(q, rope), norm(k, rope))


@pytest.mark.parametrize("head_dim", [2, 16, 32, 64, 128])
def test_every_pair_belongs_to_an_axis(head_dim: int) -> None:
    pairs = axis_pairs(head_dim)
    assert sum(pairs) == head_dim // 2
    assert pairs[0] >= pairs[1] == pairs[2]
    cos, sin = rope_angles(torch.randn(5, 3), head_dim, THETA)
    assert cos.shape == sin.shape == (5, 1, head_dim)
    assert torch.equal(cos[..., : head_dim // 2], cos[..., head_dim // 2 :])
    assert torch.equal(sin[..., : head_dim // 2], -sin[..., head_dim // 2 :])
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
    still = torch.zeros(HEAD_DIM // 2)
    start = 0
    for axis, pairs in enumerate(axis_pairs(HEAD_DIM)):
        place = torch.zeros(1, 3)
        place[0, axis] = 0.01
        turned = rope_angles(place, HEAD_DIM, THETA)[1].flatten()[HEAD_DIM // 2 :] != still
        assert turned[start : start + pairs].all()
        assert turned.sum() == pairs
        start += pairs


def test_time_enters_in_eighths_of_a_second() -> None:
    second, eighth = torch.tensor([[1.0, 0, 0]]), torch.tensor([[1 / ANGLE_PER_SECOND, 0, 0]])
    fastest = [rope_angles(place, HEAD_DIM, THETA)[0].flatten()[0] for place in (second, eighth)]
    assert torch.allclose(torch.stack(fastest), torch.tensor([8.0, 1.0]).cos())


def test_lengths_are_normed_and_the_origin_turns_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, HEAD_DIM)
    norm = RotatedNorm(HEAD_DIM)
    turned = norm(x, rope_angles(torch.randn(6, 3), HEAD_DIM, THETA))
    assert torch.allclose(turned.norm(dim=-1), torch.tensor(HEAD_DIM**0.5), atol=1e-4)
    normed = F.rms_norm(x, (HEAD_DIM,), eps=1e-6)
    assert not torch.allclose(turned, normed, atol=0.1)
    for rope in (rope_angles(torch.zeros(6, 3), HEAD_DIM, THETA), None):
        assert torch.allclose(norm(x, rope), normed, atol=1e-6)


def test_sixteen_bits_are_turned_in_fp32() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(6, 2, HEAD_DIM).bfloat16(), learnt_norm().bfloat16()
    rope = rope_angles(50 * torch.randn(6, 3), HEAD_DIM, THETA)
    turned = norm(x, rope)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, norm.float()(x.float(), rope).bfloat16())


@pytest.mark.parametrize("rotates", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_norm_and_rotation_written_out(rotates: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(6, 2, HEAD_DIM, dtype=dtype, requires_grad=True), learnt_norm().to(dtype)
    rope = rope_angles(torch.randn(6, 3), HEAD_DIM, THETA)
    a, b = F.rms_norm(x, (HEAD_DIM,), norm.weight, eps=1e-6).chunk(2, dim=-1)
    cos, sin = (each[..., HEAD_DIM // 2 :] for each in rope)
    expected = torch.cat([a * cos - b * sin, a * sin + b * cos] if rotates else [a, b], dim=-1)
    before = x.detach().clone()
    ours = norm(x, rope if rotates else None)
    assert torch.allclose(ours, expected, atol=1e-5)
    assert ours.dtype == dtype
    above = torch.randn(ours.shape)
    pairs = zip(*(torch.autograd.grad((y * above).sum(), (x, norm.weight)) for y in (ours, expected)), strict=True)
    assert all(torch.allclose(got, wanted, atol=1e-4) for got, wanted in pairs)
    assert torch.equal(x, before)


def test_one_tensor_as_long_as_the_tokens_is_kept_for_the_way_back() -> None:
    kept: list[torch.Tensor] = []
    x = torch.randn(6, 2, HEAD_DIM, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        RotatedNorm(HEAD_DIM)(x, rope_angles(torch.randn(6, 3), HEAD_DIM, THETA))
    assert [tensor.data_ptr() for tensor in kept if tensor.numel() >= x.numel()] == [x.data_ptr()]
