"""The clips of a run: what the codec takes of them, where each split comes from, and how they become tokens."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.dataset import ClipSource
from data.transforms import to_float
from data.video import write_video
from vae3d import LatentCodec, VideoVAE
from video_dit.config import DataConfig, RunConfig
from video_dit.sources import check_clips, clip_source, encoding, latent_shapes
from video_dit.tokens import patchify

SMALL: dict[str, Any] = {
    "num_clips": 6,
    "num_frames": 9,
    "window_frames": 5,
    "sizes": [[16, 16], [32, 48]],
    "frame_rates": [8.0, 12.0],
}


@pytest.fixture
def codec(tiny_vae: VideoVAE) -> LatentCodec:
    """4 frames and 8x8 pixels a latent; with patches of 2, sizes are multiples of 16."""
    return LatentCodec(tiny_vae)


def run_config(**data: Any) -> RunConfig:
    return RunConfig(data=DataConfig(**{**SMALL, **data}))


def write_manifest(folder: Path, *rows: tuple[str, int, str]) -> str:
    """Rows of (name, frames, split), and their files: at 8 frames a second, frame i grey of brightness 5·i + 10. With
    no split at all, there is no such column."""
    has_splits = any(split for _, _, split in rows)
    lines = ["path,text,split" if has_splits else "path,text"]
    for name, frames, split in rows:
        grey = torch.arange(frames, dtype=torch.uint8) * 5 + 10
        write_video(folder / f"{name}.mp4", grey[:, None, None, None].expand(frames, 32, 48, 3), 8.0)
        lines.append(f"{name}.mp4,clip {name}" + (f",{split}" if has_splits else ""))
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "clips.csv")


def texts(source: ClipSource) -> list[str]:
    return [source.text(index, 0) for index in range(len(source))]


def keys(source: ClipSource) -> set[str]:
    return {source.key(index) for index in range(len(source))}


@pytest.mark.parametrize("name", ["num_frames", "window_frames"])
def test_frames_are_taken_by_the_rule_and_the_refused_are_told_others(codec: LatentCodec, name: str) -> None:
    r, rest = codec.frame_rule
    for frames in range(1, 24):
        config = run_config(**({"num_frames": 25} | {name: frames, "window_frames": frames}))
        if (frames - rest) % r == 0:
            check_clips(config, codec)
            continue
        with pytest.raises(ValueError, match=rf"^data\.{name}: num_frames={frames} must be 1 \+ 4k: use ") as error:
            check_clips(config, codec)
        lower, upper = map(int, re.findall(r"\d+", str(error.value).split("use ")[1]))
        assert lower < frames < upper
        for other in (lower, upper):  # what it tells to use is taken
            check_clips(run_config(num_frames=25, window_frames=other), codec)


def test_sizes_are_multiples_of_the_grid_times_the_patch(codec: LatentCodec) -> None:
    grid = codec.grid * run_config().model.patch_size
    assert grid == 16
    for side in range(8, 52, 4):
        for size in ([side, 2 * grid], [2 * grid, side]):
            config = run_config(sizes=[[grid, grid], size])
            if side % grid == 0:
                check_clips(config, codec)
                continue
            for check in (check_clips, lambda config, codec: clip_source(config, codec, "train")):
                with pytest.raises(ValueError, match=f"data.sizes has {size[0]}x{size[1]}: .* multiples of {grid}$"):
                    check(config, codec)


def test_the_world_has_as_many_clips_as_asked_and_others_to_validate_on(codec: LatentCodec) -> None:
    splits = [clip_source(run_config(num_clips=count), codec, "train") for count in (3, 6)]
    assert [len(source) for source in splits] == [3, 6]
    assert keys(splits[0]) < keys(splits[1])
    held_out = [clip_source(run_config(num_clips=count), codec, "val") for count in (3, 6)]
    assert keys(held_out[0]) == keys(held_out[1])
    assert len(keys(held_out[0])) == len(held_out[0])
    assert not keys(held_out[0]) & keys(splits[1])


def test_train_takes_the_rows_for_it(codec: LatentCodec, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, ("a", 20, "train"), ("b", 9, "val"), ("c", 7, "train"), ("d", 9, "test"))
    source = clip_source(run_config(manifest=manifest), codec, "train")
    assert texts(source) == ["clip a", "clip a", "clip c"]
    assert [source.shape(index).num_frames for index in range(3)] == [9, 9, 5]  # 1 + 4k of each


def test_validation_takes_the_rows_for_it(codec: LatentCodec, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, ("a", 9, "train"), ("b", 20, "val"), ("c", 6, "val"), ("d", 9, "test"))
    config = run_config(manifest=manifest, sizes=[[16, 16], [16, 32]])
    source = clip_source(config, codec, "val")
    assert texts(source) == ["clip b", "clip b", "clip c"]
    assert len(keys(source)) == 3
    assert not keys(source) & keys(clip_source(config, codec, "train"))
    for index, frames in enumerate((9, 9, 5)):
        shape, clip = source.shape(index), source.load(index)
        assert (shape.num_frames, shape.height, shape.width, shape.frame_rate) == (frames, 16, 32, 8.0)
        assert clip.frames.shape == (frames, 16, 32, 3)
        assert clip.frame_rate == 8.0
    assert first_grey(source.load(1).frames) == 9  # the second part of b begins where the first ends


def first_grey(frames: Tensor) -> int:
    return round((float(frames[0].float().mean()) - 10) / 5)


@pytest.mark.parametrize("splits", [("", ""), ("train", "train"), ("train", "test"), ("train", "validation")])
def test_validation_is_of_the_world_where_no_row_is_for_it(
    codec: LatentCodec, tmp_path: Path, splits: tuple[str, str]
) -> None:
    manifest = write_manifest(tmp_path, ("a", 9, splits[0]), ("b", 9, splits[1]))
    source = clip_source(run_config(manifest=manifest), codec, "val")
    assert keys(source) == keys(clip_source(run_config(), codec, "val"))
    assert "clip a" in texts(clip_source(run_config(manifest=manifest), codec, "train"))


def test_rows_for_validation_that_cannot_serve_are_told_not_replaced(codec: LatentCodec, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, ("a", 9, "train"), ("b", 4, "val"))
    with pytest.raises(ValueError, match="no clip of split 'val'") as error:
        clip_source(run_config(manifest=manifest), codec, "val")
    assert "\n" not in str(error.value)
    for split in ("train", "val"):
        with pytest.raises(ValueError, match="does not exist"):
            clip_source(run_config(manifest=str(tmp_path / "none.csv")), codec, split)


def test_encoding_depends_on_what_latents_do(codec: LatentCodec) -> None:
    told = encoding(run_config(), codec)
    assert json.loads(json.dumps(told)) == told  # as it comes back from a file
    same = [{"num_clips": 9}, {"window_frames": 9}, {"cache": ""}]
    assert all(encoding(run_config(**data), codec) == told for data in same)
    reordered = {"sizes": [[32, 48], [16, 16]]}  # of two as near to a clip's aspect the first is taken
    others = [
        {"num_frames": 13},
        reordered,
        {"sizes": [[16, 16]]},
        {"sizes": [[16, 16], [48, 32]]},
        {"frame_rates": [12.0, 8.0]},
    ]
    assert all(encoding(run_config(**data), codec) != told for data in others)


def test_encoding_names_the_manifest_by_what_it_holds(codec: LatentCodec, tmp_path: Path) -> None:
    manifest = Path(write_manifest(tmp_path, ("a", 9, "")))
    told = encoding(run_config(manifest=str(manifest)), codec)
    moved = manifest.rename(manifest.with_name("moved.csv"))
    assert encoding(run_config(manifest=str(moved)), codec) == told
    assert {**told, **encoding(run_config(), codec)} == told  # who names none takes any
    moved.write_text(moved.read_text() + "\n")
    assert encoding(run_config(manifest=str(moved)), codec) != told
    with pytest.raises(ValueError, match="does not exist"):
        encoding(run_config(manifest=str(manifest)), codec)


def test_encoding_tells_encoders_apart_and_not_decoders(codec: LatentCodec) -> None:
    told = encoding(run_config(), codec)
    for half, differs in (("decoder", False), ("encoder", True)):
        name, weight = next((n, p) for n, p in codec.vae.named_parameters() if n.startswith(half))
        with torch.no_grad():
            weight.add_(0.1)
        assert (encoding(run_config(), codec) != told) is differs, name


@pytest.mark.parametrize("patch_size", [1, 2])
def test_latent_shapes_are_those_of_encoded_clips(codec: LatentCodec, tmp_path: Path, patch_size: int) -> None:
    manifest = write_manifest(tmp_path, ("a", 9, ""), ("b", 5, ""))
    for data in ({"num_clips": 3}, {"manifest": manifest}):
        source = clip_source(run_config(**data), codec, "train")
        shapes = latent_shapes(source, codec, patch_size)
        assert len(shapes) == len(source)
        for index, shape in enumerate(shapes):
            with torch.no_grad():
                latents = codec.encode(to_float(source.load(index).frames)[None])
            assert latents.shape[2] == shape.frames
            assert patchify(latents, patch_size).shape[1] == shape.frames * shape.tokens_per_frame


def test_reading_takes_no_longer_than_the_config_says(codec: LatentCodec, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, ("a", 9, ""))
    source = clip_source(run_config(manifest=manifest), codec, "train")
    assert source.load(0)
    with pytest.raises(ValueError, match=r"data\.manifest=.*takes more than max_seconds=1e-09"):
        clip_source(run_config(manifest=manifest, read_seconds=1e-9), codec, "train")
