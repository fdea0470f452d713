"""Time and memory of an autoencoder, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vae3d.interop import Autoencoder
from video_dit.evaluation import speed
from video_dit.evaluation.candidates import Candidate, ours, profile
from video_dit.evaluation.speed import (
    FRAME_RATE,
    Memory,
    SpeedOptions,
    Timing,
    in_own_process,
    measure_decode,
    measure_encode,
    measure_stream,
    time_runs,
)

MIB = 2**20
linux = pytest.mark.skipif(not speed.CLEAR.exists(), reason="elsewhere the peak cannot be set back")


@pytest.fixture
def options() -> SpeedOptions:
    return SpeedOptions(9, 32, 48, torch.float32, torch.get_num_threads(), 3, "cpu")


@pytest.fixture
def own(tmp_path: Path) -> Candidate:
    config = tmp_path / "vae_small.yaml"
    config.write_text("model: {latent_channels: 4, encoder_width: 16, decoder_width: 24}\n")
    return ours(str(config))


def test_another_process_computes_it() -> None:
    assert in_own_process(os.getpid) != os.getpid()


def test_what_goes_wrong_there_is_told_here() -> None:
    with pytest.raises(FileNotFoundError):
        in_own_process(os.stat, "/nowhere")
    with pytest.raises(RuntimeError, match="terminated"):
        in_own_process(os._exit, 3)


@linux
def test_the_peak_is_that_since_the_start() -> None:
    """In a process of its own: one that has run other tests has freed memory to take from."""
    code = (
        "import torch; from video_dit.evaluation.speed import peak_bytes, start_peak\n"
        "before = start_peak('cpu'); large = torch.ones(2**24); del large\n"
        "print(peak_bytes('cpu') - before)\n"
        "before = start_peak('cpu'); print(peak_bytes('cpu') - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (int(line) for line in result.stdout.split()[-2:])
    assert 60 * MIB < first < 100 * MIB
    assert second < 10 * MIB


def test_memory_of_a_computation_is_what_it_adds() -> None:
    assert Memory(before=100, peak=130).own == 30


def test_a_warm_up_is_not_counted(options: SpeedOptions) -> None:
    calls: list[int] = []
    timing = time_runs(lambda: calls.append(1), options)
    assert (len(calls), len(timing.seconds), timing.runs) == (4, 3, "3 warm")


def test_what_takes_long_runs_once(options: SpeedOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LONG", 0.0)
    calls: list[int] = []
    timing = time_runs(lambda: calls.append(1), options)
    assert (len(calls), len(timing.seconds), timing.runs) == (1, 1, "1 cold")


def test_the_median_of_runs_counts() -> None:
    assert Timing([3.0, 1.0, 9.0], True, Memory(0, 0)).median == 3.0


def test_decoding_and_encoding_take_time_and_memory(own: Candidate, options: SpeedOptions) -> None:
    """Decoding in a process of its own, as it is meant to be; encoding here, which is quicker."""
    shape = profile(own, options.num_frames, options.height, options.width).latent_shape
    decode, encode = in_own_process(measure_decode, own, shape, options), measure_encode(own, options)
    for timing in (decode, encode):
        assert timing.runs == "3 warm"
        assert min(timing.seconds) > 0
        assert min(timing.memory.peak, timing.memory.before) > MIB


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_a_stream_has_the_frames_of_its_seconds(own: Candidate, options: SpeedOptions, seconds: float) -> None:
    stream = measure_stream(own, seconds, options)
    assert (stream.frames - 1) % 4 == 0
    assert abs(stream.frames - 1 - seconds * FRAME_RATE) <= 2
    assert min(stream.memory.peak, stream.memory.before) > MIB
    assert stream.seconds > 0


def test_what_is_built_computes_in_the_asked_type(own: Candidate) -> None:
    vae: Autoencoder = own.build(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.bfloat16}
    assert not vae.training
