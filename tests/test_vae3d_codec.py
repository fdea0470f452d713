"""`LatentCodec`: normalised latents, streams of them, and its errors."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae3d import LatentCodec, VideoVAE


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def codec(tiny_vae: VideoVAE) -> LatentCodec:
    return LatentCodec(tiny_vae)


def test_numbers_of_the_codec(codec: LatentCodec) -> None:
    assert codec.frame_rule == (4, 1)
    assert (codec.grid, codec.latent_channels) == (8, 4)
    assert [codec.num_latent_frames(n) for n in (1, 5, 49, 161)] == [1, 2, 13, 41]


@pytest.mark.parametrize(
    ("frames", "fix"), [(48, "use 45 or 49"), (2, "use 1 or 5"), (0, "use 1 or 5"), (-3, "use 1 or 5")]
)
def test_frame_counts_beside_the_rule(codec: LatentCodec, frames: int, fix: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"num_frames={frames} must be 1 + 4k: {fix}")) as error:
        codec.num_latent_frames(frames)
    assert "\n" not in str(error.value)


def test_latents_are_the_normalised_mean(codec: LatentCodec) -> None:
    x = clip(2, 3, 5, 16, 24)
    with torch.no_grad():
        mean = codec.vae.encode(x).latent_dist.mode()
    latents = codec.encode(x)
    assert latents.shape == (2, 4, 2, 2, 3)
    assert torch.equal(latents, codec.encode(x))  # not a sample
    for c in range(4):
        expected = (mean[:, c] - codec.vae.config.latents_mean[c]) / codec.vae.config.latents_std[c]
        torch.testing.assert_close(latents[:, c], expected)
    torch.testing.assert_close(codec.denormalize(codec.normalize(mean)), mean)


def test_decode_undoes_the_normalisation(codec: LatentCodec) -> None:
    x = clip(1, 3, 9, 16, 16)
    with torch.no_grad():
        expected = codec.vae(x).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.decode(codec.encode(x)), expected, atol=1e-5, rtol=0)


def test_decoded_frames_lie_in_range(codec: LatentCodec) -> None:
    frames = codec.decode(50 * clip(1, 4, 2, 2, 2))
    assert frames.abs().max() == 1
    stream = codec.decode_stream()
    assert stream.push(50 * clip(1, 4, 2, 2, 2)).abs().max() == 1


def test_streams_equal_the_whole_calls(codec: LatentCodec) -> None:
    x = clip(2, 3, 17, 16, 16)
    latents = codec.encode(x)
    encoder, decoder = codec.encode_stream(), codec.decode_stream()
    pushed = [encoder.push(chunk) for chunk in x.split([2, 1, 6, 0, 8], dim=2)]
    encoder.finish()
    assert (torch.cat(pushed, dim=2) - latents).abs().max() <= 1e-4
    shown = [decoder.push(chunk) for chunk in latents.split([1, 0, 3, 1], dim=2)]
    decoder.finish()
    assert (torch.cat(shown, dim=2) - codec.decode(latents)).abs().max() <= 1e-4


def test_streams_end_with_the_frame_rule(codec: LatentCodec) -> None:
    encoder = codec.encode_stream()
    encoder.push(clip(1, 3, 7, 8, 8))
    with pytest.raises(ValueError, match="push 2 more or 2 less"):
        encoder.finish()
    with pytest.raises(ValueError, match="at least one latent frame"):
        codec.decode_stream().finish()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            torch.full((1, 3, 1, 8, 8), 255.0),
            "frames hold values from 255.0 to 255.0 and must lie in [-1, 1]",
        ),
        (torch.full((1, 3, 1, 8, 8), -1.5), "must lie in [-1, 1]: scale uint8 by /127.5 - 1"),
        (torch.full((1, 3, 1, 8, 8), torch.nan), "nan"),
        (torch.zeros(1, 3, 4, 8, 8), "num_frames=4 must be 1 + 4k: use 1 or 5"),
        (torch.zeros(1, 3, 5, 12, 8), "height=12 must be a multiple of 8: use 8 or 16"),
        (torch.zeros(1, 3, 0, 8, 8), "num_frames=0 must be 1 + 4k: use 1 or 5"),
        (torch.zeros(3, 5, 8, 8), "must be (b, 3, t, h, w)"),
    ],
    ids=["uint8", "low", "nan", "count", "height", "none", "rank"],
)
def test_bad_frames_are_named(codec: LatentCodec, frames: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        codec.encode(frames)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 5, 2, 2, 2), (1, 1, 2, 2, 2), (4, 2, 2, 2)])
def test_bad_latents_are_named(codec: LatentCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{shape} must be (b, 4, t, h, w)")) as error:
        codec.decode(torch.zeros(shape))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 5, 12, 8), "height=12 must be a multiple of 8: use 8 or 16"),
        ((1, 4, 5, 8, 8), "(b, 3, t, h, w)"),
    ],
)
def test_bad_frames_of_a_stream_are_named(codec: LatentCodec, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        codec.encode_stream().push(torch.zeros(shape))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape("must lie in [-1, 1]")):
        codec.encode_stream().push(torch.full((1, 3, 1, 8, 8), 255.0))
    with pytest.raises(ValueError, match=re.escape("(1, 3, 1, 2, 2) must be (b, 4, t, h, w)")):
        codec.decode_stream().push(torch.zeros(1, 3, 1, 2, 2))


def test_an_untrained_autoencoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no latents_mean and latents_std: train it with tools/train_vae\.py"):
        LatentCodec(VideoVAE(width=8, encoder_depth=1, decoder_depth=1))


def test_loads_from_a_checkpoint_folder(codec: LatentCodec, tmp_path: Path) -> None:
    codec.vae.save_pretrained(tmp_path / "vae")
    x = clip(1, 3, 5, 16, 16)
    again = LatentCodec.from_pretrained(tmp_path)
    assert not again.vae.training
    assert torch.equal(again.encode(x), codec.encode(x))
    assert torch.equal(LatentCodec.from_pretrained(tmp_path / "vae", subfolder=None).encode(x), codec.encode(x))
    half = LatentCodec.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.vae.dtype == torch.bfloat16
    latents = half.encode(x)
    assert latents.dtype == half.decode(latents).dtype == torch.float32
    assert (latents - codec.encode(x)).abs().mean() < 0.05


def test_an_autoencoder_without_weights_is_refused(codec: LatentCodec, tmp_path: Path) -> None:
    codec.vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no whole autoencoder"):
        LatentCodec.from_pretrained(tmp_path)


def test_a_folder_without_an_autoencoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no autoencoder: give a folder that has vae/config\.json"):
        LatentCodec.from_pretrained(tmp_path)
