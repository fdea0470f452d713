"""Models of others, from their folders in the format of diffusers, as a `VideoPipeline`."""

from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.utils.import_utils import is_accelerate_available
from transformers import UMT5EncoderModel

from vae3d import LatentCodec
from vae3d.interop import DAMAGE, load_whole, one_line
from video_dit.pipeline import VideoPipeline
from video_dit.schedulers import check_scheduler
from video_dit.wan import WanDenoiser, WanTokenizer


def load_wan(folder: Path, dtype: torch.dtype) -> VideoPipeline:
    """The pipeline in a folder of diffusers' `WanPipeline`; the autoencoder in fp32, as its authors use it.

    Raises:
        ValueError: the package accelerate is missing, the folder is damaged, or it is no text-to-video model.
    """
    if not is_accelerate_available():
        raise ValueError(f"{folder} is a WanPipeline, which needs the package accelerate: pip install accelerate")
    codec = LatentCodec.from_pretrained(folder)
    others: Any = dict.fromkeys(("vae", "text_encoder", "transformer", "transformer_2"))  # they are loaded one by one
    try:
        rest = WanPipeline.from_pretrained(folder, **others)
        facts: Any = WanTransformer3DModel.load_config(folder / "transformer")
    except (*DAMAGE, ImportError) as error:
        raise ValueError(f"{folder} is no whole WanPipeline: {one_line(error)}") from None
    told = {name: facts.get(name) for name in ("in_channels", "out_channels", "image_dim")}
    if list(told.values()) != [codec.latent_channels, codec.latent_channels, None]:
        has = ", ".join(f"{name}={value}" for name, value in told.items())
        raise ValueError(
            f"{folder} has a transformer with {has}: give a text-to-video model, with the {codec.latent_channels} "
            "channels of its autoencoder and no image_dim"
        )
    check_scheduler(rest.scheduler, {"path": "straight", "prediction": "velocity"})

    def part(cls: Any, name: str) -> Any:
        return load_whole(cls, folder / name, f"{folder} holds no whole {name}", {"dtype": dtype})

    boundary = rest.config.boundary_ratio
    low = None if boundary is None else part(WanTransformer3DModel, "transformer_2")
    high = part(WanTransformer3DModel, "transformer")
    transformer: Any = WanDenoiser(high, low, boundary or 0.0, rest.config.expand_timesteps).eval()
    tokenizer: Any = WanTokenizer(rest.tokenizer)
    return VideoPipeline(transformer, codec.vae, part(UMT5EncoderModel, "text_encoder"), tokenizer, rest.scheduler)
