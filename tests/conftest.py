"""Fixtures that several test files share."""

import importlib.util
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

from vae3d import VideoVAE

if TYPE_CHECKING:
    from video_dit import VideoDiT, VideoPipeline

CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def pytest_runtest_setup() -> None:
    """Where `.ci/run` says until when tests may begin: a slow machine skips, and counts, those it has no time for."""
    if time.time() > float(os.environ.get("TESTS_UNTIL", "inf")):
        pytest.skip("no time is left on this machine")


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips, which stands beside the repository on the machines that have it."""
    if not (CLIPS / "index.csv").is_file():
        pytest.skip(f"{CLIPS} is missing")
    return CLIPS


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """A program of tools/ as a module, by its name without the suffix."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look for their module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tiny_vae() -> VideoVAE:
    """An autoencoder with random weights and statistics; two blocks each, so that their order matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, std = torch.randn(4), 0.5 + 1.5 * torch.rand(4)
        vae = VideoVAE(
            latent_channels=4,
            encoder_width=32,
            encoder_depth=2,
            decoder_width=24,
            decoder_depth=2,
            thin_width=8,
            thin_depth=2,
            latents_mean=mean.tolist(),
            latents_std=std.tolist(),
        )
    return vae.eval()


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def job_port() -> int:
    """A free port for the master of a DeepSpeed job of several processes."""
    return free_port()


@pytest.fixture
def one_rank_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher tells the only rank of a job."""
    job = {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    for name, value in job.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def one_rank(one_rank_environment: None) -> Iterator[None]:
    """This process as the only rank of a DeepSpeed job, on one thread as the ranks that tests launch: sums in 16 bits
    differ with the number of threads."""
    from video_dit.engine import process_group  # imports DeepSpeed; few tests need it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with process_group():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_dit() -> "VideoDiT":
    """A transformer whose parameters are all random: one that was just built gives zeros."""
    from video_dit import VideoDiT  # imports transformers; few tests need it

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = VideoDiT(
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            text_dim=16,
            sample_sizes=[[32, 32], [16, 48]],
            sample_latent_frames=5,
            base_tokens=4,
        )
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model.eval()


@pytest.fixture
def tiny_pipe(tiny_dit: "VideoDiT", tiny_vae: VideoVAE) -> "VideoPipeline":
    """A pipeline of random parts that makes 5 latent frames of 32x32 pixels at a time and shows no bar."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from video_dit import VideoPipeline
    from video_dit.text import TextConfig, byte_t5

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        tokenizer, encoder = byte_t5(TextConfig(max_length=32, width=16, num_layers=1, num_heads=2, hidden=32))
    pipe = VideoPipeline(tiny_dit, tiny_vae, encoder.eval(), tokenizer, FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal, here and in what is started from here: a shell's background job has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    """tools/generate.py."""
    return load_tool("generate")


@pytest.fixture
def generate(
    tool: ModuleType, tiny_pipe: "VideoPipeline", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., int]:
    """tools/generate.py in an empty folder, with a random model; returns its exit code."""
    tiny_pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: str) -> int:
        words = ["--model", str(tmp_path / "model"), "--device", "cpu", "--dtype", "fp32", "--steps", "1"]
        words = [] if "--repeat" in arguments else words
        monkeypatch.setattr(sys, "argv", ["generate.py", *words, *arguments])
        try:
            return tool.main()
        except SystemExit as stop:
            return int(stop.code or 0)

    return call


@pytest.fixture
def refuse(generate: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Call it where there is no model to load: the reason, of one line, that it gives for something else."""

    def call(*arguments: str) -> str:
        (tmp_path / "model").rename(tmp_path / "away")
        before = sorted(Path().rglob("*"))
        assert generate(*arguments) == 2
        assert sorted(Path().rglob("*")) == before
        (tmp_path / "away").rename(tmp_path / "model")
        return capsys.readouterr().err.splitlines()[-1]

    return call
