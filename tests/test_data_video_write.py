"""Writing whole files or none."""

from collections.abc import Iterator
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.transforms import to_uint8
from data.video import probe_video, read_video
from data.video_write import write_pictures, write_video


def moving_frames(t: int, h: int = 64, w: int = 96) -> Tensor:
    """Smooth coloured waves that move: uint8 `(t, h, w, 3)`."""
    time, row, column = torch.meshgrid(
        torch.arange(t) / 8, torch.linspace(0, 3, h), torch.linspace(0, 4, w), indexing="ij"
    )
    waves = torch.stack([torch.sin(time + row), torch.cos(2 * time - column), torch.sin(row * column / 2 - time)])
    return to_uint8(waves * 0.8)


def psnr(a: Tensor, b: Tensor) -> float:
    return (10 * torch.log10(255**2 / (a.double() - b.double()).square().mean())).item()


def test_round_trip(tmp_path: Path) -> None:
    frames = moving_frames(25)
    write_video(tmp_path / "a.mp4", frames, 24000 / 1001)
    clip = read_video(tmp_path / "a.mp4")
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == torch.uint8
    assert clip.frame_rate == pytest.approx(24000 / 1001, abs=1e-9)
    assert psnr(clip.frames, frames) > 42
    assert all(abs(float(d)) < 0.75 for d in (clip.frames.float() - frames.float()).mean((0, 1, 2)))  # no tint
    with av.open(tmp_path / "a.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)  # bt709
        assert context.color_range == 1  # limited
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart


def test_a_reproducible_file_depends_on_no_processor(tmp_path: Path) -> None:
    """x264 writes its settings into the file: one thread, so that the number of cores says nothing."""
    frames = moving_frames(9)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, 8, reproducible=True)
    first = (tmp_path / "a.mp4").read_bytes()
    assert first == (tmp_path / "b.mp4").read_bytes()
    assert b" threads=1 " in first
    assert psnr(read_video(tmp_path / "a.mp4").frames, frames) > 38


def test_a_stream_of_chunks_equals_the_whole(tmp_path: Path) -> None:
    frames = moving_frames(13)
    write_video(tmp_path / "whole.mp4", frames, 8, reproducible=True)
    write_video(tmp_path / "parts.mp4", (part.numpy() for part in frames.split([1, 5, 7])), 8, reproducible=True)
    assert torch.equal(read_video(tmp_path / "whole.mp4").frames, read_video(tmp_path / "parts.mp4").frames)


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_leaves_nothing_new(tmp_path: Path, existing: bool) -> None:
    if existing:
        (tmp_path / "a.mp4").write_bytes(b"kept")

    def failing() -> Iterator[Tensor]:
        yield moving_frames(100)  # more than the encoder holds back, so that the file is begun
        assert list(tmp_path.glob(".a.mp4.*.tmp"))
        raise RuntimeError("the sampler failed")

    with pytest.raises(RuntimeError, match="sampler failed"):
        write_video(tmp_path / "a.mp4", failing(), 8)
    with pytest.raises(ValueError, match="keep one size"):
        write_video(tmp_path / "a.mp4", [moving_frames(2), moving_frames(2, 32, 32)], 8)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "a.mp4", [], 8)
    assert [p.name for p in tmp_path.iterdir()] == (["a.mp4"] if existing else [])
    assert not existing or (tmp_path / "a.mp4").read_bytes() == b"kept"


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    frames = moving_frames(2)
    with pytest.raises(ValueError, match=r"even sizes: crop or resize to 96x62"):
        write_video(tmp_path / "a.mp4", moving_frames(2, 63, 96), 8)
    with pytest.raises(ValueError, match=r"must end in \.mp4 or \.webm or \.gif or \.webp"):
        write_video(tmp_path / "a.mkv", frames, 8)
    with pytest.raises(ValueError, match="does not exist"):
        write_video(tmp_path / "no" / "a.mp4", frames, 8)
    with pytest.raises(ValueError, match="frame_rate=0"):
        write_video(tmp_path / "a.mp4", frames, 0)
    with pytest.raises(ValueError, match="to_uint8"):
        write_video(tmp_path / "a.mp4", frames.float(), 8)
    with pytest.raises(ValueError, match="exists: give a new folder"):
        write_pictures(tmp_path, frames)


def test_webm_round_trip(tmp_path: Path) -> None:
    frames = moving_frames(13, 63, 95)  # VP9 takes odd sizes
    write_video(tmp_path / "a.webm", frames, 12.5)
    clip = read_video(tmp_path / "a.webm")
    assert clip.frame_rate == pytest.approx(12.5)
    assert clip.frames.shape == frames.shape
    assert psnr(clip.frames, frames) > 38
    assert all(abs(float(d)) < 0.75 for d in (clip.frames.float() - frames.float()).mean((0, 1, 2)))  # no tint
    with av.open(tmp_path / "a.webm") as container:
        context = container.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.pix_fmt) == ("vp9", "yuv420p")
        assert context.colorspace == 1  # bt709


@pytest.mark.parametrize(("suffix", "least"), [(".gif", 24), (".webp", 33)])
def test_animations_keep_time_and_picture(tmp_path: Path, suffix: str, least: float) -> None:
    """At 30 frames a second a gif has delays of 30 and 40 ms, since it knows no others."""
    frames = moving_frames(31, 62, 95)
    write_video(tmp_path / f"a{suffix}", frames, 30)
    shown = torch.from_numpy(iio.imread(tmp_path / f"a{suffix}", index=..., plugin="pillow", mode="RGB"))
    assert shown.shape == frames.shape
    assert psnr(shown, frames) > least
    with Image.open(tmp_path / f"a{suffix}") as image:
        delays = []
        for number in range(len(frames)):
            image.seek(number)
            image.load()
            delays.append(image.info["duration"])
        assert image.info["loop"] == 0
    assert sum(delays) == pytest.approx(31 * 1000 / 30, abs=6)
    assert max(delays) - min(delays) <= (10 if suffix == ".gif" else 1)
    if suffix == ".gif":
        assert probe_video(tmp_path / "a.gif").num_frames == 31


def test_pictures_are_exact(tmp_path: Path) -> None:
    frames = moving_frames(3, 17, 31)
    write_pictures(tmp_path / "a", frames.split(2))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    for number, frame in enumerate(frames):
        assert np.array_equal(iio.imread(tmp_path / f"a/{number:06d}.png"), frame.numpy())
    with pytest.raises(ValueError, match="keep one size"):
        write_pictures(tmp_path / "b", [frames, frames[:, 1:]])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        write_video(tmp_path / f"{name}{suffix}", moving_frames(9), 8, reproducible=True)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
@pytest.mark.parametrize("name", ["a:b", "2024-05-01T12:30:00", "file:a"])
def test_a_colon_in_a_name_is_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(f"{name}{suffix}", moving_frames(2), 8)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}{suffix}"]
