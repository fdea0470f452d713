"""Size, range and rate of frames."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.transforms import (
    axis_weights,
    center_crop_to_aspect,
    contained_size,
    fit,
    nearest_size,
    resample_indices,
    resize_area,
    to_float,
    to_uint8,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))


def test_weights_sum_to_one_and_keep_the_centre() -> None:
    for size, new_size in ((7, 3), (3, 7), (5, 5), (1080, 128), (1, 4)):
        weights = axis_weights(size, new_size)
        assert torch.allclose(weights.sum(1), torch.ones(new_size), atol=1e-5)
        assert torch.allclose(weights, weights.flip(0, 1), atol=1e-5)  # no shift to either side


def test_whole_factors_equal_the_mean_over_blocks() -> None:
    frames = noise(3, 12, 20, 3)
    blocks = F.avg_pool2d(frames.permute(0, 3, 1, 2).float(), 4).permute(0, 2, 3, 1)
    assert (resize_area(frames, 3, 5).float() - blocks).abs().max() <= 0.5 + 1e-4


def test_resizing_keeps_flat_colour_and_brightness() -> None:
    flat = torch.full((20, 31, 47, 3), 77, dtype=torch.uint8)
    assert (resize_area(flat, 13, 64) == 77).all()
    frames = noise(2, 97, 131, 3)
    assert abs(resize_area(frames, 16, 24).float().mean() - frames.float().mean()) < 0.5
    assert resize_area(frames, 97, 131) is frames
    assert resize_area(noise(1, 8, 8, 1), 4, 4).shape == (1, 4, 4, 1)


def test_growing_stays_between_the_neighbours() -> None:
    frames = torch.tensor([0, 200], dtype=torch.uint8).reshape(1, 1, 2, 1)
    row = resize_area(frames, 1, 8).flatten()
    assert row[0] == 0 and row[-1] == 200
    assert (row.diff().int() >= 0).all()


def test_crop_is_centred_and_largest() -> None:
    frames = noise(2, 90, 160, 3)
    assert torch.equal(center_crop_to_aspect(frames, 1.0), frames[:, :, 35:125])
    assert torch.equal(center_crop_to_aspect(frames, 160 / 45), frames[:, 22:67])
    assert center_crop_to_aspect(frames, 16 / 9).shape == frames.shape


def test_fit_does_not_stretch() -> None:
    rows, columns = torch.meshgrid(torch.arange(300), torch.arange(500), indexing="ij")
    disc = ((rows - 150) ** 2 + (columns - 250) ** 2 < 100**2)[None, :, :, None].repeat(1, 1, 1, 3)
    small = fit(disc.to(torch.uint8) * 255, 60, 60)[0, :, :, 0] > 127
    assert small.shape == (60, 60)
    assert abs(int(small.any(0).sum()) - int(small.any(1).sum())) <= 1


def test_float_and_back_is_exact() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16, 1).repeat(1, 1, 1, 3)
    floats = to_float(frames)
    assert floats.shape == (3, 2, 8, 16)
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), frames)
    batch = torch.stack([frames, frames.flip(1)])
    assert torch.equal(to_float(batch)[0], floats)
    assert torch.equal(to_uint8(to_float(batch)), batch)
    assert to_uint8(torch.tensor([-1.5, 1.5]).reshape(1, 2, 1, 1)).flatten().tolist() == [0, 255]


@pytest.mark.parametrize("height, width", [(1080, 1920), (1920, 1080), (480, 640), (256, 256), (360, 850)])
def test_nearest_size_is_on_the_grid_and_close(height: int, width: int) -> None:
    h, w = nearest_size(height, width, pixels=128 * 128, grid=16)
    assert h % 16 == 0 and w % 16 == 0
    assert abs(math.log(h * w / 128**2)) < 0.25
    assert abs(math.log(w / h * height / width)) < 0.25


def test_nearest_size_of_known_shapes() -> None:
    assert nearest_size(1080, 1920, 128 * 128, 16) == (96, 176)
    assert nearest_size(1920, 1080, 128 * 128, 16) == (176, 96)
    with pytest.raises(ValueError, match="grid=0"):
        nearest_size(10, 10, 100, 0)


def test_resampling_to_the_own_rate_takes_each_frame_once() -> None:
    times = np.round(np.arange(77) / 30, 3)  # as Matroska stores them
    assert resample_indices(times, 77 / 30, 30).tolist() == list(range(77))
    assert resample_indices(times, 77 / 30, 15).tolist() == list(range(0, 77, 2))


def test_resampling_shows_what_is_on_screen() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.9])
    assert resample_indices(times, 1.0, 4).tolist() == [0, 2, 2, 2]
    assert resample_indices(times, 1.0, 20, start=0.8).tolist() == [2, 2, 3, 3]
    assert resample_indices(np.array([0.0]), 0.04, 8).tolist() == [0]


def test_wrong_frames_are_named() -> None:
    with pytest.raises(ValueError, match="to_uint8"):
        to_float(torch.zeros(1, 2, 2, 3))
    with pytest.raises(ValueError, match="at least 1x1"):
        resize_area(noise(1, 4, 4, 3), 0, 4)
    with pytest.raises(ValueError, match="aspect=-1"):
        center_crop_to_aspect(noise(1, 4, 4, 3), -1)


@pytest.mark.parametrize(
    ("most", "expected"), [((32, 64), (32, 43)), ((96, 64), (48, 64)), ((48, 64), (48, 64)), ((480, 1), (1, 1))]
)
def test_a_contained_picture_keeps_its_shape_within_the_size(most: tuple[int, int], expected: tuple[int, int]) -> None:
    assert contained_size(48, 64, *most) == expected
