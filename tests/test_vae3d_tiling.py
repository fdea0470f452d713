"""Tiles give the numbers of the whole frame, in chunks as well, and cover it once."""

import pytest
import torch
from torch import Tensor

from vae3d import VideoVAE
from vae3d.streaming import DecodeStream, EncodeStream
from vae3d.tiling import spans


def clip(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("tile", [None, 1, 4, 8, 100])
def test_spans_cover_an_axis_once_with_their_halo(size: int, tile: int | None) -> None:
    parts = spans(size, tile, 2)
    assert [i for part in parts for i in range(part.first, part.last)] == list(range(size))
    for part in parts:
        assert part.start == max(0, part.first - 2)
        assert part.stop == min(size, part.last + 2)
        assert part.last - part.first <= (tile or size)


@pytest.mark.parametrize("tile", [16, 24, 64])
@torch.no_grad()
def test_tiled_equals_whole(tiny_vae: VideoVAE, tile: int) -> None:
    x = clip(2, 3, 5, 72, 96)
    z = tiny_vae.encode(x).latent_dist.mode()
    y = tiny_vae.decode(z).sample
    tiny_vae.enable_tiling(tile)
    torch.testing.assert_close(tiny_vae.encode(x).latent_dist.mode(), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiny_vae.decode(z).sample, y, atol=1e-5, rtol=0)
    tiny_vae.disable_tiling()
    assert torch.equal(tiny_vae.decode(z).sample, y)


@torch.no_grad()
def test_a_halo_one_pixel_short_would_show(tiny_vae: VideoVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clip(1, 3, 5, 64, 64)
    z = tiny_vae.encode(x).latent_dist.mode()
    y = tiny_vae.decode(z).sample
    tiny_vae.enable_tiling(32)
    for part, whole, run in (
        (tiny_vae.encoder, z, lambda: tiny_vae.encode(x).latent_dist.mode()),
        (tiny_vae.decoder, y, lambda: tiny_vae.decode(z).sample),
    ):
        short = part.reach - 1
        with monkeypatch.context() as patch:
            patch.setattr(type(part), "reach", property(lambda self, short=short: short))
            assert (run() - whole).abs().max() > 1e-5


@torch.no_grad()
def test_tiles_stream(tiny_vae: VideoVAE) -> None:
    x = clip(1, 3, 13, 48, 64)
    z = tiny_vae.encode(x).latent_dist.mode()
    y = tiny_vae.decode(z).sample
    tiny_vae.enable_tiling(24)
    encoder, decoder = EncodeStream(tiny_vae), DecodeStream(tiny_vae)
    latents = [encoder.push(chunk) for chunk in x.split([2, 7, 4], dim=2)]
    torch.testing.assert_close(torch.cat(latents, dim=2), z, atol=1e-4, rtol=0)
    frames = [decoder.push(chunk) for chunk in z.split([1, 2, 1], dim=2)]
    torch.testing.assert_close(torch.cat(frames, dim=2), y, atol=1e-4, rtol=0)


@torch.no_grad()
def test_tiling_is_not_changed_within_a_clip(tiny_vae: VideoVAE) -> None:
    decoder = DecodeStream(tiny_vae)
    decoder.push(torch.zeros(1, 4, 1, 6, 6))
    tiny_vae.enable_tiling(24)
    with pytest.raises(ValueError, match="from 1 tiles to 4: start a new stream"):
        decoder.push(torch.zeros(1, 4, 1, 6, 6))


def test_a_tile_off_the_grid_is_named(tiny_vae: VideoVAE) -> None:
    with pytest.raises(ValueError, match="tile_size=100 must be a multiple of 8: use 96"):
        tiny_vae.enable_tiling(100)
    with pytest.raises(ValueError, match="tile_size=0 must be a multiple of 8: use 8"):
        tiny_vae.enable_tiling(0)
