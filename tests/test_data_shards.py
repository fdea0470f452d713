"""Shards: whole or absent, the same bytes each time, readable by others, and refused where they do not fit."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from data.dataset import WORLD_VERSION, ClipShape
from data.shards import Shards, Unread, is_written, read_left_out, shard_name, write_index, write_shard

SETTINGS = {"codec": "abc", "num_frames": 9, "sizes": [[16, 24]]}
SHAPE = ClipShape(9, 16, 24, 8.0)


def tensors(index: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(index)
    latents = torch.randn(4, 3, 2, 3, generator=generator).bfloat16()
    return {"latents": latents.transpose(0, 1).contiguous().transpose(0, 1), "frame_rate": torch.tensor(8.0)}


def clips(first: int, count: int) -> Iterator[tuple[int, list[str], ClipShape, dict[str, Tensor]]]:
    for index in range(first, first + count):
        yield index, [f"clip {index}", f"a clip, {index}, 红"], SHAPE, tensors(index)


def write(folder: Path) -> Path:
    folder.mkdir()
    for number in (1, 0):  # in any order
        write_shard(folder, number, clips(3 * number, 3))
    assert write_index(folder, 2, SETTINGS)
    return folder


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    shards = Shards(write(tmp_path / "a"), SETTINGS)
    assert len(shards) == 6
    for index in range(6):
        found = shards.get(shards.key(index))
        assert found.keys() == {"latents", "frame_rate"}
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors(index).items())
        assert shards.shape(index) == SHAPE
        assert [shards.text(index, epoch) for epoch in range(3)] == [
            f"clip {index}",
            f"a clip, {index}, 红",
            f"clip {index}",
        ]


def test_other_programs_can_read_them(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path / "a") / shard_name(1)) as tar:
        assert tar.getnames() == ["00000003.safetensors", "00000004.safetensors", "00000005.safetensors"]
        member = tar.extractfile("00000004.safetensors")
        assert isinstance(member, io.BufferedReader)
        assert torch.equal(load(member.read())["latents"], tensors(4)["latents"])


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name) for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_shard_is_whole_or_absent(tmp_path: Path) -> None:
    def failing() -> Iterator:
        yield from clips(0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 0, failing())
    assert list(tmp_path.iterdir()) == []
    write_shard(tmp_path, 1, clips(3, 3))
    assert [is_written(tmp_path, number) for number in (0, 1)] == [False, True]
    assert not write_index(tmp_path, 2, SETTINGS)
    with pytest.raises(ValueError, match=r"has no index.json: run tools/encode.py until it ends"):
        Shards(tmp_path, SETTINGS)


def test_what_could_not_be_read_is_listed(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [Unread(0, "damaged"), *clips(1, 2)])
    write_shard(tmp_path, 1, [Unread(3, "gone")])
    assert write_index(tmp_path, 2, SETTINGS)
    assert read_left_out(tmp_path) == [Unread(0, "damaged"), Unread(3, "gone")]
    shards = Shards(tmp_path, SETTINGS)
    assert [clip.index for clip in shards.clips] == [1, 2]


def test_another_version_of_the_world_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, clips(0, 1))
    write_index(tmp_path, 1, {**SETTINGS, "world": WORLD_VERSION})
    assert Shards(tmp_path, SETTINGS)
    write_index(tmp_path, 1, {**SETTINGS, "world": WORLD_VERSION - 1})
    with pytest.raises(ValueError, match="is of another version of the world: encode anew"):
        Shards(tmp_path, SETTINGS)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    for name, value in (("codec", "abd"), ("num_frames", 13), ("sizes", [[16, 16]])):
        with pytest.raises(ValueError, match=f"was made with {name} .*, not .*: encode anew") as error:
            Shards(folder, {**SETTINGS, name: value})
        assert "\n" not in str(error.value)
    data = bytearray((folder / shard_name(0)).read_bytes())
    data[512:520] = b"\xff" * 8
    (folder / shard_name(0)).write_bytes(data)
    shards = Shards(folder, SETTINGS)
    with pytest.raises(ValueError, match=r"shard-00000.tar is damaged .*: remove it, and encode again"):
        shards.get("0")
    assert shards.get("1")
    with pytest.raises(ValueError, match="holds no frames"):
        shards.load(1)
