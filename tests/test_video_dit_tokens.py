"""Latents to tokens and back, where tokens stand, and which sample they belong to."""

import pytest
import torch
from packed import slices

from video_dit.tokens import Segments, grid_coords, latent_times, patchify, per_token, unpatchify


@pytest.mark.parametrize(("shape", "patch"), [((2, 3, 4, 6, 8), 2), ((1, 2, 1, 3, 5), 1), ((1, 1, 2, 4, 4), 4)])
def test_patchify_and_back(shape: tuple[int, ...], patch: int) -> None:
    b, c, t, h, w = shape
    latents = torch.randn(shape)
    tokens = patchify(latents, patch)
    assert tokens.shape == (b, t * (h // patch) * (w // patch), c * patch**2)
    assert torch.equal(unpatchify(tokens, (t, h // patch, w // patch), patch), latents)


def test_tokens_are_in_order_of_time_row_column() -> None:
    t, h, w = 2, 4, 6
    latents = torch.arange(t * h * w).view(1, 1, t, h, w)
    tokens = patchify(latents, 2)[0]  # 12 4
    assert tokens[0].tolist() == [0, 1, 6, 7]
    assert tokens[1].tolist() == [2, 3, 8, 9]  # the next column
    assert tokens[3].tolist() == [12, 13, 18, 19]  # the next row
    assert tokens[6].tolist() == [24, 25, 30, 31]  # the next latent frame


def test_a_token_stands_where_its_pixels_are() -> None:
    """Latents that hold their own coordinates: the mean over a patch is the token's coordinate."""
    height, width, patch = 4, 6, 2
    times = torch.tensor([0.0, 0.3, 0.8])
    rows = torch.arange(height) + 0.5 - height / 2
    columns = torch.arange(width) + 0.5 - width / 2
    places = torch.stack(torch.meshgrid(times, rows, columns, indexing="ij"))[None]  # 1 3 t h w
    tokens = patchify(places, patch)[0].unflatten(1, (3, -1)).mean(dim=2)
    assert torch.allclose(tokens, grid_coords(times, height, width, patch), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (2, 10), (6, 6)])
def test_space_counts_from_the_centre(height: int, width: int) -> None:
    coords = grid_coords(torch.zeros(1), height, width, 2).view(height // 2, width // 2, 3)
    assert torch.equal(coords.flip(0)[..., 1], -coords[..., 1])
    assert torch.equal(coords.flip(1)[..., 2], -coords[..., 2])
    steps = coords[0, :, 2].diff()
    assert torch.equal(steps, torch.full_like(steps, 2.0))
    assert coords.dtype == torch.float32


def test_times_are_the_mean_of_the_frames_that_a_latent_stands_for() -> None:
    rate, r = 8.0, 4
    frames = torch.arange(1 + 3 * r) / rate
    expected = torch.cat([frames[:1], frames[1:].view(-1, r).mean(dim=1)])
    assert torch.allclose(latent_times(4, rate, r, starts_clip=True), expected)
    assert torch.allclose(latent_times(3, rate, r, starts_clip=False), frames[:-1].view(-1, r).mean(dim=1))
    assert latent_times(1, rate, r, starts_clip=True).tolist() == [0]
    assert torch.allclose(latent_times(5, 24.0, r, True), latent_times(5, rate, r, True) / 3)


def test_per_token_repeats_over_a_latent_frame() -> None:
    values = torch.tensor([1, 2, 3])
    grid = per_token(values, 4, 6, 2).view(3, 2, 3)
    assert torch.equal(grid, values.view(3, 1, 1).expand(3, 2, 3))


def test_segments() -> None:
    segments = Segments.from_lengths([3, 1, 4])
    assert segments.cu_seqlens.tolist() == [0, 3, 4, 8]
    assert segments.cu_seqlens.dtype == torch.int32
    assert (segments.max_length, segments.count) == (4, 3)
    assert slices(segments) == [slice(0, 3), slice(3, 4), slice(4, 8)]
    moved = segments.to("meta")
    assert moved.cu_seqlens.device.type == "meta"
    assert moved.max_length == 4


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_no_segment_is_empty(lengths: list[int]) -> None:
    with pytest.raises(AssertionError):
        Segments.from_lengths(lengths)
