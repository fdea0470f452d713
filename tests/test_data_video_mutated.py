"""A thousand broken copies of small clips: each is read or refused, within the limits, and the process lives on."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.video import write_video

PROGRAM = '''
"""Read COUNT mutated copies of a file; print how many were read whole and refused, and the memory that grew."""

import random
import sys
import time
from pathlib import Path

from data.video import ReadLimits, VideoError, VideoReader

LIMITS = ReadLimits(max_pixels=1 << 20, max_frames=500, max_bytes=1 << 26, max_seconds=5)


def mutated(data: bytes, rng: random.Random) -> bytes:
    copy = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:  # flipped bits, anywhere
        for _ in range(rng.choice((1, 10, 100))):
            copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # cut short
        del copy[rng.randrange(len(copy)) :]
    elif kind == 2:  # a damaged header
        for _ in range(rng.choice((1, 4, 16))):
            copy[rng.randrange(min(len(copy), 1024))] = rng.randrange(256)
    else:  # a part that is missing or twice there
        first, length = rng.randrange(len(copy)), rng.randrange(1, 2048)
        copy[first : first + length] = rng.choice((b"", bytes(copy[first : first + length]) * 2))
    return bytes(copy)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


source, count = Path(sys.argv[1]), int(sys.argv[2])
rng, data = random.Random(source.name), source.read_bytes()
file = source.with_name(f"mutated-{source.name}")
read = refused = before = 0
slowest = 0.0
for number in range(count):
    if number == count // 4:
        before = resident()
    file.write_bytes(mutated(data, rng))
    began = time.monotonic()
    try:
        reader = VideoReader(file, LIMITS)
        reader.info()
        for _ in reader.stream(frame_rate=20):
            pass
        read += 1
    except VideoError as error:
        assert "\\\\n" not in str(error)
        refused += 1
    slowest = max(slowest, time.monotonic() - began)
print(read, refused, (resident() - before) / 2**20, slowest)
'''


def moving_square(num_frames: int) -> torch.Tensor:
    frames = torch.full((num_frames, 64, 64, 3), 90, dtype=torch.uint8)
    for number in range(num_frames):
        frames[number, 20:40, number : number + 20] = 220
    return frames


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".mkv", ".avi"])
def test_broken_copies_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    if suffix in (".mkv", ".avi"):
        write_other(tmp_path / f"clip{suffix}", moving_square(30))
    else:
        write_video(tmp_path / f"clip{suffix}", moving_square(30), 20)
    assert_survives(tmp_path / f"clip{suffix}", 160)


@pytest.mark.slow
def test_broken_copies_of_a_real_clip_are_read_or_refused(clips: Path, tmp_path: Path) -> None:
    """HEVC as x265 writes it, with B-frames and open groups of pictures, which `write_video` does not."""
    source = tmp_path / "clip.mp4"
    source.write_bytes((clips / "odd" / "torchcodec__h265_video.mp4").read_bytes())
    assert_survives(source, 200)


def assert_survives(source: Path, count: int) -> None:
    """Mutated copies of ``source``, in a process of their own."""
    (source.parent / "program.py").write_text(PROGRAM)
    command = [sys.executable, source.parent / "program.py", source, str(count)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused, grown, slowest = map(float, done.stdout.split()[-4:])
    assert read + refused == count
    assert min(read, refused) > 10
    assert grown < 32, "MiB"
    assert slowest < 12  # the index and the frames have 5 seconds each, and a decoder may be in the midst of one


def write_other(path: Path, frames: torch.Tensor) -> None:
    """What `write_video` does not write: MPEG-2 in Matroska, MPEG-4 in AVI."""
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg2video" if path.suffix == ".mkv" else "mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for array in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
