"""tools/generate.py: what each mode makes of what is given, frames of the user's bit for bit; and Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing.reductions import StorageWeakRef
from written import names, read

from data.sheet_frames import SheetFrames
from data.video import read_video, write_video
from video_dit import VideoPipeline
from video_dit.request import Piece, VideoRequest

pytestmark = pytest.mark.usefixtures("ctrl_c")

Generate = Callable[..., int]
Refuse = Callable[..., str]
R = 4


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def inputs(generate: Generate) -> dict[str, np.ndarray]:
    """a.mp4 and b.mp4 of 32x32 pixels in the folder that the program runs in: their frames as they are read."""
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        write_video(name, noise(seed, 9 + 2 * seed, 32, 32, 3), 8.0)
    return {name: read_video(name).frames.numpy() for name in ("a.mp4", "b.mp4")}


MODES = {
    "forward": (["--extend", "forward"], ["a.mp4", 8]),
    "backward": (["--extend", "backward"], [8, "a.mp4"]),
    "both": (["--extend", "both"], [8, "a.mp4", 8]),
    "connect": (["--connect", "b.mp4"], ["a.mp4", 7, "b.mp4"]),
    "loop": (["--loop"], ["a.mp4", 7]),
}


EDITS = {
    "edit": ["--edit", "0.5"],
    "told": ["--edit", "0.5", "--source-prompt", "a cube"],
    "mask": ["--mask", "mask.png"],
    "uncrop": ["--uncrop", "3:1"],
    "interpolate": ["--interpolate", "b.mp4"],
}


@pytest.mark.parametrize("mode", EDITS)
def test_a_video_is_edited_and_made_again(
    generate: Generate, inputs: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, 16:] = 255
    iio.imwrite("mask.png", mask)
    assert generate("--video", "a.mp4", *EDITS[mode], "--prompt", "a ball", "--pictures", "--out", "a") == 0
    frames, given = read(Path("a")), inputs["a.mp4"]
    assert frames.shape == ((9, 16, 48, 3) if mode == "uncrop" else (9, 32, 32, 3))
    if mode == "mask":
        assert np.array_equal(frames[:, :, :16], given[:, :, :16])
    if mode == "uncrop":
        shrunk = given.reshape(9, 16, 2, 16, 2, 3).astype(float).mean(axis=(2, 4))
        assert np.abs(frames[:, :, 16:32] - shrunk).max() <= 0.51
    told = [line for line in capsys.readouterr().out.splitlines() if "made again from its noise" in line]
    assert [line.split(":")[0] for line in told] == (["a.mp4", "b.mp4"] if mode == "interpolate" else [])
    assert generate("--video", "a.mp4", *EDITS[mode], "--prompt", "a ball", "--out", "x.mp4") == 0
    assert generate("--repeat", "x.mp4", "--out", "y.mp4") == 0
    assert Path("x.mp4").read_bytes() == Path("y.mp4").read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_given_frames_come_back_bit_for_bit(generate: Generate, inputs: dict[str, np.ndarray], mode: str) -> None:
    arguments, parts = MODES[mode]
    assert generate("--video", "a.mp4", *arguments, "--seconds", "1", "--pictures") == 0
    (sheet,) = Path("outputs").glob(f"a-{mode}*-0.png")
    frames = read(sheet.with_suffix(""))
    place = 0
    for part in parts:
        if isinstance(part, str):
            end = place + len(inputs[part])
            assert np.array_equal(frames[place:end], inputs[part])
        else:
            end = place + part
        place = end
    assert place == len(frames)


def test_the_sheet_tells_given_frames_from_made_ones(generate: Generate, inputs: dict[str, np.ndarray]) -> None:
    assert generate("--video", "a.mp4", "--connect", "b.mp4", "--seconds", "1", "--out", "c.mp4") == 0
    sheet = np.asarray(Image.open("c.png")).astype(int)
    side = 128 + 2 * 4 + 4  # of a cell: the picture, its border, the gap
    borders = [sheet[4 + row * (side + 20) + 20, 4 + column * side] for row in range(4) for column in range(5)]
    is_given = [bool(green > red) for red, green, _ in borders]
    shown = np.linspace(0, 26, 20).round().astype(int)
    assert is_given == [bool(number < 9 or number >= 16) for number in shown]


def test_pictures_are_shown_where_they_belong(generate: Generate, capsys: pytest.CaptureFixture[str]) -> None:
    iio.imwrite("first.png", noise(0, 32, 32, 3))
    iio.imwrite("late.png", noise(1, 64, 96, 3))
    pictures = ["--image", "first.png", "--keyframe", "late.png@1"]
    assert generate("--prompt", "x", "--seconds", "1.5", *pictures, "--out", "a", "--pictures") == 0
    frames = read(Path("a"))
    assert len(frames) == 13
    assert np.array_equal(frames[0], iio.imread("first.png"))
    cropped = noise(1, 64, 96, 3)[:, 16:80].reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(frames[8] - cropped).max() <= 0.51
    told = [line for line in capsys.readouterr().out.splitlines() if "resampled" in line]
    assert told == ["late.png: resampled from 96x64 to 32x32 pixels (cropped about its centre)"]


def test_the_size_is_that_nearest_to_the_first_picture(generate: Generate) -> None:
    iio.imwrite("wide.png", noise(0, 20, 60, 3))
    assert generate("--seconds", "1", "--image", "wide.png", "--out", "a", "--pictures") == 0
    assert read(Path("a")).shape[1:] == (16, 48, 3)
    assert generate("--seconds", "1", "--image", "wide.png", "--size", "32x32", "--out", "b", "--pictures") == 0
    assert read(Path("b")).shape[1:] == (32, 32, 3)


def test_what_is_changed_is_told_of_both_videos(
    generate: Generate, inputs: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video("wide.mp4", noise(2, 30, 32, 64, 3), 16.0)
    assert generate("--video", "a.mp4", "--connect", "wide.mp4", "--seconds", "1", "--out", "c.mp4") == 0
    lines = capsys.readouterr().out.splitlines()
    change = "64x32 to 32x32 pixels (cropped about its centre), 16 to 8 frames a second"
    assert lines[:2] == [
        f"wide.mp4: resampled from {change}",
        "1 s is no whole number of latent frames: 0.875 s are made",
    ]
    assert len(read(Path("c.mp4"))) == 9 + 7 + 15


def test_each_line_of_a_file_has_its_videos(generate: Generate) -> None:
    Path("prompts.txt").write_text("# two\nA ball\n\nA cube!\n")
    arguments = ["--prompt-file", "prompts.txt", "--seconds", "0.5", "--num-videos", "2", "--seed", "7"]
    assert generate(*arguments) == 0
    stems = [f"outputs/a-{what}-{seed}" for what in ("ball-001", "cube-002") for seed in (7, 8)]
    assert [name for name in names() if name != "prompts.txt"] == [f"{s}.{e}" for s in stems for e in ("mp4", "png")]
    videos = [read(Path(f"{stem}.mp4")).tobytes() for stem in stems]
    assert len(set(videos)) == 4
    assert generate("--prompt", "A cube!", "--seconds", "0.5", "--seed", "8", "--out", "one.mp4") == 0
    assert read(Path("one.mp4")).tobytes() == videos[3]
    assert generate("--prompt-file", "prompts.txt", "--seconds", "0.5", "--out", "x.webm") == 0
    assert {"x-001-0.webm", "x-002-0.webm"} <= set(names())


def test_what_cannot_be_is_refused(
    generate: Generate, inputs: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing is left behind."""
    write_video("short.mp4", noise(2, 4, 32, 32, 3), 8.0)
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    iio.imwrite("good.png", noise(0, 32, 32, 3))
    iio.imwrite("black.png", np.zeros((32, 32, 3), dtype=np.uint8))
    cases = {
        ("--prompt", "x", "--size", "33x32"): "width=33 must be a multiple of 16",
        ("--prompt", "x", "--image", "broken.png"): "broken.png: cannot be read as a picture",
        ("--prompt", "x", "--keyframe", "broken.png@0"): "broken.png: cannot be read as a picture",
        ("--seconds", "1", "--keyframe", "good.png@1.5"): "keyframe at 1.5 s: the video goes from 0 to 1 s",
        ("--seconds", "1", "--image", "good.png", "--keyframe", "good.png@0.01"): "two keyframes fall on one frame",
        ("--prompt", "0: a | 0: b"): "must begin at 0 and rise",
        ("--prompt", "0: a | then b"): "'then b' must be 'SECONDS: prompt'",
        ("--video", "short.mp4", "--extend", "both"): "4 frames",
        ("--video", "a.mp4", "--connect", "short.mp4"): "4 frames",
        ("--video", "a.mp4", "--connect", "good.txt"): "--connect good.txt: no such file",
        ("--video", "a.mp4", "--connect", "broken.png"): "broken.png",
        ("--video", "a.mp4", "--uncrop", "1:1"): "--uncrop 1:1 in a size of 32x32 leaves nothing to be made around",
        ("--video", "a.mp4", "--mask", "black.png"): "nothing in the mask is white",
        ("--video", "a.mp4", "--mask", "short.mp4"): "short.mp4: the mask lasts 0.5 s, and the video 1.125 s",
        ("--video", "a.mp4", "--mask", "broken.png"): "broken.png: cannot be read as a picture",
        ("--video", "a.mp4", "--interpolate", "short.mp4"): "4 frames",
        ("--video", "broken.png", "--edit", "0.5"): "broken.png",
        ("--prompt", "x", "--history-guidance", "0.5"): "history_guidance=0.5",
        ("--prompt", "x", "--step-cache", "-1"): "step_cache=-1",
        ("--prompt", "x", "--guidance-scale", "nan"): "guidance_scale=nan",
        ("--prompt", "x", "--context-seconds", "100"): "context_seconds=100",
    }
    before = names()
    for arguments, reason in cases.items():
        assert generate(*arguments) == 2, arguments
        assert reason in capsys.readouterr().err.splitlines()[-1], arguments
        assert names() == before
        assert not Path("outputs").exists(), arguments


