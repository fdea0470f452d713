"""tools/benchmark.py: from the command line to table and JSON, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from data.video import write_video

CONFIG = "model: {latent_channels: 4, encoder_width: 72, decoder_width: 72, decoder_depth: 1, encoder_depth: 1}\n"


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("benchmark")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "vae_small.yaml").write_text(CONFIG)
    return tmp_path / "vae_small.yaml"


def test_a_whole_run_in_processes_of_its_own(config: Path, tmp_path: Path) -> None:
    small = ["--frames=5", "--size=32x32", "--threads=1", "--repeats=1", "--memory-seconds", "--against"]
    file = tmp_path / "figures.json"
    command = [sys.executable, "tools/benchmark.py", "vae", f"--config={config}", f"--json={file}", *small]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert figures.keys() == {
        "settings",
        "autoencoders",
        "streams",
        "training",
        "requirements",
    }
    (ours,) = figures["autoencoders"]
    assert ours["decode_seconds"] > 0
    assert ours["decode_peak_bytes"] > ours["decode_bytes_before"] > 0
    assert "ours, vae_small" in done.stdout
    assert "not measured  ours, vae_small: decodes 40 times as fast as wan, published" in done.stdout


def test_defaults_are_what_is_required(tool: ModuleType) -> None:
    args = tool.parse_arguments(["vae"])
    assert (args.config, args.frames, args.size, args.threads) == (["vae_base.yaml"], 17, (256, 256), 2)
    assert (args.against, args.rivals) == (["wan", "cogvideox"], ["published", "shrunk"])
    assert args.memory_seconds == [5.0, 60.0]
    assert args.train_seconds is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "wann"], "invalid choice: 'wann'"),
        (["--size", "256"], "must be like 64x64"),
        (["--frames", "0"], "at least 1"),
        (["--train-seconds", "-1"], "must be a number above 0"),
        (["--manifest", "clips.csv"], "--manifest clips.csv: is for training: give --train-seconds as well"),
        (["--json", "/nowhere/x.json"], "--json /nowhere/x.json: must be a file in a folder that exists"),
    ],
)
def test_options_that_are_refused(
    tool: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments(["vae", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (["--frames", "6"], "--frames 6 must be 1 + 4k for ours, vae_small: use 5 or 9"),
        (["--size", "60x64"], "--size: width 60 must be a multiple of 8"),
        (["--train-seconds", "1", "--train-size", "20"], "--train-size: height 20 must be a multiple of 8"),
    ],
)
def test_what_only_the_autoencoders_know_is_refused_in_one_line(
    tool: ModuleType,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "vae", f"--config={config}", "--against", *arguments])
    assert tool.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark.py: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    frames = torch.randint(256, (20, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "a.mp4", frames, 10.0)
    rows = ["path,text,width,height,fps,num_frames,split", "a.mp4,noise,64,48,10,20,train", "no.mp4,-,64,48,10,20,odd"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.csv"


def test_reading_and_filling(
    tool: ModuleType, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest.with_name("figures.json")
    small = ["--reads=2", "--clips=60", "--ranks=2", "--seed=1", f"--json={file}"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "data", f"--manifest={manifest}", *small])
    assert tool.main() == 0
    figures = json.loads(file.read_text())
    assert figures.keys() == {"settings", "reading", "fill", "requirements"}
    assert figures["settings"]["token_budget"] == 16384
    (clip,) = figures["reading"]["clips"]
    assert len(clip["times"]["ours_seconds"]) == 2
    assert len(figures["fill"]["ways"]) == 4
    printed = capsys.readouterr().out
    assert "a.mp4" in printed
    assert "no.mp4" not in printed
    assert "  reads take at most 1.10 times as long as by decord alone" in printed


def test_defaults_of_data(tool: ModuleType) -> None:
    args = tool.parse_arguments(["data", "--manifest", "clips.csv"])
    assert (args.reads, args.clips, args.token_budget, args.ranks, args.seed) == (3, 1000, 16384, 8, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --manifest"),
        (["--manifest", "a.csv", "--reads", "0"], "at least 1"),
        (["--manifest", "a.csv", "--json", "/nowhere/x.json"], "must be a file in a folder that exists"),
    ],
)
def test_options_of_data_that_are_refused(
    tool: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments(["data", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_manifest_that_is_missing_is_one_line(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "data", "--manifest", "nowhere.csv"])
    assert tool.main() == 2
    assert capsys.readouterr().err == "benchmark.py: manifest nowhere.csv does not exist: check its path\n"


def test_transformers(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    small = ["--layers=1", "--width=64", "--heads=2", "--grid=2x2x2", "--text-length=4", "--threads=1", "--repeats=1"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "dit", *small, "--dtype=float32", f"--json={file}"])
    assert tool.main() == 0
    figures = json.loads(file.read_text())
    assert figures.keys() == {"settings", "transformers", "times", "requirements"}
    assert figures["settings"]["speed"]["precision"] == "highest"
    assert [one["family"] for one in figures["transformers"]] == ["ours", "wan", "cogvideox", "ltx"]
    assert "forward, float32, eager: 1.5 times as fast as the fastest peer" in capsys.readouterr().out


def test_an_epoch_of_many_shapes(
    tool: ModuleType, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest.with_name("figures.json")
    small = ["--layers=1", "--width=32", "--heads=2", "--text-length=4", "--threads=1", "--dtype=float32"]
    few = ["--steps=1", "--clips=20", "--token-budget=1024", f"--manifest={manifest}", f"--json={file}"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "dit", "--epoch", *small, *few])
    assert tool.main() == 0
    figures = json.loads(file.read_text())
    assert figures.keys() == {"settings", "epochs", "requirements"}
    assert [len(way["seconds"]) for way in figures["epochs"][0]["ways"]] == [1, 1, 1, 1]
    assert "batches of 1024 tokens, float32, AdamW" in capsys.readouterr().out


def test_defaults_of_dit_are_what_is_required(tool: ModuleType) -> None:
    args = tool.parse_arguments(["dit"])
    assert (args.layers, args.width, args.heads, args.grid, args.batch) == (12, 384, 6, (10, 8, 8), 1)
    assert (args.against, args.dtype) == (["wan", "cogvideox", "ltx"], ["float32", "bfloat16"])
    assert (args.device, args.threads, args.compile, args.mixed, args.epoch) == ("cpu", 2, False, False, False)
    assert args.peak_tflops == 790


def test_configs_of_mixed_may_be_given_one_by_one(tool: ModuleType) -> None:
    args = tool.parse_arguments(["dit", "--mixed", "--config", "a.yaml", "b.yaml x=1", "--config", "c.yaml"])
    assert args.config == ["a.yaml", "b.yaml x=1", "c.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "10x8"], "must be like 10x8x8, frames x rows x columns"),
        (["--against", "hunyuan"], "invalid choice: 'hunyuan'"),
        (["--mixed"], "--mixed and --config FILE: give both or neither"),
        (["--config", "sora_tiny.yaml"], "--mixed and --config FILE: give both or neither"),
        (["--mixed", "--epoch", "--config", "sora_tiny.yaml"], "--mixed and --epoch: give one of them"),
    ],
)
def test_options_of_dit_that_are_refused(
    tool: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments(["dit", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_config_that_is_missing_is_one_line(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("video_dit.evaluation.dit_benchmark.in_own_process", lambda function, *rest: function(*rest))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "dit", "--mixed", "--config", "nowhere.yaml", "--threads=1"])
    assert tool.main() == 2
    assert capsys.readouterr().err.startswith("benchmark.py: --config nowhere.yaml: no such file")
