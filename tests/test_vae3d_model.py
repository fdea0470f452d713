"""`VideoVAE`: shapes, causality, errors, cost, and diffusers' save and load."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vae3d import VideoVAE

CONFIGS = Path(__file__).parents[1] / "configs"


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def one_line(error: pytest.ExceptionInfo[ValueError]) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("r", "s", "levels"), [(4, 8, 1), (4, 8, 2), (2, 4, 1), (8, 16, 3), (4, 4, 2), (2, 16, 1), (1, 8, 0)]
)
@torch.no_grad()
def test_shapes_follow_the_factors(r: int, s: int, levels: int) -> None:
    sizes = {"encoder_width": 8, "encoder_depth": 1, "decoder_width": 8, "decoder_depth": 1}
    vae = VideoVAE(5, r, s, levels, **sizes, thin_width=4, thin_depth=1)
    for k in (0, 2):
        x = clip(2, 3, 1 + r * k, 2 * s, 3 * s)
        posterior = vae.encode(x).latent_dist
        assert posterior.mode().shape == posterior.logvar.shape == (2, 5, 1 + k, 2, 3)
        assert vae.decode(posterior.mode()).sample.shape == x.shape


@torch.no_grad()
def test_later_frames_do_not_change_earlier_latents(tiny_vae: VideoVAE) -> None:
    x = clip(1, 3, 17, 16, 24)
    changed = x.clone()
    changed[:, :, -1] = -changed[:, :, -1]
    before, after = (tiny_vae.encode(v).latent_dist.parameters for v in (x, changed))
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])
    assert not torch.equal(before[:, :, -1], after[:, :, -1])


@torch.no_grad()
def test_each_latent_sees_its_own_group_of_frames(tiny_vae: VideoVAE) -> None:
    x = clip(1, 3, 9, 8, 8)
    z = tiny_vae.encode(x).latent_dist.mode()
    for frame, group in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
        changed = x.clone()
        changed[:, :, frame] += 0.5
        moved = (tiny_vae.encode(changed).latent_dist.mode() - z).abs().amax(dim=(0, 1, 3, 4)) > 0
        assert int(moved.int().argmax()) == group, f"frame {frame} changes latents {moved.tolist()}"


@torch.no_grad()
def test_later_latents_do_not_change_earlier_frames(tiny_vae: VideoVAE) -> None:
    z = clip(1, 4, 5, 2, 3)
    changed = z.clone()
    changed[:, :, 3] += 1
    before, after = (tiny_vae.decode(v).sample for v in (z, changed))
    assert torch.equal(before[:, :, : 1 + 4 * 2], after[:, :, : 1 + 4 * 2])
    for frame in range(9, 13):
        assert not torch.equal(before[:, :, frame], after[:, :, frame])


@torch.no_grad()
def test_an_image_is_the_start_of_a_clip(tiny_vae: VideoVAE) -> None:
    x = clip(1, 3, 9, 16, 16)
    image, video = tiny_vae.encode(x[:, :, :1]).latent_dist.mode(), tiny_vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(image, video[:, :, :1], atol=1e-5, rtol=0)
    picture, frames = tiny_vae.decode(image).sample, tiny_vae.decode(video).sample
    torch.testing.assert_close(picture, frames[:, :, :1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_clips_of_a_batch_do_not_mix(tiny_vae: VideoVAE) -> None:
    x = clip(2, 3, 5, 16, 16)
    torch.testing.assert_close(tiny_vae(x).sample[1:], tiny_vae(x[1:]).sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 48, 16, 16), "num_frames=48 must be 1 + 4k: use 45 or 49"),
        ((1, 3, 2, 16, 16), "num_frames=2 must be 1 + 4k: use 1 or 5"),
        ((1, 3, 0, 16, 16), "num_frames=0 must be 1 + 4k: use 1 or 5"),
        ((1, 3, 5, 20, 16), "height=20 must be a multiple of 8: use 16 or 24"),
        ((1, 3, 5, 0, 16), "height=0 must be a multiple of 8: use 8 or 16"),
        ((1, 3, 5, 16, 7), "width=7 must be a multiple of 8: use 8 or 16"),
        ((1, 4, 5, 16, 16), "frames of shape (1, 4, 5, 16, 16) must be (b, 3, t, h, w)"),
        ((3, 5, 16, 16), "frames of shape (3, 5, 16, 16) must be (b, 3, t, h, w)"),
    ],
)
def test_frames_of_a_wrong_size_are_named(tiny_vae: VideoVAE, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        tiny_vae.encode(torch.zeros(shape))
    assert one_line(error)


def test_no_latents_are_no_clip(tiny_vae: VideoVAE) -> None:
    with pytest.raises(ValueError, match="are empty: give at least one latent frame"):
        tiny_vae.decode(torch.zeros(1, 4, 0, 2, 2))


@pytest.mark.parametrize("shape", [(1, 5, 2, 2, 2), (4, 2, 2, 2)])
def test_latents_of_a_wrong_shape_are_named(tiny_vae: VideoVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{shape} must be (b, 4, t, h, w)")) as error:
        tiny_vae.decode(torch.zeros(shape))
    assert one_line(error)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"encoder_width": 0}, "encoder_width=0 must be at least 1"),
        ({"latent_channels": 0}, "latent_channels=0 must be at least 1"),
        ({"thin_width": 0}, "thin_width=0 must be at least 1"),
        ({"wavelet_levels": -1}, "wavelet_levels=-1 must be at least 0"),
        ({"decoder_depth": -1}, "decoder_depth=-1 must be at least 0"),
        ({"ratio": -1.0}, "ratio=-1.0 must give the feed-forward layers at least one hidden channel"),
        ({"ratio": float("inf")}, "ratio=inf must give the feed-forward layers"),
        ({"ratio": float("nan")}, "ratio=nan must give the feed-forward layers"),
        ({"ratio": 0.1}, "ratio=0.1 must give the feed-forward layers at least one hidden channel"),
        ({"time_factor": 3}, "time_factor=3 must be a multiple of 2**wavelet_levels=2"),
        ({"space_factor": 6, "wavelet_levels": 2}, "space_factor=6 must be a multiple"),
        ({"time_factor": 1}, "time_factor=1 must be a multiple"),
        ({"latents_mean": [0.0] * 3}, "latents_mean has 3 values and must have latent_channels=8"),
        ({"latents_std": [1.0] * 9}, "latents_std has 9 values and must have latent_channels=8"),
    ],
)
def test_a_config_that_does_not_fit_is_named(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        VideoVAE(**{"encoder_width": 8} | option)
    assert one_line(error)


@torch.no_grad()
def test_interface_of_diffusers(tiny_vae: VideoVAE, tmp_path: Path) -> None:
    x = clip(1, 3, 5, 16, 16)
    (posterior,) = encoded = tiny_vae.encode(x, return_dict=False)
    assert isinstance(encoded, tuple)
    assert torch.equal(posterior.mode(), tiny_vae.encode(x).latent_dist.mode())
    assert torch.equal(tiny_vae.decode(posterior.mode(), return_dict=False)[0], tiny_vae(x).sample)
    draws = [posterior.sample(generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])

    tiny_vae.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    again = VideoVAE.from_pretrained(tmp_path)
    assert again.config.latents_std == tiny_vae.config.latents_std
    assert torch.equal(again(x).sample, tiny_vae(x).sample)


def test_all_weights_are_trained(tiny_vae: VideoVAE) -> None:
    x = clip(1, 3, 9, 16, 16)
    posterior = tiny_vae.encode(x).latent_dist
    (tiny_vae.decode(posterior.sample()).sample - x).abs().mean().backward()
    idle = [name for name, p in tiny_vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@pytest.mark.parametrize(("name", "limit"), [("vae_tiny", 60e3), ("vae_base", 200e3)])
def test_decoding_is_cheap(name: str, limit: float) -> None:
    path = CONFIGS / f"{name}.yaml"
    with torch.device("meta"):
        vae = VideoVAE(**OmegaConf.to_container(OmegaConf.load(path).model))
        z = torch.zeros(1, vae.config.latent_channels, 5, 16, 16)
        with FlopCounterMode(display=False) as counter:
            frames = vae.decode(z).sample
    assert counter.get_total_flops() / (frames.numel() / 3) < limit
