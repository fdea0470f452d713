"""Random crops: what is drawn, from where, and what happens to clips that cannot be read."""

import csv
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.crops import CropConfig, Crops
from data.video import write_video

SMALL: dict[str, Any] = {
    "world_clips": 4,
    "world_frames": 9,
    "world_sizes": [[32, 32], [32, 48]],
    "batches": [[3, 5, 16, 24], [2, 1, 32, 32]],
    "cache": "",
}


def crops(split: str = "train", seed: int = 0, ranks: int = 1, **options: Any) -> Crops:
    return Crops(CropConfig(**(SMALL | options)), seed, split, ranks)


def write_manifest(folder: Path, names: list[str], frames: int = 21) -> str:
    """Real clips whose frame ``i`` is grey ``10·i`` everywhere."""
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "text", "width", "height", "fps", "num_frames"])
        rows.writerows([name, "", 64, 64, 10, frames] for name in names)
    return str(folder / "clips.csv")


def write_clip(path: Path, frames: int = 21) -> None:
    grey = (np.arange(frames) * 10).astype(np.uint8)
    write_video(path, np.broadcast_to(grey[:, None, None, None], (frames, 64, 64, 3)).copy(), 10.0)


def frame_numbers(clip: Tensor) -> list[int]:
    return [round(float(frame.float().mean()) / 10) for frame in clip]


def test_batches_are_a_function_of_seed_and_position() -> None:
    one, same, other = crops(), crops(), crops(seed=1)
    batches = [one[position] for position in range(12)]
    assert {tuple(batch.shape) for batch in batches} == {(3, 5, 16, 24, 3), (2, 1, 32, 32, 3)}
    assert all(batch.dtype == torch.uint8 for batch in batches)
    for position in (7, 3, 11):  # in any order
        assert torch.equal(same[position], batches[position])
    assert any(other[p].shape != batches[p].shape or not torch.equal(other[p], batches[p]) for p in range(12))


def test_workers_draw_the_same(tmp_path: Path) -> None:
    """They are started with a copy of it that was written out and read again."""
    write_clip(tmp_path / "a.mp4")
    mixed = crops(manifest=write_manifest(tmp_path, ["a.mp4"]), manifest_frames=21, manifest_sizes=[[32, 48]])
    copy = pickle.loads(pickle.dumps(mixed))
    assert all(torch.equal(copy[position], mixed[position]) for position in range(6))


def test_clips_of_a_batch_differ() -> None:
    batch = next(batch for batch in (crops()[p] for p in range(9)) if len(batch) == 3)
    assert not torch.equal(batch[0], batch[1])


