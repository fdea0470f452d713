"""From what the loader read to training packs."""

from pathlib import Path

from data.latents import TensorCache
from data.packing import LoadedPack, Packs
from data.seeding import keyed_generator
from data.shards import Shards
from vae3d import LatentCodec
from video_dit.batch import Pack, build_pack, encode_clip
from video_dit.config import RunConfig
from video_dit.sources import clip_source, pack_plan, training_clips


class PackFactory:
    """Turns what the loader gives into training packs; encodes clips the first time they are met."""

    def __init__(self, config: RunConfig, codec: LatentCodec, split: str, packs_per_step: int = 1) -> None:
        self.config, self.codec = config, codec
        folder = Path(config.data.cache) if config.data.cache else None
        self.cache = TensorCache(folder, space=codec.fingerprint())
        self.source = training_clips(config, codec) if split == "train" else clip_source(config, codec, split)
        self.plan = pack_plan(config, codec, self.source, packs_per_step)
        stored = self.source if isinstance(self.source, Shards) else self.cache
        self.packs = Packs(self.source, stored, self.plan)

    def build(self, loaded: LoadedPack, position: int) -> Pack:
        """The pack of one position; ValueError where none of the clips up to it can be read."""
        if not loaded.items:
            data = self.config.data
            where = f"data.latents={data.latents}" if data.latents else f"data.manifest={data.manifest}"
            raise ValueError(f"{where}: no clip tried so far can be read: mend it")
        views = []
        for item in loaded.items:
            encoded = item.encoded
            if encoded is None:
                assert item.clip is not None
                key = self.source.key(item.view.index)
                encoded = encode_clip(self.codec, item.clip, keyed_generator(key, "encode"))
                self.cache.put(key, encoded)
            views.append((item.view, encoded, item.text))
        model = self.config.model
        return build_pack(
            views,
            position,
            self.config.seed,
            self.codec.frame_rule[0],
            model.patch_size,
            model.base_tokens,
            self.config.context,
            self.config.noise,
        )
