"""Haar transform, causal convolutions and norms."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vae3d.layers import (
    Block,
    CausalConv3d,
    CausalDepthwiseConv3d,
    InverseHaarLinear,
    ThinBlock,
    haar,
    haar_matrix,
    inverse_haar,
    rms_norm,
    run_blocks,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_haar_matrix_is_orthonormal() -> None:
    matrix = haar_matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8))


@pytest.mark.parametrize("levels", [1, 2])
def test_haar_keeps_energy_and_is_undone(levels: int) -> None:
    step = 2**levels
    frames = normal(2, 2 * step, 3 * step, 4 * step, 3)
    bands = haar(frames, levels)
    assert bands.shape == (2, 2, 3, 4, 3 * 8**levels)
    torch.testing.assert_close(bands.square().sum(), frames.square().sum())
    torch.testing.assert_close(inverse_haar(bands, levels), frames)


@pytest.mark.parametrize("levels", [0, 1, 2])
@torch.no_grad()
def test_the_last_layer_is_a_linear_one_and_the_inverse_wavelet(levels: int) -> None:
    layer, x = InverseHaarLinear(5, levels), normal(2, 2, 3, 4, 5)
    bands = inverse_haar(F.linear(x, layer.weight, layer.bias), levels)
    torch.testing.assert_close(layer(x), rearrange(bands, "b t h w c -> b c t h w"))


@torch.no_grad()
def test_the_last_layer_rounds_nothing_off() -> None:
    layer, exact, x = InverseHaarLinear(5, 1).bfloat16(), InverseHaarLinear(5, 1), normal(2, 2, 3, 4, 5).bfloat16()
    exact.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), exact(x.float()))


def test_haar_of_a_flat_clip_is_in_the_lowest_band_alone() -> None:
    bands = haar(torch.full((1, 4, 4, 4, 1), 0.5), 1)
    torch.testing.assert_close(bands[..., 0], torch.full((1, 2, 2, 2), 0.5 * 8**0.5))
    assert bands[..., 1:].abs().max() < 1e-6


def test_haar_of_a_cube_sees_no_other_cube() -> None:
    frames = normal(1, 4, 4, 4, 1)
    other = frames.clone()
    other[:, 2:] += 1
    other[:, :, :, 2:] += 1
    before, after = haar(frames, 1), haar(other, 1)
    assert torch.equal(before[:, 0, :, 0], after[:, 0, :, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


CONVOLUTIONS = pytest.mark.parametrize(
    "make", [lambda: CausalConv3d(2, 2), lambda: CausalDepthwiseConv3d(2)], ids=["dense", "depthwise"]
)


@CONVOLUTIONS
def test_causal_convolution_sees_no_later_frame_and_two_before(make: Callable[[], nn.Module]) -> None:
    conv = make()
    x = normal(1, 6, 3, 3, 2)
    changed = x.clone()
    changed[:, 2] += 1
    difference = (conv(x, None)[0] - conv(changed, None)[0]).abs().amax(dim=(0, 2, 3, 4))
    assert (difference > 0).tolist() == [False, False, True, True, True, False]


@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions_are_those_of_torch(depthwise: bool) -> None:
    """Values and gradients of a 3D convolution over the clip with two zero frames in front."""
    conv = CausalDepthwiseConv3d(4) if depthwise else CausalConv3d(4, 6)
    x = normal(2, 5, 4, 3, 4).requires_grad_()
    y = conv(x, None)[0]
    groups = 4 if depthwise else 1
    kernel = conv.weight.detach().view(len(conv.weight), -1, 3, 3, 3).requires_grad_()
    padded = F.pad(rearrange(x, "b t h w c -> b c t h w"), (1, 1, 1, 1, 2, 0))
    expected = rearrange(F.conv3d(padded, kernel, conv.bias, groups=groups), "b c t h w -> b t h w c")
    torch.testing.assert_close(y, expected)
    direction = normal(*y.shape, seed=1)
    ours = torch.autograd.grad((y * direction).sum(), (x, conv.weight, conv.bias))
    theirs = torch.autograd.grad((expected * direction).sum(), (x, kernel, conv.bias))
    torch.testing.assert_close(ours, (theirs[0], theirs[1].reshape(conv.weight.shape), theirs[2]), atol=1e-4, rtol=1e-4)


@CONVOLUTIONS
def test_zeros_stand_before_the_first_frame(make: Callable[[], nn.Module]) -> None:
    conv = make()
    x = normal(1, 2, 3, 3, 2)
    whole, history = conv(x, None)
    assert torch.equal(whole, conv(x, torch.zeros(1, 2, 3, 3, 2))[0])
    assert torch.equal(history, x)


@CONVOLUTIONS
def test_history_of_a_single_frame_keeps_the_one_before_it(make: Callable[[], nn.Module]) -> None:
    conv = make()
    x = normal(1, 2, 3, 3, 2)
    _, history = conv(x[:, :1], None)
    assert torch.equal(history, torch.cat([torch.zeros(1, 1, 3, 3, 2), x[:, :1]], dim=1))
    assert torch.equal(conv(x[:, 1:], history)[1], x)


@pytest.mark.parametrize("make", [lambda: Block(4, 2.0), lambda: ThinBlock(4)], ids=["block", "thin"])
@torch.no_grad()
def test_blocks_run_in_chunks_as_in_one_pass(make) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList(make() for _ in range(3))
    x = normal(2, 7, 4, 5, 4)
    whole, last = run_blocks(blocks, x, None)
    state, parts = None, []
    for chunk in x.split([1, 3, 1, 2], dim=1):
        part, state = run_blocks(blocks, chunk, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=0)
    assert (whole - x).abs().max() > 0.01  # the blocks do something


def test_a_state_of_other_blocks_is_refused() -> None:
    blocks = nn.ModuleList([ThinBlock(4), ThinBlock(4)])
    x = normal(1, 2, 3, 3, 4)
    _, state = run_blocks(blocks, x, None)
    with pytest.raises(ValueError, match="shorter"):
        run_blocks(blocks, x, state[:1])


def test_rms_norm_is_over_channels_alone() -> None:
    x = normal(1, 3, 4, 5, 8)
    y = rms_norm(x)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(1, 3, 4, 5))
    torch.testing.assert_close(rms_norm(7 * x), y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rms_norm(x[:, 1:2, 2:3, 3:4]), y[:, 1:2, 2:3, 3:4])
    assert rms_norm(torch.zeros(1, 1, 1, 1, 8)).isfinite().all()


@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["large", "as small as epsilon"])
def test_rms_norm_and_its_gradient_are_those_of_torch(size: float) -> None:
    x, direction = (size * normal(2, 3, 8)).requires_grad_(), normal(2, 3, 8, seed=1)
    ours, theirs = rms_norm(x), F.rms_norm(x, (8,), eps=1e-6)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_rms_norm_in_bf16_is_near_fp32() -> None:
    x, direction = normal(4, 5, 64), normal(4, 5, 64, seed=1)
    low, high = x.bfloat16().requires_grad_(), x.bfloat16().float().requires_grad_()
    ours, exact = rms_norm(low), F.rms_norm(high, (64,), eps=1e-6)
    torch.testing.assert_close(ours.float(), exact, atol=0, rtol=0.012)
    ours.backward(direction.bfloat16())
    exact.backward(direction.bfloat16().float())
    assert low.grad is not None
    torch.testing.assert_close(low.grad.float(), high.grad, atol=0.03, rtol=0.02)


def test_blocks_keep_bf16() -> None:
    for block in (Block(4, 2.0), ThinBlock(4)):
        y, history = block.to(torch.bfloat16)(normal(1, 2, 3, 3, 4).bfloat16(), None)
        assert y.dtype == history.dtype == torch.bfloat16
        assert y.isfinite().all()
