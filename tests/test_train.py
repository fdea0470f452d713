"""train.py: the dry run, runs that would have no batch, what the log says of a step, how runs fail, adapters, DDPM."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_training
import torch
from conftest import free_port
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors.torch import load_file
from torch import Tensor

import train
from data.shards import write_index
from data.video import write_video
from vae3d import LatentCodec
from video_dit import VideoPipeline
from video_dit.config import RunConfig, load_config
from video_dit.denoiser import Denoiser, build_denoiser
from video_dit.engine import Engine
from video_dit.lora import load_lora
from video_dit.sources import encoding
from video_dit.stopping import Stop
from video_dit.text import byte_t5

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "sora-tiny"
TINY = [*tiny_training.TINY, f"vae.path={MODEL}", "data.cache=''"]
Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Main:
    """Calls train.py with a tiny model; its exit code, and what it prints."""

    def call(*arguments: str) -> tuple[int, str, str]:
        command = [
            "train.py",
            "--config",
            "sora_tiny.yaml",
            *TINY,
            f"run_dir={tmp_path}/run",
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", command)
        code = train.main()
        return code, *capsys.readouterr()

    return call


def test_a_dry_run_reports_and_writes_nothing(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = main("--dry-run", "data.num_clips=20", f"data.cache={tmp_path}/cache")
    assert code == 0
    lines = out.splitlines()
    starts = ["clips: 20 ", "durations: ", "packs: ", "steps: ", "parameters: ", "a step: ", "activations: ", "memory "]
    assert [start for start in starts if any(line.startswith(start) for line in lines)] == starts
    codec = LatentCodec.from_pretrained(MODEL)
    module = train.build_denoiser(load_config(RunConfig, "sora_tiny.yaml", TINY), codec)
    assert f"; {sum(p.numel() for p in module.parameters()):,} trained, 0 frozen" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_memory_for_the_weights(main: Main) -> None:
    code, out, _ = main("--dry-run", "model.hidden_size=262144", "model.num_heads=2048")
    assert code == 0
    assert float(out.split("parameters: ")[1].split()[0].replace(",", "")) > 1e12  # of which one matrix has 2³⁶


def test_of_several_ranks_one_reports(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        code, out, _ = main("--dry-run", "train.accumulation=2")
        assert (code, "of 8 packs on 4 ranks" in out) == (0, rank == 0)
    assert out == ""


def manifest(folder: Path, *rows: str) -> str:
    """A manifest of these rows, beside a clip of 20 frames at 8 frames a second."""
    write_video(folder / "a.mp4", torch.zeros(20, 32, 48, 3, dtype=torch.uint8), 8.0)
    (folder / "clips.csv").write_text("\n".join(["path,text,start,end,split", *rows]) + "\n")
    return f"data.manifest={folder}/clips.csv"


def no_rows(folder: Path) -> list[str]:
    return [manifest(folder)]


def no_split(folder: Path) -> list[str]:
    return [manifest(folder, "a.mp4,x,,,test")]


def too_short(folder: Path) -> list[str]:
    return [manifest(folder, *["a.mp4,x,0,0.4,train"] * 3)]


def missing(folder: Path) -> list[str]:
    return [manifest(folder, "gone.mp4,x,,,train", "b/gone.mp4,x,,,train")]


def unreadable(folder: Path) -> list[str]:
    (folder / "text.mp4").write_text("no video")
    return [manifest(folder, "text.mp4,x,,,train")]


def small_budget(folder: Path) -> list[str]:
    return ["data.token_budget=100"]


def empty_shards(folder: Path) -> list[str]:
    config = load_config(RunConfig, "sora_tiny.yaml", TINY)
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    write_index(folder, 0, encoding(config, codec))
    return [f"data.latents={folder}"]


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (no_rows, "clips.csv has no rows: list at least one clip in it"),
        (no_split, "clips.csv has no row with split 'train': it has test"),
        (too_short, "3 too short for 5 frames at 8 fps (row 2, a.mp4, …): give longer clips"),
        (missing, "2 no such file (row 2, gone.mp4, …): mend the paths"),
        (unreadable, "1 cannot be read: not a video"),
        (small_budget, "data.token_budget=100 must hold the longest view: use at least 160"),
        (empty_shards, "has no clip: see what tools/encode.py left out"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_run_without_a_batch_stops_with_the_reason(
    main: Main,
    one_rank_environment: None,
    tmp_path: Path,
    settings: Callable[[Path], list[str]],
    reason: str,
    dry: bool,
) -> None:
    code, out, err = main(*settings(tmp_path), *(["--dry-run"] if dry else []))
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("train.py: ")
    assert reason in last
    assert not (tmp_path / "run").exists()


def launch(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """train.py as a job of so many ranks."""
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--master_port", str(free_port())]
    command = [*launcher, "--num_accelerators", str(ranks), "train.py", "--config", "sora_tiny.yaml", *arguments]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_log_tells_of_padding_and_imbalance(tmp_path: Path) -> None:
    """On two ranks, whose packs the plan tells beforehand."""
    settings = [*TINY, f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "train.max_steps=2"]
    settings.append("train.peak_tflops=0.5")
    done = launch(2, *settings)
    assert done.returncode == 0, done.stderr
    dry = launch(2, *settings, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.count("packs: ") == 1
    assert "on 2 ranks" in dry.stdout
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "train/loss" in record]
    config = load_config(RunConfig, "sora_tiny.yaml", settings)
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    tokenizer, _ = byte_t5(config.text)
    plan = train.PackFactory(config, codec, "train", tokenizer, packs_per_step=2).plan
    for number, step in enumerate(steps):
        costs = []
        for position in (2 * number, 2 * number + 1):
            tokens = [view.tokens for view in plan.pack(position)]
            costs.append(sum(n + n * n / (6 * 32) for n in tokens))
        assert step["train/imbalance"] == pytest.approx(max(costs) / (sum(costs) / 2) - 1)
        assert step["train/padding"] == 0
        assert 0 < step["train/MFU"] < 1
        assert step["train/GiB"] > 0.1
    assert len(steps) == 2
    (by_level,) = [record for record in records if any(name.startswith("loss_by_level/") for name in record)]
    assert by_level["step"] == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "try train.checkpointing=true, train.zero_stage=2",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "data.token_budget below 400"),
    ],
)
def test_out_of_memory_names_the_keys_to_turn(
    main: Main, one_rank_environment: None, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(config: RunConfig, stop: Stop) -> None:
        raise error

    monkeypatch.setattr(train, "train", fail)
    code, _, err = main()
    assert code == 1
    assert line in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_a_gradient_that_is_no_number_ends_the_run(
    main: Main,
    one_rank_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """DeepSpeed would leave the step off and go on, with a count of Adam's steps that no checkpoint holds."""
    calls: list[int] = []

    def spoil(gradient: Tensor) -> Tensor:
        calls.append(0)
        return gradient * torch.nan if len(calls) == 2 else gradient

    def build(config: RunConfig, codec: LatentCodec) -> Denoiser:
        module = build_denoiser(config, codec)
        next(module.transformer.parameters()).register_hook(spoil)
        return module

    monkeypatch.setattr(train, "build_denoiser", build)
    with pytest.raises(SystemExit) as end:
        main("train.max_steps=4", "train.save_every=1000")
    assert end.value.code == 1
    assert "train.py: the gradient is not finite at step 1," in capsys.readouterr().err
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1


