"""What `LatentCodec` must know of an autoencoder: its factors, the statistics of its latents, and how it is loaded.

Besides `VideoVAE` it understands four autoencoders of diffusers. Their formulas are those of diffusers' pipelines, so
that latents fit the transformers that were trained with them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor

from vae3d.model import VideoVAE

Autoencoder = VideoVAE | AutoencoderKLWan | AutoencoderKLCogVideoX | AutoencoderKLLTXVideo | AutoencoderKLHunyuanVideo
UNDERSTOOD = "VideoVAE, AutoencoderKLWan, AutoencoderKLCogVideoX, AutoencoderKLLTXVideo and AutoencoderKLHunyuanVideo"
HUB_NAME = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model-*-of-*.safetensors",
)
DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, StrictDataclassError),
)
"""What diffusers, transformers and torch raise over a config or weights that do not fit."""


@dataclass(frozen=True)
class LatentSpec:
    """Shape and statistics of an autoencoder's latents: normalised = (raw − mean) / std.

    time_factor: frames in a latent frame, but for the first, which stands for one. space_factor: pixels in a latent
    pixel along each axis. mean, std: fp32 ``(c,)``.
    """

    time_factor: int
    space_factor: int
    channels: int
    mean: Tensor
    std: Tensor


def latent_spec(vae: Autoencoder) -> LatentSpec:
    """What an autoencoder's config and buffers say of its latents.

    CogVideoX: ``shift_factor`` is read by none of its pipelines. ``invert_scale_latents`` concerns the image that its
    image-to-video model is given, whose scale was left out in training; video latents are divided by
    ``scaling_factor`` before they are decoded all the same. So neither counts here.

    Raises:
        ValueError: it is of another class, has no statistics, or they or its factors do not fit it.
    """
    config: Any = getattr(vae, "config", None)
    match vae:
        case VideoVAE():
            if config.latents_mean is None or config.latents_std is None:
                raise ValueError(
                    "the autoencoder has no latents_mean and latents_std: train it with tools/train_vae.py"
                )
            factors, channels = (config.time_factor, config.space_factor), config.latent_channels
            mean, std = config.latents_mean, config.latents_std
        case AutoencoderKLWan():
            factors, channels = _wan_factors(config), config.z_dim
            mean, std = config.latents_mean, config.latents_std
        case AutoencoderKLCogVideoX():
            factors = (config.temporal_compression_ratio, 2 ** (len(config.block_out_channels) - 1))
            channels = config.latent_channels
            mean, std = [0.0] * channels, [_inverse(config.scaling_factor)] * channels
        case AutoencoderKLLTXVideo():
            factors = (vae.temporal_compression_ratio, vae.spatial_compression_ratio)
            channels = config.latent_channels
            mean = vae.latents_mean.tolist()
            std = [value * _inverse(config.scaling_factor) for value in vae.latents_std.tolist()]
        case AutoencoderKLHunyuanVideo():
            factors = (config.temporal_compression_ratio, config.spatial_compression_ratio)
            channels = config.latent_channels
            mean, std = [0.0] * channels, [_inverse(config.scaling_factor)] * channels
        case _:
            raise ValueError(f"a {type(vae).__name__} is no autoencoder of clips: give one of {UNDERSTOOD}")
    _check_statistics(mean, std, channels)
    time_factor, space_factor = (int(factor) for factor in factors)
    return LatentSpec(time_factor, space_factor, channels, torch.tensor(mean).float(), torch.tensor(std).float())


def load_autoencoder(folder: str | Path, subfolder: str | None, dtype: torch.dtype) -> Autoencoder:
    """Load the autoencoder in ``folder/subfolder``, of the class that its config.json names; safetensors only.

    Args:
        folder: a folder, or where there is none of that name, a repository on the Hugging Face Hub ("owner/name").
        subfolder: of the autoencoder in it; None if it is the folder itself.
        dtype: of the weights.
    Raises:
        ValueError: there is none, it is damaged, or its class is unknown.
    """
    place = Path(folder) / (subfolder or "")
    remote = not Path(folder).is_dir() and re.fullmatch(HUB_NAME, str(folder)) is not None
    inside = f"{subfolder}/" if subfolder else ""
    root = download(str(folder), [f"{inside}config.json"]) / inside if remote else place
    name = _read_config(root, place, subfolder).get("_class_name")
    cls: Any
    match name:
        case "VideoVAE":
            cls = VideoVAE
        case "AutoencoderKLWan":
            cls = AutoencoderKLWan
        case "AutoencoderKLCogVideoX":
            cls = AutoencoderKLCogVideoX
        case "AutoencoderKLLTXVideo":
            cls = AutoencoderKLLTXVideo
        case "AutoencoderKLHunyuanVideo":
            cls = AutoencoderKLHunyuanVideo
        case _:
            raise ValueError(f"{place}/config.json has _class_name={name!r}: give the folder of one of {UNDERSTOOD}")
    if remote:
        download(str(folder), [f"{inside}{file}" for file in WEIGHTS])
    options = {"dtype": dtype, "low_cpu_mem_usage": False}  # the other way needs accelerate
    return load_whole(cls, root, f"{place} holds no whole autoencoder", options)


def load_whole(cls: Any, folder: Path, otherwise: str, options: dict[str, Any]) -> Any:
    """A model of diffusers or transformers, of class ``cls``, from its folder, to be used and not trained; safetensors
    only. options: of its ``from_pretrained``.

    Raises:
        ValueError: it cannot be loaded, or weights are missing; the message is ``otherwise`` and the reason.
    """
    try:
        model, info = cls.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **options)
    except DAMAGE as error:
        raise ValueError(f"{otherwise}: {one_line(error)}") from None
    if missing := sorted(info["missing_keys"]):  # they would be left random
        raise ValueError(f"{otherwise}: its weights lack {missing[0]}, {len(missing)} in all")
    return model.eval()


def encode_whole(vae: Autoencoder, frames: Tensor) -> Tensor:
    """Frames ``(b, 3, 1 + r·k, h, w)`` to the mean of their latents ``(b, c, 1 + k, h', w')``, not normalised."""
    return vae.encode(frames).latent_dist.mode()


def decode_whole(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Latents ``(b, c, 1 + k, h', w')``, not normalised, to frames ``(b, 3, 1 + r·k, h, w)``.

    CogVideoX decodes latent frames by twos, and only from an odd number makes 1 + r·k frames: an even one gets a
    repeat of its last latent frame, whose frames are dropped. LTX decoders that are told a noise level are told 0, as
    in their pipeline by default, and those that draw noise draw the same each time.
    """
    match vae:
        case AutoencoderKLCogVideoX():
            count, r = latents.shape[2], int(vae.config["temporal_compression_ratio"])
            if count % 2 == 0:
                latents = torch.cat([latents, latents[:, :, -1:]], dim=2)
            return vae.decode(latents).sample[:, :, : 1 + r * (count - 1)]
        case AutoencoderKLLTXVideo():
            level = latents.new_zeros(latents.shape[0]) if vae.config["timestep_conditioning"] else None
            with torch.random.fork_rng(devices=[latents.device] if latents.is_cuda else []):
                torch.manual_seed(0)
                return vae.decode(latents, level).sample
        case _:
            return vae.decode(latents).sample


