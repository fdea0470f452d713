"""Training packs: built in the workers that read ahead, where the clips' latents are stored, else once they are."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from data.latents import TensorCache
from data.packing import LoadedPack, Packs, View
from data.seeding import keyed_generator
from data.shards import Shards
from vae3d import LatentCodec
from video_dit.batch import Pack, build_pack, encode_clip
from video_dit.config import RunConfig
from video_dit.distillation import on_schedule
from video_dit.sources import clip_source, pack_plan, training_clips
from video_dit.text import text_groups


@dataclass(frozen=True)
class BuiltPack:
    """A pack, the views in it, and how many of its clips could not be read."""

    pack: Pack
    views: tuple[View, ...]
    left_out: int


class PackBuilder(Dataset):
    """Pack ``position`` built, or as it was read where clips are still to be encoded; for the workers of a loader."""

    def __init__(self, packs: Packs, config: RunConfig, r: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self.packs, self.config, self.r, self.tokenizer = packs, config, r, tokenizer
        self.text_groups = text_groups(config.train.zero_stage)

    def __getitem__(self, position: int) -> "BuiltPack | LoadedPack":
        loaded = self.packs[position]
        encoded = [item.encoded for item in loaded.items if item.encoded is not None]
        if len(encoded) < max(1, len(loaded.items)):
            return loaded
        return self.built(loaded, encoded, position)

    def built(self, loaded: LoadedPack, encoded: list[dict[str, Tensor]], position: int) -> BuiltPack:
        """The pack of what was read; ``encoded`` has the tensors of `encode_clip` of each sample."""
        views = tuple(item.view for item in loaded.items)
        texts = [item.text for item in loaded.items]
        model = self.config.model
        pack = build_pack(
            list(zip(views, encoded, texts, strict=True)),
            position,
            self.config.seed,
            self.r,
            model.patch_size,
            model.base_tokens,
            self.config.context,
            self.config.noise,
            self.tokenizer,
            self.text_groups,
        )
        if self.config.distill.steps:
            pack = on_schedule(pack, self.config.distill, model.base_tokens, (self.config.seed, position))
        return BuiltPack(pack, views, loaded.left_out)


class PackFactory:
    """The packs of a split, by position; encodes clips the first time they are met."""

    def __init__(
        self,
        config: RunConfig,
        codec: LatentCodec,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        packs_per_step: int = 1,
    ) -> None:
        self.config, self.codec = config, codec
        folder = Path(config.data.cache) if config.data.cache else None
        self.cache = TensorCache(folder, space=codec.fingerprint())
        self.source = training_clips(config, codec) if split == "train" else clip_source(config, codec, split)
        self.plan = pack_plan(config, codec, self.source, packs_per_step)
        stored = self.source if isinstance(self.source, Shards) else self.cache
        self.packs = PackBuilder(Packs(self.source, stored, self.plan), config, codec.frame_rule[0], tokenizer)

    def build(self, read: BuiltPack | LoadedPack, position: int) -> BuiltPack:
        """Complete what a worker gave for one position; ValueError where none of the clips up to it can be read."""
        if isinstance(read, BuiltPack):
            return read
        if not read.items:
            data = self.config.data
            where = f"data.latents={data.latents}" if data.latents else f"data.manifest={data.manifest}"
            raise ValueError(f"{where}: no clip tried so far can be read: mend it")
        encoded = []
        for item in read.items:
            tensors = item.encoded
            if tensors is None:
                assert item.clip is not None
                key = self.source.key(item.view.index)
                tensors = encode_clip(self.codec, item.clip, keyed_generator(key, "encode"))
                self.cache.put(key, tensors)
            encoded.append(tensors)
        return self.packs.built(read, encoded, position)