@pytest.mark.parametrize("out", ["a.mp4", "a.webm", "a.webp", "a"])
def test_ctrl_c_leaves_what_was_made(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """A real signal, while the third window is being made."""
    pictures = [] if "." in out else ["--pictures"]
    stream = VideoPipeline.stream
    made: list[Piece] = []

    def stopped(pipe: VideoPipeline, request: VideoRequest) -> Iterator[Piece]:
        for piece in stream(pipe, request):
            if sum(one.frames.shape[2] for one in made) > 17:
                signal.raise_signal(signal.SIGINT)
            made.append(piece)
            yield piece

    monkeypatch.setattr(VideoPipeline, "stream", stopped)
    handler = signal.getsignal(signal.SIGINT)
    assert generate("--prompt", "x", "--seconds", "8", "--num-videos", "1", "--out", out, *pictures) == 130
    assert signal.getsignal(signal.SIGINT) == handler
    count = sum(piece.frames.shape[2] for piece in made)
    assert 17 < count < 65
    assert len(read(Path(out))) == count
    assert Path("a.png").is_file()
    assert f"stopped: {out} has what was made so far, {count / 8:g} s" in capsys.readouterr().err.splitlines()[-1]
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_ctrl_c_before_anything_is_made_leaves_nothing(
    generate: Generate,
    inputs: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    direction: str,
) -> None:
    stream = VideoPipeline.stream

    def stopped(pipe: VideoPipeline, request: VideoRequest) -> Iterator[Piece]:
        for piece in stream(pipe, request):
            if not piece.given:
                signal.raise_signal(signal.SIGINT)
            yield piece

    monkeypatch.setattr(VideoPipeline, "stream", stopped)
    before = names()
    assert generate("--video", "a.mp4", "--extend", direction, "--seconds", "1", "--out", "c.mp4") == 130
    assert "nothing is written" in capsys.readouterr().err.splitlines()[-1]
    assert names() == before


def test_ctrl_c_while_frames_are_written_waits_for_them(
    generate: Generate, tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends the videos that were still to come."""
    add = SheetFrames.add

    def disturbed(sheet: SheetFrames, frames: torch.Tensor, given: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        add(sheet, frames, given)

    monkeypatch.setattr(SheetFrames, "add", disturbed)
    assert generate("--prompt", "x", "--seconds", "8", "--num-videos", "2", "--out", "a.mp4") == 130
    assert names() == ["a-0.mp4", "a-0.png"]
    assert 1 <= len(read(Path("a-0.mp4"))) <= 17


def test_memory_does_not_grow_with_the_duration(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a minute that comes in 30 pieces, two at most are alive when the next one is there."""
    add = SheetFrames.add
    pieces: list[StorageWeakRef] = []
    alive: list[int] = []

    def watched(sheet: SheetFrames, frames: torch.Tensor, given: bool) -> None:
        pieces.append(StorageWeakRef(frames.untyped_storage()))
        alive.append(sum(not piece.expired() for piece in pieces))
        add(sheet, frames, given)

    def stream(pipe: VideoPipeline, request: VideoRequest) -> Iterator[Piece]:
        for number in range(30):
            yield Piece(torch.full((1, 3, 16, 32, 32), number / 30), given=False)

    monkeypatch.setattr(SheetFrames, "add", watched)
    monkeypatch.setattr(VideoPipeline, "stream", stream)
    assert generate("--prompt", "x", "--seconds", "60", "--out", "a.mp4") == 0
    assert len(read(Path("a.mp4"))) == 480
    assert max(alive) <= 3 and len(alive) == 30