def set_tiling(vae: Autoencoder, space_factor: int, tile: int | None) -> None:
    """Encode and decode in overlapping tiles of ``tile`` pixels a side, or in one piece (None).

    Raises:
        ValueError: ``tile`` breaks the autoencoder's rule. For those of diffusers it is a multiple of 4·space_factor,
            so that the stride, 3/4 of a tile, is a whole number of latent pixels.
    """
    if tile is None:
        vae.disable_tiling()
        return
    step = 4 * space_factor
    if not isinstance(vae, VideoVAE) and (tile < step or tile % step):
        lower = max(step, tile // step * step)
        raise ValueError(f"tile={tile} must be a multiple of {step}: use {lower} or {lower + step}")
    model: Any = vae  # mypy cannot tell the classes apart, since register_to_config hides their constructors
    stride = tile * 3 // 4
    match model:
        case VideoVAE():
            model.enable_tiling(tile)
        case AutoencoderKLCogVideoX():
            model.enable_tiling(tile, tile, tile_overlap_factor_height=0.25, tile_overlap_factor_width=0.25)
        case _:
            model.enable_tiling(tile, tile, tile_sample_stride_height=stride, tile_sample_stride_width=stride)


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())


def download(name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder in the cache of the Hugging Face Hub that holds the files of a repository that fit ``patterns``; its
    name is the commit.

    Raises:
        ValueError: there is no such repository, or no connection.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the Hub's own, or one of httpx or httpx2, as the version of huggingface_hub has it
        raise ValueError(
            f"{name} is no folder here, and the Hugging Face Hub gave no {patterns[0]} of that name: "
            f"check the name and the connection ({one_line(error)})"
        ) from None


def _read_config(root: Path, place: Path, subfolder: str | None) -> dict[str, Any]:
    file = root / "config.json"
    if not file.is_file():
        raise ValueError(f"{place} holds no autoencoder: give a folder that has {subfolder or '.'}/config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{place} holds no whole autoencoder: config.json: {one_line(error)}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{place} holds no whole autoencoder: config.json must hold an object")
    return config


def _wan_factors(config: Any) -> tuple[int, int]:
    """Wan 2.2 cuts frames into patches first; its ``scale_factor_spatial`` counts them in."""
    built = (2 ** sum(config.temperal_downsample), 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1))
    named = (config.scale_factor_temporal, config.scale_factor_spatial)
    if named != built or built[0] != 4:  # AutoencoderKLWan encodes by fours, whatever its config says
        raise ValueError(
            f"scale_factor_temporal={named[0]} and scale_factor_spatial={named[1]} must be 4 and {built[1]}, which "
            f"the autoencoder is built for (temperal_downsample, dim_mult, patch_size): mend its config.json"
        )
    return built


def _inverse(scaling_factor: float) -> float:
    if not 0 < scaling_factor < float("inf"):
        raise ValueError(f"scaling_factor={scaling_factor} must be above 0: mend the autoencoder's config.json")
    return 1 / scaling_factor


def _check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    for name, values in (("latents_mean", mean), ("latents_std", std)):
        if len(values) != channels:
            raise ValueError(f"{name} has {len(values)} values and must have latent_channels={channels}")
        for index, value in enumerate(values):
            if not float("-inf") < value < float("inf") or (values is std and value <= 0):
                rule = "above 0" if values is std else "finite"
                raise ValueError(f"{name}[{index}]={value} must be {rule}: measure the latents' statistics anew")
