"""Each mode of tools/generate.py as a user calls it, with the shipped model: given frames come back bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from written import read

from data.video import read_video, write_video
from data.world import sample_scene

pytestmark = pytest.mark.usefixtures("ctrl_c")

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, str(ROOT / "tools" / "generate.py")]
QUICK = ["--seconds", "1", "--steps", "2"]
MODES = {
    "forward": (["--extend", "forward"], ["a", 8]),
    "backward": (["--extend", "backward"], [8, "a"]),
    "both": (["--extend", "both"], [8, "a", 8]),
    "connect": (["--connect", "b.mp4"], ["a", 7, "b"]),
    "loop": (["--loop"], ["a", 7]),
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.mp4 and b.mp4, of the model's size and rate, and the first frame of b as b.png."""
    folder = tmp_path_factory.mktemp("given")
    for seed, name in ((3, "a"), (4, "b")):
        write_video(folder / f"{name}.mp4", sample_scene("test", seed).render(18 + seed, 96, 96, 8.0), 8.0)
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[48:] = 255
    iio.imwrite(folder / "mask.png", mask)
    iio.imwrite(folder / "b.png", read_video(folder / "b.mp4").frames[0].numpy())
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_a_given_video_stays_as_it_is(given: Path, tmp_path: Path, mode: str) -> None:
    options, parts = MODES[mode]
    out = tmp_path / "out"
    result = run(given, "--video", "a.mp4", *options, *QUICK, "--prompt", "a red ball", "--pictures", "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert out.with_name("out.png").is_file()
    frames = read(out)
    place = 0
    for part in parts:
        if isinstance(part, str):
            own = read_video(given / f"{part}.mp4").frames.numpy()
            assert np.array_equal(frames[place : place + len(own)], own)
            place += len(own)
        else:
            assert len({frame.tobytes() for frame in frames[place : place + part]}) > 1
            place += part
    assert place == len(frames)


def test_pictures_are_in_the_video_and_it_can_be_made_again(given: Path, tmp_path: Path) -> None:
    """In the usual 16 bits: the same bytes, and of the pictures what the file encoder leaves."""
    pictures = ["--image", "b.png", "--keyframe", "b.png@1"]
    words = ["--prompt", "0: a red ball | 0.5: a blue cube", *pictures, *QUICK, "--out", str(tmp_path / "out.mp4")]
    result = run(given, *words)
    assert result.returncode == 0, result.stderr
    frames = read(tmp_path / "out.mp4")
    assert len(frames) == 9
    for place in (0, 8):
        assert np.abs(frames[place].astype(int) - iio.imread(given / "b.png")).mean() < 3
    result = run(tmp_path, "--repeat", "out.mp4", "--out", "again.mp4")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


EDITS = {
    "edit": (["--edit", "0.6"], (96, 96)),
    "mask": (["--mask", "mask.png"], (96, 96)),
    "uncrop": (["--uncrop", "16:9"], (64, 112)),
    "interpolate": (["--interpolate", "b.mp4"], (96, 96)),
}


@pytest.mark.parametrize("mode", EDITS)
def test_a_given_video_is_edited(given: Path, tmp_path: Path, mode: str) -> None:
    options, size = EDITS[mode]
    words = [*options, "--steps", "3", "--prompt", "a red ball"]
    result = run(given, "--video", "a.mp4", *words, "--pictures", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    frames, own = read(tmp_path / "out"), read_video(given / "a.mp4").frames.numpy()
    assert frames.shape == (len(own), *size, 3)
    if mode == "mask":
        assert np.array_equal(frames[:, :48], own[:, :48])
        assert not np.array_equal(frames[:, 48:], own[:, 48:])
    assert ("made again from its noise" in result.stdout) == (mode == "interpolate")


TWO = [
    ["--loop", "--extend", "both"],
    ["--connect", "b.mp4", "--loop"],
    ["--image", "b.png", "--loop"],
    ["--edit", "1", "--loop"],
]


@pytest.mark.parametrize("arguments", TWO, ids=" ".join)
def test_two_things_at_once_are_refused(given: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = run(given, "--video", "a.mp4", *arguments, "--out", str(tmp_path / "out.mp4"))
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    options = [word for word in arguments if word.startswith("--")]
    assert sum(option in last for option in options) + ("--video" in last) >= 2, last
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_a_whole_file_of_what_was_made(tmp_path: Path) -> None:
    """Long after the first window is written, and long before the end."""
    command = [
        *PROGRAM,
        "--prompt",
        "x",
        "--seconds",
        "6000",
        "--steps",
        "2",
        "--guidance-scale",
        "1",
        "--out",
        "a.mp4",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            drafts = list(tmp_path.glob(".a.mp4.*"))
            if drafts and drafts[0].stat().st_size > 30_000:
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert b"stopped: a.mp4 has what was made so far" in errors.splitlines()[-1]
    frames = len(read_video(tmp_path / "a.mp4").frames)
    assert 33 <= frames < 6000 * 8
    assert f"a.mp4  ({frames} frames of 96x96".encode() in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.png"]