def test_a_cache_changes_nothing(tmp_path: Path) -> None:
    cached, plain = crops(cache=str(tmp_path / "cache")), crops()
    for _ in range(2):  # the second time from the cache
        for position in range(6):
            assert torch.equal(cached[position], plain[position])
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_real_clips_give_every_stride_that_fits(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    real = crops(
        manifest=write_manifest(tmp_path, ["a.mp4"]),
        manifest_frames=21,
        manifest_sizes=[[32, 48]],
        manifest_strides=[1, 2, 8],  # 8 would need 33 frames: the largest that fits is 5
        world_share=0.0,
        batches=[[4, 5, 16, 16]],
    )
    found = [frame_numbers(clip) for position in range(12) for clip in real[position]]
    strides = {tuple(np.diff(numbers)) for numbers in found}
    assert strides == {(1, 1, 1, 1), (2, 2, 2, 2), (5, 5, 5, 5)}
    assert {numbers[0] for numbers in found} >= {0, 4, 8}
    assert max(numbers[-1] for numbers in found) == 20


def test_both_sources_are_drawn_in_their_shares(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    mixed = crops(
        manifest=write_manifest(tmp_path, ["a.mp4"]),
        manifest_frames=21,
        manifest_sizes=[[32, 48]],
        world_share=0.75,
        batches=[[1, 5, 16, 16]],
    )
    real = sum(len(mixed[position][0].flatten(1).unique(dim=1)[0]) == 1 for position in range(80))  # of one grey
    assert 8 <= real <= 32


def test_validation_is_of_the_world_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    held = crops("val", manifest=write_manifest(tmp_path, ["a.mp4"]), manifest_sizes=[[32, 48]], world_share=0.0)
    assert held.real is None


def test_validation_takes_real_clips_where_the_manifest_has_some(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name)
    path = Path(write_manifest(tmp_path, ["a.mp4", "b.mp4"]))
    header, *rows = path.read_text().splitlines()
    path.write_text(
        "\n".join([f"split,{header}", *(f"{s},{row}" for s, row in zip(("train", "val"), rows, strict=True))])
    )
    sizes = {"manifest_frames": 21, "manifest_sizes": [[32, 48]]}
    for split, name in (("train", "a.mp4"), ("val", "b.mp4")):
        real = crops(split, manifest=str(path), **sizes).real
        assert real is not None
        assert [real.parts[index][0].path.name for index in range(len(real))] == [name]


def test_one_frame_can_be_cut_from_clips_of_one_frame() -> None:
    assert crops(world_frames=1, batches=[[2, 1, 16, 16]])[0].shape == (2, 1, 16, 16, 3)


def test_ranks_of_a_step_have_one_shape_and_other_clips() -> None:
    two = crops(ranks=2, batches=[[1, 5, 16, 24], [1, 9, 16, 16], [2, 1, 32, 32], [1, 1, 16, 16]])
    steps = [(two[2 * step], two[2 * step + 1]) for step in range(10)]
    assert all(one.shape == other.shape for one, other in steps)
    assert len({tuple(one.shape) for one, _ in steps}) > 1
    assert not any(torch.equal(one, other) for one, other in steps)


def test_a_clip_that_cannot_be_read_is_left_out_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "a.mp4")
    real = crops(
        manifest=write_manifest(tmp_path, ["a.mp4", "gone.mp4"]),
        manifest_frames=21,
        manifest_sizes=[[32, 48]],
        world_share=0.0,
        batches=[[4, 5, 16, 16]],
    )
    assert all(real[position].shape == (4, 5, 16, 16, 3) for position in range(4))
    assert len(caplog.records) == 1
    assert "gone.mp4" in caplog.text


def test_only_what_is_drawn_from_must_hold_the_batches(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    manifest = {"manifest": write_manifest(tmp_path, ["a.mp4"]), "manifest_frames": 21, "manifest_sizes": [[32, 48]]}
    assert crops(**manifest, world_share=0.0, batches=[[1, 17, 16, 16]])[0].shape == (1, 17, 16, 16, 3)
    assert crops(**manifest, world_share=1.0, world_frames=33, batches=[[1, 33, 16, 16]])[0].shape[1] == 33
    with pytest.raises(
        ValueError, match=r"no clip of split train of data\.manifest=\S+ has 33 frames .*manifest_frames"
    ):
        crops(**manifest, world_share=0.0, batches=[[1, 33, 16, 16]])


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    cached = crops(cache=str(tmp_path / "cache"))
    for position in range(3):
        assert torch.equal(cached[position], crops()[position])
    assert len(caplog.records) == 1
    assert "no more clips are kept in data.cache=" in caplog.text


def test_a_batch_is_empty_where_nothing_can_be_read(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, ["damaged.mp4"])
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    sizes = {"manifest_frames": 21, "manifest_sizes": [[32, 48]], "batches": [[4, 5, 16, 16]]}
    assert crops(manifest=manifest, world_share=0.0, **sizes)[0].shape == (0, 5, 16, 16, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"world_share": 1.5}, "data.world_share=1.5 must be in [0, 1]"),
        ({"manifest_strides": [0]}, "data.manifest_strides=[0] must be numbers from 1 up"),
        ({"batches": []}, "data.batches, world_sizes, world_frame_rates and manifest_sizes need an entry each"),
        ({"world_sizes": [[16]]}, "data.world_sizes has [16]: each must be [height, width]"),
        ({"batches": [[1, 5, 16]]}, "data.batches has [1, 5, 16]: each must be [clips, frames, height, width]"),
        ({"workers": -1}, "data.workers=-1 must be at least 0"),
        ({"world_clips": 0}, "data.world_clips=0 must be at least 1"),
        ({"manifest_frames": 0}, "data.manifest_frames=0 must be at least 1"),
        ({"world_frame_rates": [8.0, 0.0]}, "data.world_frame_rates=[8.0, 0.0] must all be above 0"),
        (
            {"batches": [[1, 13, 16, 16]]},
            "no clip of the world has 13 frames of 16x16: ask for less, or raise data.world",
        ),
        ({"batches": [[1, 5, 40, 16]]}, "no clip of the world has 5 frames of 40x16: ask for less"),
    ],
)
def test_what_does_not_fit_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        crops(**option)
    assert "\n" not in str(error.value)
