"""Clips through an autoencoder: which frames are read, what is measured of them, which are left out."""

from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from data.manifest import ClipRecord, read_manifest
from data.transforms import to_float
from data.video import VideoError, read_video, write_video
from data.world import sample_scene
from vae3d import LatentCodec, VideoVAE
from vae3d.metrics import blocking_in_time, psnr
from video_dit.evaluation.vae import (
    Figures,
    Source,
    VAEOptions,
    evaluate_vae,
    fit_short_side,
    load_codec,
    mean_figures,
    measure,
    read_frames,
    to_show,
)


@pytest.fixture
def options(tiny_vae: VideoVAE, tmp_path: Path) -> VAEOptions:
    """A random autoencoder in a folder as a training run leaves it."""
    tiny_vae.save_pretrained(tmp_path / "run" / "vae")
    return VAEOptions(
        model=tmp_path / "run",
        manifest=None,
        split="test",
        clips=3,
        frames=5,
        short_side=32,
        world_size=32,
        frame_rate=None,
        dtype="float32",
        device="cpu",
    )


def run(options: VAEOptions, show: bool = False) -> tuple[dict, list[str], list[str]]:
    """Figures, lines for people, warnings."""
    said: list[str] = []
    warned: list[str] = []
    return evaluate_vae(options, said.append, warned.append, show)[0], said, warned


def numbered(count: int, h: int = 32, w: int = 48) -> Tensor:
    """Flat frames that tell their number: uint8 ``(count, h, w, 3)``."""
    return (8 * torch.arange(count, dtype=torch.uint8))[:, None, None, None].expand(-1, h, w, 3)


def numbers(frames: Tensor) -> list[int]:
    return (frames.float().mean(dim=(1, 2, 3)) / 8).round().int().tolist()


def record(path: Path, **known: float) -> ClipRecord:
    return replace(ClipRecord(path, "", 2), **known)  # type: ignore[arg-type]


def test_figures_are_of_the_reconstruction_and_means_of_figures(options: VAEOptions, tiny_vae: VideoVAE) -> None:
    results, said, warned = run(options)
    clips = results["clips"]["world"]
    assert list(clips) == ["world/0", "world/1", "world/2"] and not warned and "real" not in results["mean"]
    codec = LatentCodec(tiny_vae)
    for seed in range(3):
        target = to_float(sample_scene("test", seed).render(5, 32, 32, 8.0))[None]
        made = codec.decode(codec.encode(target))
        figures = clips[f"world/{seed}"]
        assert figures["psnr"] == pytest.approx(float(psnr(made, target)), abs=1e-3)
        ratio = float(blocking_in_time(made, 4) / blocking_in_time(target, 4))
        assert figures["blocking_in_time"] == pytest.approx(ratio, rel=1e-3)
        assert figures["size"] == "32x32" and figures["frame_rate"] == 8
    for name, value in results["mean"]["world"].items():
        assert value == pytest.approx(sum(clip[name] for clip in clips.values()) / 3)
    assert len([line for line in said if "world/" in line]) == 3


def test_a_perfect_reconstruction_has_no_blocking_and_no_flicker() -> None:
    target = torch.rand(1, 3, 9, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert measure(target, target, 4, 8) == Figures(100.0, pytest.approx(1.0), 0.0, 1.0, 1.0)
    ends = mean_figures([Figures(20.0, 0.5, 0.0, 1.0, 3.0), Figures(30.0, 1.0, 0.5, 2.0, 1.0)])
    assert ends == Figures(25.0, 0.75, 0.25, 1.5, 2.0)


def test_real_clips_are_read_as_they_are_or_at_a_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(30), 25)
    frames, rate = read_frames(record(tmp_path / "a.mp4"), 9, None)
    assert numbers(frames) == list(range(9)) and rate == 25
    frames, rate = read_frames(record(tmp_path / "a.mp4"), 9, 8.0)
    assert rate == 8 and numbers(frames) == [int(i * 25 / 8 + 0.1) for i in range(9)]
    frames, _ = read_frames(record(tmp_path / "a.mp4", start=0.4), 9, None)
    assert numbers(frames) == list(range(10, 19))


