"""Whether a model trained on your own clips makes the right one of each caption: the clip nearest to the sample."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.manifest_clips import ManifestClips
from data.sheet import write_rows
from data.transforms import to_float, to_uint8
from video_dit.few_steps import use_few_steps
from video_dit.layers import fast_dtype, find_device
from video_dit.loading import load_model
from video_dit.pipeline import VideoPipeline
from video_dit.request import PromptSchedule


@dataclass(frozen=True)
class RecallOptions:
    """model: a folder that train.py wrote. manifest: of the clips, rows of split ``train`` where it has splits. steps,
    guidance_scale, seed: of the samples. picture: of samples above their clips. device: "auto" for CUDA if it is
    there."""

    model: Path
    manifest: Path
    steps: int
    guidance_scale: float | None
    seed: int
    picture: Path | None
    device: str


@dataclass(frozen=True)
class Recall:
    """Of one caption. own, other: mean squared distance of the sample's latents from its own clip, and from the nearest
    of the others; latents have a variance of 1. nearest: the caption of the nearest clip of all."""

    text: str
    own: float
    other: float
    nearest: str

    def line(self) -> str:
        """A row of the table."""
        return f"{self.own:7.3f}  {self.other:7.3f}  {'yes' if self.own < self.other else 'NO':>7}  {self.text}"


HEADING = "    own    other  nearest  caption"


@torch.no_grad()
def evaluate_recall(options: RecallOptions, say: Callable[[str], None]) -> dict:
    """Make a sample of each caption, and find the clip whose latents are nearest to it.

    All clips are fitted to the size of the caption's own one, so that any two can be compared; of a file that gives
    several clips, and of a caption that stands for several files, the nearest counts. Where one is shorter, the
    other's first latent frames are taken.

    Raises:
        ValueError: the model or the manifest cannot be read, there is no such device, or all captions are the same.
    """
    device = find_device(options.device)
    pipe = load_model(options.model, fast_dtype(device)).to(device)
    pipe.set_progress_bar_config(leave=False, disable=None)
    scale = use_few_steps(pipe, options.model, options.steps, options.guidance_scale, say)
    sizes = {size: clip_latents(pipe, options.manifest, size) for size in sorted(set(pipe.sizes))}
    clips = manifest_clips(pipe, options.manifest, sorted(sizes))
    texts = [clips.text(index, 0) for index in range(len(clips))]
    if len(set(texts)) < 2:
        raise ValueError(f"--manifest {options.manifest}: all clips have one caption: there is nothing to tell apart")
    say(HEADING)
    captions, rows = [], list[tuple[str, Tensor]]()
    for text in dict.fromkeys(texts):
        shape = clips.shape(texts.index(text))
        generator = torch.Generator().manual_seed(options.seed)
        output: Any = pipe(
            PromptSchedule.plain(text),
            height=shape.height,
            width=shape.width,
            num_inference_steps=options.steps,
            guidance_scale=scale,
            generator=generator,
            output_type="latent",
        )
        sample = output.frames[0]  # c t h w
        away = [distance(sample, latents) for latents in sizes[shape.height, shape.width]]
        own = min(one for one, other in zip(away, texts, strict=True) if other == text)
        other = min(one for one, other in zip(away, texts, strict=True) if other != text)
        nearest = away.index(min(away))
        captions.append(Recall(text, own, other, texts[nearest]))
        say(captions[-1].line())
        if options.picture:
            rows += [
                (f"sample: {text}", decoded(pipe, sample)),
                (f"nearest clip: {texts[nearest]}", clips.load(nearest).frames),
            ]
    right = sum(one.own < one.other for one in captions)
    say(f"nearest to its own clip: {right} of {len(captions)}")
    if options.picture:
        write_rows(options.picture, rows)
    return {"nearest_to_its_own": right, "captions": [vars(one) for one in captions]}


def manifest_clips(pipe: VideoPipeline, manifest: Path, sizes: list[tuple[int, int]]) -> ManifestClips:
    """The clips that the model was trained on, at its rate, as long as its window."""
    r = pipe.codec.frame_rule[0]
    return ManifestClips(manifest, "train", 1 + r * (pipe.window - 1), sizes, pipe.frame_rate, r)


def clip_latents(pipe: VideoPipeline, manifest: Path, size: tuple[int, int]) -> list[Tensor]:
    """Latents ``(c, t, h, w)`` of all clips, fitted to one size, fp32."""
    clips = manifest_clips(pipe, manifest, [size])
    codec = pipe.codec
    latents = []
    for index in tqdm(range(len(clips)), desc="clips", unit="clip", leave=False, disable=None):
        frames = to_float(clips.load(index).frames)[None].to(codec.vae.device, codec.vae.dtype)
        latents.append(codec.encode(frames)[0].float().cpu())
    return latents


def distance(sample: Tensor, clip: Tensor) -> float:
    """Mean squared difference over the latent frames that both have."""
    frames = min(sample.shape[1], clip.shape[1])
    return float((sample[:, :frames].float().cpu() - clip[:, :frames]).square().mean())


def decoded(pipe: VideoPipeline, latents: Tensor) -> Tensor:
    """Frames, uint8 ``(t, h, w, 3)``."""
    codec = pipe.codec
    return to_uint8(codec.decode(latents[None].to(codec.vae.device, codec.vae.dtype))[0])