def test_sigterm_late_in_a_step_ends_that_step(
    main: Main, one_rank_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Asked(train.EMA):
        def update(self, engine: Engine, step: int) -> None:
            super().update(engine, step)
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train, "EMA", Asked)
    code, _, err = main("train.max_steps=4", "train.save_every=1000")
    assert code == 0, err
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-2"


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_rank_stops_both(tmp_path: Path) -> None:
    """Latents of one clip are damaged, which the rank that has it in its pack tells."""
    settings = [*TINY, f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "train.max_steps=3"]
    config = load_config(RunConfig, "sora_tiny.yaml", settings)
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    tokenizer, _ = byte_t5(config.text)
    factory = train.PackFactory(config, codec, "train", tokenizer, packs_per_step=2)
    others, at_step_1 = ([view.index for p in some for view in factory.plan.pack(p)] for some in ((0, 1, 2), (3,)))
    clip = next(index for index in at_step_1 if index not in others)
    factory.build(factory.packs[3], 3)
    stored = factory.cache.get(factory.source.key(clip))
    assert stored is not None
    factory.cache.put(factory.source.key(clip), {**stored, "latents": stored["latents"] * torch.nan})
    done = launch(2, *settings)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if "train.py: " in line]
    assert len(told) == 1
    assert "not finite at step 1 on rank 1, in a pack of clips" in told[0]
    assert f" {clip}" in told[0].replace(",", " ").replace(":", " ")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == [1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_an_adapter_resumes_as_if_uninterrupted(tmp_path: Path, stage: int) -> None:
    """It is all that the run leaves, and it has learnt something."""
    settings = [*tiny_training.CLIPS, "data.validation_packs=1", "data.sample_prompts=[]"]
    settings += [f"data.cache={tmp_path}/cache", "data.workers=0", "train.save_every=2", "train.decay_steps=0"]
    settings += [f"train.init_from={MODEL}", "train.lora.rank=4", f"train.zero_stage={stage}"]
    for name, all_steps in (("whole", (3,)), ("resumed", (2, 3))):
        for steps in all_steps:
            done = launch(1, *settings, f"run_dir={tmp_path}/{name}", f"train.max_steps={steps}")
            assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / run / "lora" / LORA_WEIGHT_NAME_SAFE) for run in ("whole", "resumed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(tensor.any() for name, tensor in first.items() if "lora_B" in name)
    assert not (tmp_path / "whole" / "model").exists()
    load_lora(VideoPipeline.from_pretrained(MODEL).transformer, tmp_path / "whole" / "lora")


@pytest.mark.slow
def test_ddpm_trains_and_each_scheduler_samples(tmp_path: Path) -> None:
    """On videos, with known tokens at levels of their own; and what did not learn that path is refused."""
    settings = [*TINY, f"data.cache={tmp_path}/cache", "train.max_steps=2", "train.save_every=2"]
    run = [*settings, f"run_dir={tmp_path}/run"]
    vp = ["noise.path=vp", "noise.schedule=cosine", "noise.prediction=v_prediction", "noise.weighting=min_snr"]
    done = launch(1, *run, *vp, "noise.pictures=true")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(0 < record["train/loss"] < 10 for record in records if "train/loss" in record)
    assert (tmp_path / "run/forward.png").is_file()
    stored = json.loads((tmp_path / "run/model/scheduler/scheduler_config.json").read_text())
    assert (stored["beta_schedule"], stored["prediction_type"]) == ("squaredcos_cap_v2", "v_prediction")

    tool = [sys.executable, "tools/generate.py", "--model", f"{tmp_path}/run/model", "--steps", "2", "--seconds", "0.5"]
    for name in (None, "ddpm", "ddim", "pndm", "euler-ancestral", "dpm++", "unipc"):
        words = [*tool, "--prompt", "a ball", "--out", f"{tmp_path}/a.mp4", *(["--scheduler", name] if name else [])]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "a.mp4").stat().st_size > 0
        (tmp_path / "a.mp4").unlink()
    refused = launch(1, *settings, f"run_dir={tmp_path}/other", f"train.init_from={tmp_path}/run/model")
    assert "noise.path=straight is not that of train.init_from" in refused.stderr
    assert not (tmp_path / "other").exists()
    settings_of_run = (tmp_path / "run/config.yaml").read_text()
    for changed, line in (
        ([], "noise.path=straight is not that of .*step-2: use noise.path=vp, or another run_dir"),
        ([*vp, "noise.schedule=linear"], "noise.schedule=linear is not that of .*step-2: use noise.schedule=cosine"),
    ):
        refused = launch(1, *run, *changed, "train.max_steps=3")
        assert re.search(f"train.py: {line}", refused.stderr), refused.stderr
        assert "Traceback" not in refused.stderr
    assert (tmp_path / "run/config.yaml").read_text() == settings_of_run
