"""Latents on disk, made once for many trainings: tar shards of safetensors, and an index that says what they are.

A folder holds ``shard-00000.tar``, …, each with the tensors of so many clips of the data set in order (one member each,
``NNNNNNNN.safetensors``, with its text and origin as metadata), beside each shard a ``.jsonl`` that lists its members,
and, once all are there, ``index.json``, ``index.jsonl`` and ``left_out.jsonl``, which says what could not be read. Any
program that reads tar and safetensors can use them.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data.dataset import WORLD_VERSION, Clip, ClipShape
from data.sheet import replacing

VERSION = 1


@dataclass(frozen=True)
class Encoded:
    """What is known of an encoded clip without reading it. index: in the data set it came from. texts: its captions, to
    be told in turn. num_frames, height, width: of its pixels. offset, size: of its tensors in the shard, in bytes."""

    index: int
    texts: list[str]
    num_frames: int
    height: int
    width: int
    frame_rate: float
    shard: str
    offset: int
    size: int


@dataclass(frozen=True)
class Unread:
    """A clip that could not be encoded, and why. index: in the data set."""

    index: int
    reason: str


def shard_name(number: int) -> str:
    """Of a shard's tar."""
    return f"shard-{number:05d}.tar"


def write_shard(
    folder: Path, number: int, clips: Iterable[tuple[int, list[str], ClipShape, dict[str, Tensor]] | Unread]
) -> list[Encoded]:
    """Write one shard, whole or not at all: index, captions, shape and tensors of each clip, or why there are none.
    Returns what it lists. The same clips give the same bytes."""
    name = shard_name(number)
    listed: list[Encoded] = []
    unread: list[Unread] = []
    with replacing(folder / name) as draft:
        with tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in clips:
                if isinstance(clip, Unread):
                    unread.append(clip)
                    continue
                index, texts, s, tensors = clip
                data = save({key: t.contiguous() for key, t in tensors.items()}, {"texts": json.dumps(texts)})
                member = tarfile.TarInfo(f"{index:08d}.safetensors")
                member.size = len(data)
                offset = tar.offset + tarfile.BLOCKSIZE  # behind the member's header
                tar.addfile(member, io.BytesIO(data))
                place = (s.num_frames, s.height, s.width, s.frame_rate, name, offset, len(data))
                listed.append(Encoded(index, texts, *place))
        # the lists come first: a shard that is there has them
        for suffix, facts in (("jsonl", listed), ("left_out.jsonl", unread)):
            with replacing(folder / f"{name}.{suffix}") as lines:
                lines.write_text("".join(json.dumps(asdict(one)) + "\n" for one in facts), encoding="utf-8")
    return listed


def is_written(folder: Path, number: int) -> bool:
    """Whether a shard is there, and whole."""
    return (folder / shard_name(number)).is_file()


def write_index(folder: Path, shards: int, settings: Mapping[str, Any]) -> bool:
    """Write the index once all ``shards`` are there, and tell whether they are. Every process may call it: the last
    to end does the work, and twice gives the same."""
    if not all(is_written(folder, number) for number in range(shards)):
        return False
    for name, suffix in (("index.jsonl", "jsonl"), ("left_out.jsonl", "left_out.jsonl")):
        with replacing(folder / name) as draft, draft.open("w", encoding="utf-8") as file:
            for number in range(shards):
                file.write((folder / f"{shard_name(number)}.{suffix}").read_text(encoding="utf-8"))
    with replacing(folder / "index.json") as draft:
        draft.write_text(json.dumps({"version": VERSION, **settings}, indent=1) + "\n", encoding="utf-8")
    return True


def read_left_out(folder: Path) -> list[Unread]:
    """The clips that are in no shard of a folder that has its index."""
    lines = (folder / "left_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [Unread(**json.loads(line)) for line in lines]


class Shards:
    """The encoded clips of a folder: a `data.dataset.ClipSource` whose tensors are all there, by `get`.

    Args:
        folder: written by tools/encode.py.
        settings: what must hold of them, such as the codec's fingerprint.
    Raises:
        ValueError: the folder lacks its index, or was made with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        if not (folder / "index.json").is_file():
            raise ValueError(f"data.latents={folder} has no index.json: run tools/encode.py until it ends")
        found = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        for name, value in {"version": VERSION, **settings}.items():
            if found.get(name) != value:
                raise ValueError(
                    f"data.latents={folder} was made with {name} {found.get(name)}, not {value}: encode anew"
                )
        if found.get("world", WORLD_VERSION) != WORLD_VERSION:
            raise ValueError(f"data.latents={folder} is of another version of the world: encode anew")
        self.text_encoder = str(found.get("text_encoder", ""))  # whose embeddings of the captions are stored as well
        lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
        self.clips = [Encoded(**json.loads(line)) for line in lines]
        if not self.clips:
            raise ValueError(f"data.latents={folder} has no clip: see what tools/encode.py left out")

    def __len__(self) -> int:
        return len(self.clips)

    def shape(self, index: int) -> ClipShape:
        """Of the clip's pixels."""
        clip = self.clips[index]
        return ClipShape(clip.num_frames, clip.height, clip.width, clip.frame_rate)

    def key(self, index: int) -> str:
        """What `get` knows the clip by."""
        return str(index)

    def text(self, index: int, epoch: int) -> str:
        """A caption of the clip, another in each epoch as long as there are some."""
        texts = self.clips[index].texts
        return texts[epoch % len(texts)]

    def load(self, index: int) -> Clip:
        """Shards hold no pixels, and `get` gives all that training needs: ValueError."""
        raise ValueError(f"{self.folder / self.clips[index].shard} holds no frames")

    def get(self, key: str) -> dict[str, Tensor]:
        """All tensors of one clip; no more of its shard is read.

        Raises:
            ValueError: they are damaged.
        """
        clip = self.clips[int(key)]
        with (self.folder / clip.shard).open("rb") as file:
            file.seek(clip.offset)
            data = file.read(clip.size)
        try:
            return load(data)
        except SafetensorError as error:
            raise ValueError(f"{self.folder / clip.shard} is damaged ({error}): remove it, and encode again") from error
