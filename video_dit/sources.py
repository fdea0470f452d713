"""The clips of a run: of the world, of a manifest, or encoded before; and what the codec asks of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.dataset import ClipSource, WorldClips
from data.manifest import has_split
from data.manifest_clips import ManifestClips
from data.packing import LatentShape, PackPlan
from data.shards import Shards
from data.video_limits import ReadLimits
from vae3d import LatentCodec
from video_dit.config import RunConfig
from video_dit.text import text_fingerprint

HELD_OUT_CLIPS = 64  # scenes of the world, for validation where no manifest has rows for it


def check_clips(config: RunConfig, codec: LatentCodec) -> None:
    """Raises ValueError where the codec or the patches of the transformer cannot take ``data.*``."""
    data = config.data
    for name in ("num_frames", "window_frames"):
        try:
            codec.num_latent_frames(getattr(data, name))
        except ValueError as error:  # it speaks of num_frames
            raise ValueError(f"data.{name}: {error}") from None
    grid = codec.grid * config.model.patch_size
    for height, width in data.sizes:
        if height % grid or width % grid:
            raise ValueError(f"data.sizes has {height}x{width}: both must be multiples of {grid}")


def clip_source(config: RunConfig, codec: LatentCodec, split: str) -> ClipSource:
    """The clips of a split: those of ``data.manifest``, or of the world where there is none, or where it has no rows
    of split ``val`` to validate on.

    Raises:
        ValueError: as `check_clips` and `ManifestClips`.
    """
    check_clips(config, codec)
    data = config.data
    if data.manifest and (split == "train" or has_split(data.manifest, split)):
        r = codec.frame_rule[0]
        limits = ReadLimits(max_seconds=data.read_seconds)
        return ManifestClips(data.manifest, split, data.num_frames, data.sizes, data.frame_rates[0], r, limits)
    count = data.num_clips if split == "train" else HELD_OUT_CLIPS
    return WorldClips(split, count, data.num_frames, data.sizes, data.frame_rates)


def training_clips(config: RunConfig, codec: LatentCodec) -> ClipSource:
    """What is trained on: the shards of ``data.latents``, or else the clips of split ``train``.

    Raises:
        ValueError: as `clip_source` and `Shards`.
    """
    check_clips(config, codec)
    if config.data.latents:
        return Shards(Path(config.data.latents), encoding(config, codec))
    return clip_source(config, codec, "train")


def pack_plan(config: RunConfig, codec: LatentCodec, source: ClipSource, packs_per_step: int = 1) -> PackPlan:
    """How clips become packs, so many a step of all ranks.

    Raises:
        ValueError: as `PackPlan`.
    """
    return PackPlan(
        latent_shapes(source, codec, config.model.patch_size),
        codec.num_latent_frames(config.data.window_frames),
        config.data.token_budget,
        config.context.keyframe,
        config.seed,
        packs_per_step=packs_per_step,
        attention_cost=1 / (6 * config.model.hidden_size),
    )


def encoding(config: RunConfig, codec: LatentCodec) -> Mapping[str, Any]:
    """What latents in shards depend on, and a training on them must share: the codec's class and a hash of its weights,
    the frames, and where ``data.manifest`` is given a hash of that file.

    Raises:
        ValueError: the manifest is not there.
    """
    data = config.data
    manifest = {"manifest": file_hash(Path(data.manifest))} if data.manifest else {}
    return {
        **manifest,
        "codec": type(codec.vae).__name__,
        "weights": codec.fingerprint(),
        "num_frames": data.num_frames,
        "sizes": [list(size) for size in data.sizes],
        "frame_rates": list(data.frame_rates),
    }


def check_text(source: ClipSource, tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel) -> None:
    """Raises ValueError where shards hold embeddings of captions by another text encoder."""
    if isinstance(source, Shards) and source.text_encoder:
        ours = text_fingerprint(tokenizer, text_encoder)
        if source.text_encoder != ours:
            raise ValueError(
                f"data.latents={source.folder} was made with text_encoder {source.text_encoder}, not {ours}: "
                "use the same text.*, or encode anew"
            )


def file_hash(path: Path) -> str:
    """64 bits of what the file holds; ValueError where it is none."""
    if not path.is_file():
        raise ValueError(f"data.manifest={path} does not exist: check its path")
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def latent_shapes(source: ClipSource, codec: LatentCodec, patch_size: int) -> list[LatentShape]:
    """Latent frames, and tokens in each, of all clips."""
    grid = codec.grid * patch_size
    shapes = [source.shape(index) for index in range(len(source))]
    return [LatentShape(codec.num_latent_frames(s.num_frames), (s.height // grid) * (s.width // grid)) for s in shapes]
