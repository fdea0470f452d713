"""The tensor cache: what comes back, and that a file is complete or absent."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data import latents
from data.latents import TensorCache


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "new" / "folder")
    tensors = {
        "frames": torch.randint(256, (5, 4, 6, 3), dtype=torch.uint8),
        "latents": torch.randn(4, 2, 2, 3).bfloat16(),
        "turned": torch.randn(3, 5).T,  # not contiguous
        "none": torch.zeros(0, 3),
    }
    assert cache.get("clip") is None
    cache.put("clip", tensors)
    stored = cache.get("clip")
    assert stored is not None
    assert set(stored) == set(tensors)
    for name, tensor in tensors.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)


def test_keys_and_spaces_are_apart(tmp_path: Path) -> None:
    for space in ("a", "b"):
        for key in ("1", "2"):
            TensorCache(tmp_path, space).put(key, {space + key: torch.zeros(1)})
    for space in ("a", "b"):
        for key in ("1", "2"):
            assert list(TensorCache(tmp_path, space).get(key)) == [space + key]
    assert TensorCache(tmp_path, "c").get("1") is None
    assert len(files(tmp_path)) == 4


def test_without_a_folder_nothing_is_kept() -> None:
    cache = TensorCache(None)
    cache.put("clip", {"x": torch.zeros(1)})
    assert cache.get("clip") is None


def test_a_later_put_replaces_the_earlier(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put("clip", {"x": torch.zeros(3)})
    before = cache.get("clip")
    cache.put("clip", {"x": torch.ones(2)})
    assert before is not None
    assert torch.equal(before["x"], torch.zeros(3))  # what was read stays what it was
    stored = cache.get("clip")
    assert stored is not None
    assert torch.equal(stored["x"], torch.ones(2))
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_a_write_cut_short_leaves_no_broken_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, old: bool
) -> None:
    """The disk is full after half of the file: the entry is what it was before, and this run stores no more."""
    cache = TensorCache(tmp_path)
    if old:
        cache.put("clip", {"x": torch.zeros(3)})

    def half(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"\x10\x00\x00")
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(latents, "save_file", half)
        cache.put("clip", {"x": torch.ones(3)})
    cache.put("clip", {"x": torch.ones(3)})
    assert caplog.messages == [f"no more clips are kept in data.cache={tmp_path}: no space left on device"]
    assert len(files(tmp_path)) == old
    stored = cache.get("clip")
    if old:
        assert stored is not None
        assert torch.equal(stored["x"], torch.zeros(3))
    else:
        assert stored is None
    TensorCache(tmp_path).put("clip", {"x": torch.ones(3)})  # the next run
    stored = cache.get("clip")
    assert stored is not None
    assert torch.equal(stored["x"], torch.ones(3))


def test_a_part_is_that_of_the_whole(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    x = torch.arange(4 * 5 * 6).view(4, 5, 6)
    part = (slice(1, 4), slice(0, 2), slice(3, 5))
    assert cache.get_part("clip", "x", part) is None
    assert TensorCache(None).get_part("clip", "x", part) is None
    cache.put("clip", {"x": x})
    stored = cache.get_part("clip", "x", part)
    assert stored is not None
    assert torch.equal(stored, x[part])


def test_a_draft_is_never_taken_for_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process writes, another reads: a file has a name that `get` looks for only once whole."""
    cache = TensorCache(tmp_path)
    save = latents.save_file
    seen: list[object] = []

    def watched(tensors: dict[str, Tensor], path: Path) -> None:
        save(tensors, path)
        seen.append(cache.get("clip"))

    monkeypatch.setattr(latents, "save_file", watched)
    cache.put("clip", {"x": torch.ones(3)})
    assert seen == [None]
    assert cache.get("clip") is not None
    assert all(name.endswith(".safetensors") for name in files(tmp_path))


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_a_file_cut_short_counts_as_absent(tmp_path: Path, size: int) -> None:
    cache = TensorCache(tmp_path)
    cache.put("clip", {"x": torch.ones(3)})
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    assert cache.get("clip") is None
    assert cache.get_part("clip", "x", (slice(0, 1),)) is None
    cache.put("clip", {"x": torch.zeros(3)})
    stored = cache.get("clip")
    assert stored is not None
    assert torch.equal(stored["x"], torch.zeros(3))


def test_drafts_of_processes_with_one_number_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers that share the folder."""
    save, drafts = latents.save_file, []

    def watched(tensors: dict[str, Tensor], path: Path) -> None:
        drafts.append(path)
        if len(drafts) == 1:  # the other comes in between
            TensorCache(tmp_path).put("clip", {"x": torch.zeros(3)})
        save(tensors, path)

    monkeypatch.setattr(latents, "save_file", watched)
    TensorCache(tmp_path).put("clip", {"x": torch.ones(3)})
    assert len(set(drafts)) == 2
    assert len(files(tmp_path)) == 1
