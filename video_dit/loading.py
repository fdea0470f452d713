"""A model folder, as `video_dit.model_folder` finds it, as a pipeline whose weights are all there."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from vae3d import LatentCodec
from vae3d.interop import DAMAGE, load_whole, one_line
from video_dit.model import VideoDiT
from video_dit.model_folder import WAN, check_model_folder
from video_dit.pipeline import VideoPipeline
from video_dit.text import ENCODERS


def load_model(folder: str | Path, dtype: torch.dtype, published: bool = False) -> VideoPipeline:
    """The pipeline in ``folder``, on the CPU; if ``published`` ones are taken, a `WanPipeline` as well.

    ``VideoPipeline.from_pretrained`` leaves weights that a file lacks random.

    Raises:
        ValueError: it is no such folder, or a part of it is missing, damaged or not whole.
    """
    if check_model_folder(folder, published) == WAN:
        from video_dit.published import load_wan

        return load_wan(Path(folder), dtype)

    def part(cls: Any, name: str, options: dict[str, Any]) -> Any:
        return load_whole(cls, Path(folder) / name, f"{folder} holds no whole {name}", {"dtype": dtype, **options})

    try:
        kind = AutoConfig.from_pretrained(Path(folder) / "text_encoder").model_type
    except DAMAGE as error:
        raise ValueError(f"{folder} holds no whole text_encoder: {one_line(error)}") from None
    if kind not in ENCODERS:
        raise ValueError(f"{folder} has a text encoder of kind {kind}: give one of {', '.join(ENCODERS)}")
    weighted = {
        "transformer": part(VideoDiT, "transformer", {"low_cpu_mem_usage": False}),  # the other way needs accelerate
        "vae": LatentCodec.from_pretrained(folder, dtype=dtype).vae,
        "text_encoder": part(ENCODERS[kind], "text_encoder", {}),
    }
    try:
        return VideoPipeline.from_pretrained(folder, **weighted)
    except DAMAGE as error:
        raise ValueError(f"{folder} is no whole model: {one_line(error)}") from None
