"""How long an autoencoder takes and how much memory, each one measured in a process of its own."""

import gc
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import ParamSpec, TypeVar

import torch

from vae3d import LatentCodec
from vae3d.interop import decode_whole, encode_whole
from video_dit.evaluation.candidates import Candidate

P = ParamSpec("P")
T = TypeVar("T")

LONG = 20.0
"""Seconds from which on a first run is the measurement itself, not a warm-up."""
FRAME_RATE = 24.0
"""Of the long clips whose memory is measured."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class SpeedOptions:
    """What is the same for all: the clip's size, and how it is computed.

    threads: of the CPU. repeats: runs after the warm-up. device: "cpu" or "cuda".
    """

    num_frames: int
    height: int
    width: int
    dtype: torch.dtype
    threads: int
    repeats: int
    device: str


@dataclass(frozen=True)
class Memory:
    """Bytes of the whole process (on CUDA: of tensors there) before a computation, with the weights, and the most
    during it."""

    before: int
    peak: int

    @property
    def own(self) -> int:
        """What the computation took itself."""
        return self.peak - self.before


@dataclass(frozen=True)
class Timing:
    """Seconds of each run, and memory over all of them. warmed: a run before these was not counted."""

    seconds: list[float]
    warmed: bool
    memory: Memory

    @property
    def median(self) -> float:
        """Seconds of the run in the middle."""
        return median(self.seconds)

    @property
    def runs(self) -> str:
        """How often it was measured, as "5 warm"."""
        return f"{len(self.seconds)} {'warm' if self.warmed else 'cold'}"


@dataclass(frozen=True)
class Stream:
    """A long clip decoded chunk by chunk."""

    frames: int
    seconds: float
    memory: Memory


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``function``, of a module, returns when a fresh process calls it.

    Raises:
        RuntimeError: the process died, most likely for want of memory; and whatever ``function`` raises.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


@torch.no_grad()
def measure_decode(candidate: Candidate, latent_shape: tuple[int, ...], options: SpeedOptions) -> Timing:
    """Decode one clip's latents; call it through `in_own_process`."""
    torch.set_num_threads(options.threads)
    vae = candidate.build(dtype=options.dtype, device=options.device)
    latents = torch.randn(latent_shape, generator=torch.Generator().manual_seed(0))
    latents = latents.to(options.device, options.dtype)
    return time_runs(lambda: decode_whole(vae, latents), options)


@torch.no_grad()
def measure_encode(candidate: Candidate, options: SpeedOptions) -> Timing:
    """Encode one clip; call it through `in_own_process`."""
    torch.set_num_threads(options.threads)
    vae = candidate.build(dtype=options.dtype, device=options.device)
    shape = (1, 3, options.num_frames, options.height, options.width)
    frames = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = frames.to(options.device, options.dtype)
    return time_runs(lambda: encode_whole(vae, frames), options)


@torch.no_grad()
def measure_stream(candidate: Candidate, seconds: float, options: SpeedOptions) -> Stream:
    """Decode a clip of ours that long, at `FRAME_RATE`, as a stream whose frames are thrown away; call it through
    `in_own_process`."""
    torch.set_num_threads(options.threads)
    codec = LatentCodec(candidate.build(dtype=options.dtype, device=options.device))
    left = 1 + round(seconds * FRAME_RATE / codec.frame_rule[0])
    height, width = options.height // codec.grid, options.width // codec.grid
    generator = torch.Generator().manual_seed(0)

    def run() -> int:
        remaining, frames = left, 0
        stream = codec.decode_stream()
        while remaining:
            count = min(codec.chunk_length(height, width), remaining)
            latents = torch.randn(1, codec.latent_channels, count, height, width, generator=generator)
            frames += stream.push(latents).shape[2]
            remaining -= count
        return frames + stream.finish().shape[2]

    before = start_peak(options.device)
    begin = clock(options.device)
    frames = run()
    return Stream(frames, clock(options.device) - begin, Memory(before, peak_bytes(options.device)))


def time_runs(run: Callable[[], object], options: SpeedOptions) -> Timing:
    """A warm-up and ``options.repeats`` runs; or one run in all, where the first takes longer than `LONG`."""

    def timed() -> float:
        start = clock(options.device)
        run()
        return clock(options.device) - start

    before = start_peak(options.device)
    seconds = [timed()]
    if warmed := seconds[0] < LONG:
        seconds = [timed() for _ in range(options.repeats)]
    return Timing(seconds, warmed, Memory(before, peak_bytes(options.device)))


def clock(device: str) -> float:
    """Seconds on the wall, when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def start_peak(device: str) -> int:
    """Bytes in use now; `peak_bytes` counts from here.

    On Linux the kernel's own mark is set back. ``ru_maxrss``, which is all there is elsewhere, cannot be, and a child's
    begins on Linux with the size of the process that started it.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if CLEAR.exists():
        CLEAR.write_text("5")
        return _status_bytes("VmRSS")
    return peak_bytes(device)


def peak_bytes(device: str) -> int:
    """The most bytes in use since `start_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if CLEAR.exists():
        return _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