def test_a_clip_of_variable_rate_that_starts_slowly_gives_all_frames(tmp_path: Path) -> None:
    """Half a second each for 4 frames, then 26 at 30 a second: at the mean rate, 15 frames would last 1.4 s."""
    with av.open(tmp_path / "slow.mkv", "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for number, picture in enumerate(numbered(30)):
            frame = VideoFrame.from_ndarray(picture.contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = min(15 * number, 60) + max(0, number - 4), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames, _ = read_frames(record(tmp_path / "slow.mkv"), 15, None)
    assert numbers(frames) == list(range(15))


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, "too short: 30 frames at 25 a second"),
        ({"end": 0.4}, "too short: 10 frames"),
        ({"start": 2.0}, "past its end"),
    ],
)
def test_clips_that_are_too_short_are_refused(tmp_path: Path, known: dict[str, float], reason: str) -> None:
    write_video(tmp_path / "a.mp4", numbered(30), 25)
    with pytest.raises(VideoError, match=reason):
        read_frames(record(tmp_path / "a.mp4", **known), 33, None)


def test_what_is_left_out_is_said_and_counted(options: VAEOptions, tmp_path: Path) -> None:
    for name, count in (("long", 9), ("short", 3)):
        write_video(tmp_path / f"{name}.mp4", numbered(count), 8)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = "".join(f"{name}.mp4,,test\n" for name in ("long", "short", "broken", "missing", "long"))
    (tmp_path / "clips.csv").write_text(f"path,text,split\n{rows}long.mp4,,train\n")
    results, said, warned = run(replace(options, clips=0, manifest=tmp_path / "clips.csv"))
    assert list(results["clips"]["real"]) == ["long.mp4, row 2", "long.mp4, row 6"] and "world" not in results["clips"]
    assert list(results["left out"]) == ["short.mp4", "broken.mp4", "missing.mp4"]
    for line, reason in zip(warned, ("too short: 3 frames", "not a video", "no such file"), strict=True):
        assert reason in line
    assert "3 of 5 clips are left out" in said
    (tmp_path / "clips.csv").write_text("path,text\nshort.mp4,\n")
    with pytest.raises(ValueError, match="all 1 clips are left out"):
        run(replace(options, clips=0, manifest=tmp_path / "clips.csv"))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((480, 640), (256, 344)), ((1920, 1080), (456, 256)), ((720, 1280), (256, 456)), ((144, 176), (256, 312))],
)
def test_real_clips_keep_their_aspect(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert fit_short_side(torch.zeros(1, *shape, 3, dtype=torch.uint8), 256, 8).shape == (1, *size, 3)


def test_an_autoencoder_is_found_in_a_run_in_a_model_and_by_itself(options: VAEOptions) -> None:
    codecs = [load_codec(replace(options, model=folder)) for folder in (options.model, options.model / "vae")]
    assert codecs[0].fingerprint(decoder=True) == codecs[1].fingerprint(decoder=True)
    assert load_codec(replace(options, dtype="bfloat16")).vae.dtype == torch.bfloat16


def test_the_same_clips_are_shown_of_every_codec(options: VAEOptions) -> None:
    def sources(count: int, group: str) -> list[Source]:
        return [Source(group, f"{group}/{i}", lambda: (torch.empty(0), 8.0)) for i in range(count)]

    shown = to_show([*sources(16, "world"), *sources(23, "real")])
    assert shown == {"world/0", "world/15", "real/0", "real/4", "real/9", "real/13", "real/18", "real/22"}
    assert to_show(sources(1, "real")) == {"real/0"}
    _, pairs = evaluate_vae(options, lambda _: None, lambda _: None, show=True)
    assert [pair.label.split(",")[0] for pair in pairs] == ["world/0", "world/2"]
    assert torch.equal(pairs[1].original, sample_scene("test", 2).render(5, 32, 32, 8.0))
    assert pairs[1].decoded.shape == pairs[1].original.shape and pairs[1].decoded.dtype == torch.uint8


def test_json_holds_all_that_the_figures_depend_on(options: VAEOptions) -> None:
    results, _, _ = run(replace(options, clips=1))
    wanted = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    assert {"model": results["model"], **results["settings"]} == wanted | {"clips": 1, "computed": "float32 on cpu"}


@pytest.mark.parametrize("name", ["brother.mkv", "face-demographics-walking.gif", "carphone", "vp9_webrtc_4.webm"])
def test_the_own_frames_of_real_files(clips: Path, name: str) -> None:
    """A variable rate, delays of a GIF, and others: the first frames of the whole file."""
    (found,) = [row for row in read_manifest(clips / "index.csv", "test") if name in row.path.name]
    frames, rate = read_frames(found, 17, None)
    whole = read_video(found.path, seconds=5.0)
    assert torch.equal(frames, whole.frames[:17])
    assert found.fps is not None and rate == pytest.approx(found.fps, rel=0.05)
