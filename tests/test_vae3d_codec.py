"""`LatentCodec`: normalised latents, streams of them, and its errors."""

import re
from collections.abc import Callable
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
    assert encoder.finish().shape == (2, 4, 0, 2, 2)
    assert (torch.cat(pushed, dim=2) - latents).abs().max() <= 1e-4
    shown = [decoder.push(chunk) for chunk in latents.split([1, 0, 3, 1], dim=2)]
    assert decoder.finish().shape == (2, 3, 0, 16, 16)
    assert (torch.cat(shown, dim=2) - codec.decode(latents)).abs().max() <= 1e-4


@torch.no_grad()
def test_long_clips_are_taken_in_chunks_and_equal_one_pass(codec: LatentCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae3d.codec.CHUNK_PIXELS", 8 * 4 * 16 * 24 + 100)
    assert codec.chunk_length(2, 3) == 8
    assert codec.chunk_length(90, 90) == 1  # of a large frame as well
    x = clip(1, 3, 1 + 4 * 21, 16, 24)
    latents, encoded = chunks_of(codec.vae.encoder.blocks[0], lambda: codec.encode(x))
    frames, decoded = chunks_of(codec.vae.decoder.blocks[0], lambda: codec.decode(latents))
    assert encoded == decoded == [8, 8, 6]
    raw = codec.vae.encode(x).latent_dist.mode()
    assert (codec.denormalize(latents) - raw).abs().max() <= 1e-4
    assert (frames - codec.vae.decode(raw).sample.clamp(-1, 1)).abs().max() <= 1e-4


def chunks_of(block: torch.nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, list[int]]:
    """The result of ``run`` and the latent frames that the block was given each time."""
    taken: list[int] = []
    with block.register_forward_hook(lambda _, given, __: taken.append(given[0].shape[1])):
        return run(), taken


def test_encoding_and_decoding_keep_no_graph(codec: LatentCodec) -> None:
    latents = codec.encode(clip(1, 3, 5, 8, 8).requires_grad_())
    assert not latents.requires_grad
    assert not codec.decode(latents.requires_grad_()).requires_grad


def test_tiles_give_the_same_numbers(codec: LatentCodec) -> None:
    x = clip(1, 3, 5, 96, 64)
    latents = codec.encode(x)
    frames = codec.decode(latents)
    codec.enable_tiling(32)
    assert codec.vae.tile == 4
    assert (codec.encode(x) - latents).abs().max() <= 1e-4
    assert (codec.decode(latents) - frames).abs().max() <= 1e-4
    codec.enable_tiling(None)
    assert codec.vae.tile is None
    with pytest.raises(ValueError, match="tile_size=12 must be a multiple of 8"):
        codec.enable_tiling(12)


def test_in_bf16_streams_and_tiles_agree_to_rounding(tiny_vae: VideoVAE) -> None:
    codec = LatentCodec(tiny_vae.bfloat16())
    x = clip(1, 3, 17, 48, 64)
    latents = codec.encode(x)
    frames = codec.decode(latents)
    encoder, decoder = codec.encode_stream(), codec.decode_stream()
    streamed = torch.cat([encoder.push(frame) for frame in x.split(1, dim=2)], dim=2)
    shown = torch.cat([decoder.push(latent) for latent in latents.split(1, dim=2)], dim=2)
    codec.enable_tiling(24)
    for found, whole in (
        (streamed, latents),
        (shown, frames),
        (codec.encode(x), latents),
        (codec.decode(latents), frames),
    ):
        assert (found - whole).square().mean().sqrt() < 2 * 10 ** (-45 / 20) * whole.std()


def test_sizes_are_checked_without_frames(codec: LatentCodec) -> None:
    codec.check_size(torch.empty(1, 3, 49, 720, 1280, device="meta"))
    for size in (0, 4, 12):
        with pytest.raises(ValueError, match=f"width={size} must be a multiple of 8: use 8 or 16"):
            codec.check_size(torch.empty(1, 3, 49, 8, size, device="meta"))


def test_a_stream_stays_with_its_size(codec: LatentCodec) -> None:
    encoder, decoder = codec.encode_stream(), codec.decode_stream()
    encoder.push(clip(1, 3, 2, 8, 16))
    with pytest.raises(ValueError, match=re.escape("(1, 3, 2, 16, 16) must be (1, 3, t, 8, 16) as those before")):
        encoder.push(clip(1, 3, 2, 16, 16))
    decoder.push(clip(1, 4, 2, 1, 2))
    with pytest.raises(ValueError, match=re.escape("(2, 4, 2, 1, 2) must be (1, 4, t, 1, 2) as those before")):
        decoder.push(clip(2, 4, 2, 1, 2))
    encoder.push(clip(1, 3, 3, 8, 16))  # a refused chunk leaves no trace
    assert encoder.finish().shape == (1, 4, 0, 1, 2)


def test_streams_end_with_the_frame_rule(codec: LatentCodec) -> None:
    encoder = codec.encode_stream()
    encoder.push(clip(1, 3, 7, 8, 8))
    with pytest.raises(ValueError, match="push 2 more or 2 less"):
        encoder.finish()
    with pytest.raises(ValueError, match="at least one latent frame"):
        codec.decode_stream().finish()
    with pytest.raises(ValueError, match="num_frames=0 must be 1 \\+ 4k: push at least one frame"):
        codec.encode_stream().finish()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            torch.full((1, 3, 1, 8, 8), 255.0),
            "frames hold values from 255.0 to 255.0 and must lie in [-1, 1]",
        ),
        (torch.full((1, 3, 1, 8, 8), -1.5), "must lie in [-1, 1]: scale uint8 by /127.5 - 1"),
        (torch.full((1, 3, 1, 8, 8), torch.nan), "frames hold values from nan to nan and must be finite"),
        (torch.full((1, 3, 1, 8, 8), torch.inf), "frames hold values from inf to inf and must be finite"),
        (
            torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8),
            "frames of torch.uint8 must be float in [-1, 1]: scale uint8 by /127.5 - 1",
        ),
        (torch.zeros(1, 3, 4, 8, 8), "num_frames=4 must be 1 + 4k: use 1 or 5"),
        (torch.zeros(1, 3, 5, 12, 8), "height=12 must be a multiple of 8: use 8 or 16"),
        (torch.zeros(1, 3, 0, 8, 8), "num_frames=0 must be 1 + 4k: use 1 or 5"),
        (torch.zeros(3, 5, 8, 8), "frames of shape (3, 5, 8, 8) must be (b, 3, t, h, w): rearrange them"),
        (torch.zeros(0, 3, 5, 8, 8), "frames of shape (0, 3, 5, 8, 8) hold no clip: give at least one"),
    ],
    ids=["scale", "low", "nan", "infinity", "uint8", "count", "height", "none", "rank", "no clip"],
)
def test_bad_frames_are_named(codec: LatentCodec, frames: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        codec.encode(frames)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_what_makes_latents() -> None:
    encoder = {"latent_channels": 4, "encoder_width": 8, "encoder_depth": 1, "latents_mean": [0.0] * 4}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "thin_width": 4, "thin_depth": 1, "latents_std": [1.0] * 4}
    vaes = [VideoVAE(**encoder, **decoder | change) for change in ({}, {"decoder_depth": 2, "thin_width": 8})]
    vaes[1].encoder.load_state_dict(vaes[0].encoder.state_dict())
    codecs = [LatentCodec(vae) for vae in vaes]
    assert codecs[0].fingerprint() == codecs[1].fingerprint()
    assert codecs[0].fingerprint(decoder=True) != codecs[1].fingerprint(decoder=True)
    vaes[1].register_to_config(latents_std=[2.0] * 4)
    assert LatentCodec(vaes[1]).fingerprint() != codecs[0].fingerprint()


@pytest.mark.parametrize("shape", [(1, 5, 2, 2, 2), (1, 1, 2, 2, 2), (4, 2, 2, 2), (1, 4, 2, 0, 3), (0, 4, 2, 2, 2)])
def test_bad_latents_are_named(codec: LatentCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{shape} must be (b, 4, t, h, w)")) as error:
        codec.decode(torch.zeros(shape))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "found"), [(torch.nan, "from nan to nan"), (torch.inf, "to inf"), (-torch.inf, "from -inf to 0.0")]
)
def test_latents_that_are_not_finite_are_named(codec: LatentCodec, value: float, found: str) -> None:
    latents = torch.zeros(1, 4, 2, 1, 1)
    latents[0, 1, 0] = value
    for use in (codec.decode, codec.denormalize, codec.check_latents, codec.decode_stream().push):
        with pytest.raises(ValueError, match="must be finite: make them with a lower guidance_scale") as error:
            use(latents)
        assert found in str(error.value)


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
        LatentCodec(VideoVAE(encoder_width=8, encoder_depth=1, decoder_depth=1))


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
