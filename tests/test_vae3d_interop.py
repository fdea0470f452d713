"""`LatentCodec` over the autoencoders of diffusers: small ones with random weights, saved and loaded by path."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo, AutoencoderKLLTXVideo, AutoencoderKLWan
from torch import Tensor

from vae3d import LatentCodec
from video_dit import VideoDiT, VideoPipeline

MEAN, STD = [0.1, -0.5, 0.3, 0.0], [0.5, 1.5, 0.25, 2.0]
WAN: dict[str, Any] = {"z_dim": 4, "dim_mult": [1] * 4, "num_res_blocks": 1, "latents_mean": MEAN, "latents_std": STD}


def wan21() -> AutoencoderKLWan:
    return AutoencoderKLWan(4, **WAN)


def wan22() -> AutoencoderKLWan:
    patches: dict[str, Any] = {"in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}
    return AutoencoderKLWan(4, **WAN, **patches, is_residual=True)


def cogvideox(invert: bool = False) -> AutoencoderKLCogVideoX:
    small: dict[str, Any] = {"block_out_channels": (4,) * 4, "latent_channels": 4, "layers_per_block": 1}
    return AutoencoderKLCogVideoX(**small, norm_num_groups=2, scaling_factor=0.7, invert_scale_latents=invert)


def ltx(timestep_conditioning: bool = False) -> AutoencoderKLLTXVideo:
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        scaling_factor=0.5,
        timestep_conditioning=timestep_conditioning,
        decoder_inject_noise=(timestep_conditioning,) * 5,
    )
    vae.latents_mean.copy_(torch.tensor(MEAN))
    vae.latents_std.copy_(torch.tensor(STD))
    for name, parameter in vae.named_parameters():
        if "per_channel_scale" in name:  # of the noise; zeros when new
            torch.nn.init.constant_(parameter, 0.5)
    return vae


def hunyuan() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2, scaling_factor=0.4
    )


@dataclass(frozen=True)
class Kind:
    """An autoencoder, and what its codec must say."""

    make: Callable[[], Any]
    r: int
    grid: int
    mean: list[float]
    std: list[float]


ZERO = [0.0] * 4
KINDS = {
    "wan21": Kind(wan21, 4, 8, MEAN, STD),
    "wan22": Kind(wan22, 4, 16, MEAN, STD),
    "cogvideox": Kind(cogvideox, 4, 8, ZERO, [1 / 0.7] * 4),
    "cogvideox15": Kind(lambda: cogvideox(invert=True), 4, 8, ZERO, [1 / 0.7] * 4),
    "ltx": Kind(ltx, 8, 32, MEAN, [2 * s for s in STD]),
    "ltx091": Kind(lambda: ltx(timestep_conditioning=True), 8, 32, MEAN, [2 * s for s in STD]),
    "hunyuan": Kind(hunyuan, 4, 8, ZERO, [2.5] * 4),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def build(kind: Kind) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind.make().eval()


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@every_kind
def test_numbers_of_the_codec(kind: Kind) -> None:
    codec = LatentCodec(build(kind))
    assert codec.frame_rule == (kind.r, 1)
    assert (codec.grid, codec.latent_channels) == (kind.grid, 4)
    assert [codec.num_latent_frames(1 + kind.r * k) for k in (0, 1, 12)] == [1, 2, 13]
    with pytest.raises(ValueError, match=re.escape(f"num_frames=50 must be 1 + {kind.r}k: use 49 or {49 + kind.r}")):
        codec.num_latent_frames(50)


@every_kind
def test_statistics_are_those_of_the_autoencoder(kind: Kind) -> None:
    codec = LatentCodec(build(kind))
    raw = clip(2, 4, 3, 2, 2)
    expected = torch.stack([(raw[:, c] - kind.mean[c]) / kind.std[c] for c in range(4)], dim=1)
    torch.testing.assert_close(codec.normalize(raw), expected)
    torch.testing.assert_close(codec.denormalize(codec.normalize(raw)), raw)


@every_kind
def test_loads_by_path(kind: Kind, tmp_path: Path) -> None:
    vae = build(kind)
    vae.save_pretrained(tmp_path / "vae")
    loaded = LatentCodec.from_pretrained(tmp_path / "vae", subfolder=None)
    assert type(loaded.vae) is type(vae)
    assert not loaded.vae.training
    x, codec = clip(1, 3, 1 + kind.r, kind.grid, 2 * kind.grid), LatentCodec(vae)
    assert torch.equal(loaded.encode(x), codec.encode(x))
    assert torch.equal(LatentCodec.from_pretrained(tmp_path).encode(x), codec.encode(x))
    assert loaded.fingerprint(decoder=True) == codec.fingerprint(decoder=True)
    with torch.no_grad():
        for part in (getattr(vae, name, None) for name in ("decoder", "post_quant_conv")):
            _ = [parameter.mul_(1.5) for parameter in part.parameters()] if part else []
        assert loaded.fingerprint() == codec.fingerprint()  # its latents are as they were
        assert loaded.fingerprint(decoder=True) != codec.fingerprint(decoder=True)
        next(vae.encoder.parameters()).mul_(1.5)
    assert loaded.fingerprint() != codec.fingerprint()


@every_kind
@pytest.mark.parametrize("k", [0, 1, 2, 3, 5])
def test_frames_to_latents_and_back(kind: Kind, k: int) -> None:
    vae = build(kind)
    codec = LatentCodec(vae)
    x = clip(2, 3, 1 + kind.r * k, kind.grid, 2 * kind.grid)
    latents = codec.encode(x)
    assert latents.shape == (2, 4, 1 + k, 1, 2)
    assert latents.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(latents, codec.normalize(vae.encode(x).latent_dist.mode()))
    frames = codec.decode(latents)
    assert frames.shape == x.shape
    assert frames.abs().max() <= 1
    assert frames.std() > 0.01
    assert torch.equal(frames, codec.decode(latents))


@torch.no_grad()
def test_latents_are_scaled_as_in_the_pipelines() -> None:
    """The lines of diffusers' pipelines, from their latents to the decoder's: wan, cogvideo, hunyuan_video, ltx."""
    from diffusers import LTXPipeline

    latents = clip(1, 4, 3, 2, 2)
    for make in (wan21, wan22):
        config = make().config
        mean = torch.tensor(config.latents_mean).view(1, config.z_dim, 1, 1, 1)
        std = 1.0 / torch.tensor(config.latents_std).view(1, config.z_dim, 1, 1, 1)
        torch.testing.assert_close(LatentCodec(make()).denormalize(latents), latents / std + mean)
    for vae in (cogvideox(), cogvideox(invert=True)):
        torch.testing.assert_close(LatentCodec(vae).denormalize(latents), 1 / vae.config.scaling_factor * latents)
    vae = hunyuan()
    torch.testing.assert_close(LatentCodec(vae).denormalize(latents), latents / vae.config.scaling_factor)
    vae, codec = ltx(), LatentCodec(ltx())
    numbers = (vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    torch.testing.assert_close(codec.denormalize(latents), LTXPipeline._denormalize_latents(latents, *numbers))
    torch.testing.assert_close(codec.normalize(latents), LTXPipeline._normalize_latents(latents, *numbers))


@torch.no_grad()
def test_cogvideox_keeps_the_frame_rule_for_an_even_number_of_latent_frames() -> None:
    vae = build(KINDS["cogvideox"])
    codec, latents = LatentCodec(vae), clip(1, 4, 4, 2, 2)
    raw = codec.denormalize(latents)
    assert vae.decode(raw).sample.shape[2] == 16  # diffusers: 13 would be right
    repeated = vae.decode(torch.cat([raw, raw[:, :, -1:]], dim=2)).sample
    torch.testing.assert_close(codec.decode(latents), repeated[:, :, :13].clamp(-1, 1))
    assert torch.equal(codec.decode(latents[:, :, :3]), vae.decode(raw[:, :, :3]).sample.clamp(-1, 1))


@torch.no_grad()
def test_ltx_decoders_are_told_level_0_and_draw_the_same_noise() -> None:
    vae = build(KINDS["ltx091"])
    codec, latents = LatentCodec(vae), clip(2, 4, 2, 1, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    decoded = codec.decode(latents)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert torch.equal(decoded, vae.decode(codec.denormalize(latents), torch.zeros(2)).sample.clamp(-1, 1))
    torch.manual_seed(1)  # so the noise counts
    assert not torch.equal(decoded, vae.decode(codec.denormalize(latents), torch.zeros(2)).sample.clamp(-1, 1))
    torch.manual_seed(0)  # and the level
    assert not torch.equal(decoded, vae.decode(codec.denormalize(latents), torch.ones(2)).sample.clamp(-1, 1))


@every_kind
def test_streams_keep_until_finish(kind: Kind) -> None:
    codec, r, grid = LatentCodec(build(kind)), kind.r, kind.grid
    x = clip(1, 3, 1 + 2 * r, grid, 2 * grid)
    latents = codec.encode(x)
    encoder, decoder = codec.encode_stream(), codec.decode_stream()
    buffer = torch.empty(1, 3, r - 1, grid, 2 * grid)
    for part in x.split([r - 1, 0, r - 1, 3], dim=2):
        chunk = buffer[:, :, : part.shape[2]].copy_(part)  # a caller may use one buffer for all
        assert encoder.push(chunk).shape == (1, 4, 0, 1, 2)
    assert torch.equal(encoder.finish(), latents)
    for part in latents.split([1, 0, 2], dim=2):
        assert decoder.push(part).shape == (1, 3, 0, grid, 2 * grid)
    assert torch.equal(decoder.finish(), codec.decode(latents))


@every_kind
def test_streams_end_with_the_frame_rule(kind: Kind) -> None:
    codec, r = LatentCodec(build(kind)), kind.r
    encoder = codec.encode_stream()
    encoder.push(clip(1, 3, r, kind.grid, kind.grid))
    with pytest.raises(ValueError, match=re.escape(f"num_frames={r} must be 1 + {r}k: use 1 or {1 + r}")):
        encoder.finish()
    encoder = codec.encode_stream()
    with pytest.raises(ValueError, match=re.escape(f"num_frames=0 must be 1 + {r}k: push at least one frame")):
        encoder.finish()
    decoder = codec.decode_stream()
    decoder.push(torch.zeros(1, 4, 0, 1, 1))
    with pytest.raises(ValueError, match="a clip has at least one latent frame"):
        decoder.finish()


@every_kind
def test_bad_clips_and_latents_are_named(kind: Kind) -> None:
    codec, r, grid = LatentCodec(build(kind)), kind.r, kind.grid
    for shape, message in [
        ((1, 3, r, grid, grid), f"num_frames={r} must be 1 + {r}k: use 1 or {1 + r}"),
        ((1, 3, 1, grid + 4, grid), f"height={grid + 4} must be a multiple of {grid}: use {grid} or {2 * grid}"),
        ((1, 3, 1, grid, 4), f"width=4 must be a multiple of {grid}: use {grid} or {2 * grid}"),
        ((1, 4, 1, grid, grid), f"frames of shape (1, 4, 1, {grid}, {grid}) must be (b, 3, t, h, w)"),
        ((3, 1, grid, grid), "must be (b, 3, t, h, w)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            codec.encode(torch.zeros(shape))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape("(1, 3, 1, 2, 2) must be (b, 4, t, h, w)")):
        codec.decode(torch.zeros(1, 3, 1, 2, 2))
    with pytest.raises(ValueError, match="latents hold values from nan to nan and must be finite"):
        codec.decode(torch.full((1, 4, 1, 2, 2), torch.nan))


@every_kind
def test_half_precision(kind: Kind, tmp_path: Path) -> None:
    vae = build(kind)
    vae.save_pretrained(tmp_path / "vae")
    half, full = LatentCodec.from_pretrained(tmp_path, dtype=torch.bfloat16), LatentCodec(vae)
    assert half.vae.dtype == torch.bfloat16
    x = clip(1, 3, 1 + kind.r, kind.grid, 2 * kind.grid)
    latents = full.encode(x)
    assert half.encode(x).dtype == half.decode(latents).dtype == torch.float32
    assert (half.encode(x) - latents).abs().mean() < 0.05
    assert (half.decode(latents) - full.decode(latents)).abs().mean() < 0.05


@every_kind
@torch.no_grad()
def test_tiles_bound_what_is_computed_at_once(kind: Kind) -> None:
    vae, tile = build(kind), 4 * kind.grid
    codec = LatentCodec(vae)
    sizes: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, seen in sizes.items():
        getattr(vae, name).register_forward_hook(lambda _, given, __, seen=seen: seen.append(given[0].shape[-1]))
    x = clip(1, 3, 1, kind.grid, 7 * kind.grid)
    whole = codec.encode(x)
    frames = codec.decode(whole)
    codec.enable_tiling(tile)
    for seen in sizes.values():
        seen.clear()
    assert codec.encode(x).shape == whole.shape
    assert codec.decode(whole).shape == frames.shape
    patches = vae.config.get("patch_size") if isinstance(vae, AutoencoderKLWan) else None
    assert max(sizes["encoder"]) == (tile if patches is None else x.shape[4] // patches)  # Wan 2.2: 2 tiles a side
    assert sizes["decoder"] == [4, 4, 1]  # latent pixels: a stride of 3
    codec.enable_tiling(None)
    assert torch.equal(codec.encode(x), whole)
    assert torch.equal(codec.decode(whole), frames)


@pytest.mark.parametrize("kind", [KINDS["wan21"], KINDS["cogvideox"]], ids=["wan21", "cogvideox"])
def test_tiled_frames_are_close(kind: Kind) -> None:
    """The others look too far around with random weights for tiles as small as here."""
    codec = LatentCodec(build(kind))
    latents = codec.encode(clip(1, 3, 5, 96, 104))
    whole = codec.decode(latents)
    codec.enable_tiling(64)
    both = torch.stack([whole.flatten(), codec.decode(latents).flatten()])
    assert not torch.equal(both[0], both[1])
    assert torch.corrcoef(both)[0, 1] > 0.9


@every_kind
@pytest.mark.parametrize("factor", [0, 3, 6])
def test_a_bad_tile_is_named(kind: Kind, factor: int) -> None:
    step, tile = 4 * kind.grid, factor * kind.grid
    lower = max(step, tile // step * step)
    with pytest.raises(ValueError, match=f"tile={tile} must be a multiple of {step}: use {lower} or {lower + step}"):
        LatentCodec(build(kind)).enable_tiling(tile)


def test_a_pipeline_runs_on_one(tiny_pipe: VideoPipeline, tiny_dit: VideoDiT, tmp_path: Path) -> None:
    parts = {name: getattr(tiny_pipe, name) for name in ("text_encoder", "tokenizer", "scheduler")}
    VideoPipeline(transformer=tiny_dit, vae=build(KINDS["wan21"]), **parts).save_pretrained(tmp_path)
    pipe = VideoPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.vae, AutoencoderKLWan)
    generator = torch.Generator().manual_seed(0)
    made = pipe("a ball", num_frames=9, height=32, width=32, num_inference_steps=1, generator=generator)
    assert made.frames.shape == (1, 9, 32, 32, 3)


def save_broken(folder: Path, **entries: object) -> None:
    """A Wan autoencoder whose config.json has these entries instead."""
    build(KINDS["wan21"]).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"_class_name": "WanTransformer3DModel"}, "has _class_name='WanTransformer3DModel': give the folder of one"),
        ({"_class_name": None}, "has _class_name=None: give the folder of one of VideoVAE, AutoencoderKLWan"),
        ({"_class_name": ["AutoencoderKLWan"]}, "has _class_name=['AutoencoderKLWan']"),
        ({"latents_std": [1.0, 0.0, 1.0, 1.0]}, "latents_std[1]=0.0 must be above 0"),
        ({"latents_mean": [1.0, 0.0, float("nan"), 1.0]}, "latents_mean[2]=nan must be finite"),
        ({"latents_mean": [0.0] * 16}, "latents_mean has 16 values and must have latent_channels=4"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial=16 must be 4 and 8, which the autoencoder is built for"),
        ({"base_dim": 8}, "holds no whole autoencoder"),
        ({"num_res_blocks": 2}, "holds no whole autoencoder: its weights lack "),
        ({"z_dim": "four"}, "holds no whole autoencoder"),
    ],
    ids=["model", "none", "list", "zero", "nan", "length", "factor", "width", "depth", "type"],
)
def test_a_wrong_config_is_named(entries: dict[str, object], message: str, tmp_path: Path) -> None:
    save_broken(tmp_path / "vae", **entries)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        LatentCodec.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_other_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="a Linear is no autoencoder of clips: give one of VideoVAE, AutoencoderKLWan"):
        LatentCodec(torch.nn.Linear(1, 1))
    vae = hunyuan()
    vae.register_to_config(scaling_factor=0.0)
    with pytest.raises(ValueError, match=r"scaling_factor=0\.0 must be above 0"):
        LatentCodec(vae)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"holds no whole autoencoder: config\.json") as error:
        LatentCodec.from_pretrained(tmp_path, subfolder=None)
    assert "\n" not in str(error.value)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    build(KINDS["ltx"]).save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    for damaged in (weights.read_bytes()[:-100], b"", b"x" * 64):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no whole autoencoder") as error:
            LatentCodec.from_pretrained(tmp_path, subfolder=None)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["/no/such/folder", "./runs/vae", "no-such-folder", "runs/vae/best"])
def test_a_missing_folder_is_named(folder: str) -> None:
    with pytest.raises(ValueError, match=r"holds no autoencoder: give a folder that has vae/config\.json"):
        LatentCodec.from_pretrained(folder)


def test_a_hub_name_without_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"owner/model is no folder here, and the Hugging Face Hub gave no vae/config\.json of that name: check"
    with pytest.raises(ValueError, match=message) as error:
        LatentCodec.from_pretrained("owner/model")
    assert "\n" not in str(error.value)


def test_a_hub_name_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded once loads by its name without a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--owner--model", "0" * 40
    vae = build(KINDS["wan21"])
    vae.save_pretrained(repository / "snapshots" / commit / "vae")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert LatentCodec.from_pretrained("owner/model").fingerprint(True) == LatentCodec(vae).fingerprint(True)
