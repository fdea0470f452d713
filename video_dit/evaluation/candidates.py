"""The autoencoders that are compared: ours, and those of diffusers as published or with as many parameters as ours."""

import inspect
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from yaml import YAMLError

from vae3d import VideoVAE
from vae3d.interop import Autoencoder, decode_whole, encode_whole

Rival = Literal["wan", "cogvideox", "ltx", "hunyuan"]
Kind = Literal["ours", "published", "shrunk"]
PROBE = (17, 64, 64)
"""Frames, height and width that every rival takes."""


@dataclass(frozen=True)
class Candidate:
    """An autoencoder that is still to be built.

    Args:
        name: in tables.
        family: whose design it is.
        kind: "published" has its constructor's default arguments.
        cls, settings: its class and constructor's arguments.
    """

    name: str
    family: Literal["ours"] | Rival
    kind: Kind
    cls: Any
    settings: dict[str, Any]

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Autoencoder:
        """With random weights, for inference. On device "meta" it has shapes alone.

        In 16 bits, diffusers' convolutions are laid out channels last: a fifth faster on a CPU. In fp32 that is a
        little slower, so they are left as they are.
        """
        with torch.random.fork_rng(devices=[]), torch.device("meta" if device == "meta" else "cpu"):
            torch.manual_seed(seed)
            vae = self.cls(**self.settings)
        if dtype != torch.float32 and self.family != "ours":
            for module in vae.modules():
                if isinstance(module, nn.Conv3d | nn.Conv2d):
                    last = torch.channels_last_3d if isinstance(module, nn.Conv3d) else torch.channels_last
                    module.weight.data = module.weight.data.contiguous(memory_format=last)
        return nn.Module.to(vae, device=device, dtype=dtype).eval()  # diffusers' own `to` warns of nothing


@dataclass(frozen=True)
class Profile:
    """What the shapes of an autoencoder tell, without running it.

    parameters: encoder's and decoder's together. time_factor: frames in a latent frame; space_factor: pixels in a
    latent pixel along each axis. encode_flops, decode_flops: a frame's pixel; a multiplication and an addition count
    as two, and only matrix products, convolutions and attention count. latent_shape: ``(1, c, t', h', w')``.
    """

    parameters: int
    time_factor: int
    space_factor: int
    latent_shape: tuple[int, ...]
    encode_flops: float
    decode_flops: float

    @property
    def codec(self) -> str:
        """Factors and channels, as "4x8x8 z16"."""
        return f"{self.time_factor}x{self.space_factor}x{self.space_factor} z{self.latent_shape[1]}"


def ours(config: str) -> Candidate:
    """The autoencoder of the section ``model`` of a config of tools/train_vae.py, with latents of unit variance.

    Args:
        config: a file, and after it what differs: "vae_tiny.yaml model.decoder_width=256".
    Raises:
        ValueError: there is no such file, or no such section in it, or `VideoVAE` has no such arguments.
    """
    from video_dit.config import find_config  # imports DeepSpeed, which measured processes do without

    file, *overrides = re.split(r"\s+(?=[\w.]+=)", config)
    path = find_config(file)
    for override in overrides:
        if not re.fullmatch(r"model\.\w+=.+", override):
            raise ValueError(f"--config {config}: {override} must be model.key=value")
    try:
        loaded = OmegaConf.load(path)
        if isinstance(loaded, DictConfig):
            loaded.merge_with_dotlist(overrides)
        section = loaded.get("model") if isinstance(loaded, DictConfig) else None
        if not isinstance(section, DictConfig):
            raise ValueError(f"--config {config} has no section model: give one of tools/train_vae.py")
        settings: Any = OmegaConf.to_container(section, resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"--config {config} cannot be read: {' '.join(str(error).split())}") from None
    known = {name: p.default for name, p in inspect.signature(VideoVAE.__init__).parameters.items() if name != "self"}
    if unknown := sorted(map(str, set(settings) - known.keys())):
        raise ValueError(f"--config {config}: model.{unknown[0]} is unknown: use some of {', '.join(known)}")
    name = " ".join(["ours,", path.stem, *(override.removeprefix("model.") for override in overrides)])
    try:
        channels = settings.get("latent_channels", known["latent_channels"])
        settings |= {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
        candidate = Candidate(name, "ours", "ours", VideoVAE, settings)
        count_parameters(candidate)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--config {config}: model: {error}") from None
    return candidate


def published(rival: Rival) -> Candidate:
    """A rival with its default arguments, which are those of the released weights' size."""
    cls: Any
    match rival:
        case "wan":
            cls = AutoencoderKLWan
        case "cogvideox":
            cls = AutoencoderKLCogVideoX
        case "ltx":
            cls = AutoencoderKLLTXVideo
        case "hunyuan":
            cls = AutoencoderKLHunyuanVideo
    return Candidate(f"{rival}, published", rival, "published", cls, {})


def of_width(rival: Rival, width: int) -> Candidate:
    """A rival whose first stage has ``width`` channels, an even number, and the others in the published proportion.

    The groups of its norms are as published too, 4 channels each in the first stage; 2 where 4 do not divide it.
    """
    settings: dict[str, Any]
    groups = width // 4 if width % 4 == 0 else width // 2
    match rival:
        case "wan":
            settings = {"base_dim": width}
        case "cogvideox":
            stages = (width, 2 * width, 2 * width, 4 * width)
            settings = {"block_out_channels": stages, "norm_num_groups": groups}
        case "ltx":
            stages = (width, 2 * width, 4 * width, 4 * width)
            settings = {"block_out_channels": stages, "decoder_block_out_channels": stages}
        case "hunyuan":
            stages = (width, 2 * width, 4 * width, 4 * width)
            settings = {"block_out_channels": stages, "norm_num_groups": groups}
    return Candidate(f"{rival}, width {width}", rival, "shrunk", published(rival).cls, settings)


def shrunk(rival: Rival, parameters: int) -> Candidate:
    """A rival of the width of a short list with which it comes nearest to that many parameters."""
    widths = [*range(4, 32, 2), *range(32, 513, 4)]
    place = bisect_left(widths, parameters, key=lambda width: count_parameters(of_width(rival, width)))
    nearest = [of_width(rival, width) for width in widths[max(0, place - 1) : place + 1]]
    return min(nearest, key=lambda candidate: abs(count_parameters(candidate) - parameters))


def count_parameters(candidate: Candidate) -> int:
    """Numbers in all weights."""
    return sum(parameter.numel() for parameter in candidate.build(device="meta").parameters())


@torch.no_grad()
def profile(candidate: Candidate, num_frames: int, height: int, width: int) -> Profile:
    """Count what a clip of that size costs, on the meta device: nothing is computed.

    Raises:
        ValueError: the autoencoder cannot take the length or the size.
    """
    vae = candidate.build(device="meta")
    if isinstance(vae, VideoVAE):
        r, s = vae.config.time_factor, vae.config.space_factor
    else:
        probe = encode_whole(vae, torch.empty(1, 3, *PROBE, device="meta"))
        r, s = (PROBE[0] - 1) // (probe.shape[2] - 1), PROBE[1] // probe.shape[3]
    check_size(candidate.name, num_frames, height, width, r, s)
    pixels = num_frames * height * width
    with FlopCounterMode(display=False) as encoding:
        latents = encode_whole(vae, torch.empty(1, 3, num_frames, height, width, device="meta"))
    with FlopCounterMode(display=False) as decoding:
        frames = decode_whole(vae, latents)
    assert frames.shape == (1, 3, num_frames, height, width)
    return Profile(
        parameters=count_parameters(candidate),
        time_factor=r,
        space_factor=s,
        latent_shape=tuple(latents.shape),
        encode_flops=encoding.get_total_flops() / pixels,
        decode_flops=decoding.get_total_flops() / pixels,
    )


def check_size(name: str, num_frames: int, height: int, width: int, r: int, s: int, option: str = "--") -> None:
    """Raises ValueError unless a clip has 1 + r·k frames whose sides are multiples of s; ``option`` begins names."""
    if (num_frames - 1) % r:
        lower = 1 + (num_frames - 1) // r * r
        raise ValueError(f"{option}frames {num_frames} must be 1 + {r}k for {name}: use {lower} or {lower + r}")
    for side, size in (("height", height), ("width", width)):
        if size < s or size % s:
            lower = max(s, size // s * s)
            raise ValueError(
                f"{option}size: {side} {size} must be a multiple of {s} for {name}: use {lower} or {lower + s}"
            )
