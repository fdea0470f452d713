"""A run of train.py that is killed or asked to stop at random moments, and goes on, ends as one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_training
import torch
from conftest import free_port
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "sora-tiny"
SETTINGS = [*tiny_training.TINY, f"vae.path={MODEL}", "train.warmup_steps=3", "train.decay_steps=0", "train.lr=0.01"]

KILLER = '''
"""Kills runs of train.py, each a fork of this process, which has all imported: a life begins in no time."""

import os
import random
import signal
import sys
import time
from pathlib import Path

from conftest import free_port

import train


def life(run_dir: Path, settings: list[str]) -> int:
    job = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    os.environ.update({name: str(value) for name, value in job.items()})
    sys.argv = ["train.py", "--config", "sora_tiny.yaml", f"run_dir={run_dir}", *settings]
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = train.main()
        finally:
            os._exit(code)
    return process


def lines(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\\n") if file.is_file() else 0


def saving(run_dir: Path) -> bool:
    """Whether a checkpoint is being written."""
    root = run_dir / "checkpoints"
    steps = [int(path.name.removeprefix("step-")) for path in root.glob("step-*")]
    latest = root / "latest"
    whole = int(latest.read_text().removeprefix("step-")) if latest.is_file() else 0
    return bool(steps) and max(steps) > whole


def ended(process: int) -> bool:
    return os.waitpid(process, os.WNOHANG)[0] != 0


root, kills, settings = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
assert os.waitstatus_to_exitcode(os.waitpid(life(root / "whole", settings), 0)[1]) == 0
chance, within = random.Random(0), 0
for number in range(kills):
    process = life(root / "killed", settings)
    in_save, more = number % 2 == 0, chance.randint(0, 4)
    while not lines(root / "killed") and not ended(process):  # it is starting
        time.sleep(0.001)
    goal = lines(root / "killed") + more
    while not (saving(root / "killed") if in_save else lines(root / "killed") >= goal):
        assert not ended(process), "it came to its end before it could be killed"
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.02 if in_save else 0.5))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    within += saving(root / "killed")
print("killed within a save:", within)
assert within >= kills // 5
assert os.waitstatus_to_exitcode(os.waitpid(life(root / "killed", settings), 0)[1]) == 0
'''


def losses(run_dir: Path) -> list[float]:
    """Of the steps in their order; each is there once."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = {record["step"]: record["train/loss"] for record in records if "train/loss" in record}
    assert list(found) == list(range(1, len(found) + 1))
    assert len(found) == sum("train/loss" in record for record in records)
    return list(found.values())


def assert_same_end(run_dir: Path, other: Path, ranks: int = 1) -> None:
    """Loss of each step, weights, optimizer, average and the model that was made of it, bit for bit."""
    assert losses(run_dir) == losses(other)
    last = f"checkpoints/step-{len(losses(other))}"
    files = sorted(path.name for path in (other / last).glob("*.safetensors"))
    kinds = ("ema", "exp_avg", "exp_avg_sq", "weight")
    assert files == sorted(f"{kind}-rank-{rank:04d}.safetensors" for kind in kinds for rank in range(ranks))
    parts = ["transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    for file in [*(f"{last}/{name}" for name in files), *(f"model/{part}" for part in parts)]:
        found, expected = load_file(run_dir / file), load_file(other / file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), file


@pytest.mark.slow
def test_killed_twenty_times_equals_uninterrupted(tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.cache={tmp_path}/cache", "train.max_steps=60", "train.save_every=3"]
    (tmp_path / "killer.py").write_text(KILLER)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "killer.py", tmp_path, "20", *settings]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def ranks_of(run_dir: Path, count: int, *settings: str) -> list[subprocess.Popen[str]]:
    """Each rank of a run as a process of ours, whose exit code is seen."""
    command = [sys.executable, ROOT / "train.py", "--config", "sora_tiny.yaml", f"run_dir={run_dir}", *settings]
    port = str(free_port())
    processes = []
    for rank in range(count):
        job = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env={**os.environ, **job}, **pipes))  # type: ignore[call-overload]
    return processes


def wait_for_steps(run_dir: Path, steps: int) -> None:
    for _ in range(6000):
        if (run_dir / "metrics.jsonl").is_file() and len((run_dir / "metrics.jsonl").read_text().splitlines()) >= steps:
            return
        time.sleep(0.02)
    raise AssertionError("it takes no steps")


def finish(processes: list[subprocess.Popen[str]]) -> None:
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs


STOPPED = [*SETTINGS, "train.save_every=1000", "train.zero_stage=3", "train.max_steps=30"]


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nobody stopped."""
    folder = tmp_path_factory.mktemp("left-alone")
    finish(ranks_of(folder, 2, *STOPPED, f"data.cache={folder}/cache"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "workers"), [([1], 0), ([0, 1], 1)])
def test_asked_to_stop_each_rank_saves_and_goes_on(
    left_alone: Path, tmp_path: Path, asked: list[int], workers: int
) -> None:
    """Whichever rank is asked, all end the same step. Workers are asked too, as launchers do."""
    settings = [*STOPPED, f"data.cache={left_alone}/cache", f"data.workers={workers}"]
    processes = ranks_of(tmp_path, 2, *settings)
    wait_for_steps(tmp_path, 3)
    began = time.monotonic()
    for rank in asked:
        process = psutil.Process(processes[rank].pid)
        below = process.children(recursive=True)
        assert bool(below) == bool(workers)
        for each in (*below, process):
            each.terminate()
    finish(processes)
    assert time.monotonic() - began < 30
    step = len(losses(tmp_path))
    assert 3 <= step < 30
    assert (tmp_path / "checkpoints/latest").read_text() == f"step-{step}"
    assert not (tmp_path / "model").exists()
    finish(ranks_of(tmp_path, 2, *settings))
    assert_same_end(tmp_path, left_alone, ranks=2)


@pytest.mark.slow
def test_asked_to_stop_while_it_makes_samples_it_leaves_them_off(tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.cache={tmp_path}/cache", "train.max_steps=1"]
    settings += [f"data.sample_prompts=[{','.join('abcdefgh')}]"]
    run_dir = tmp_path / "run"
    (process,) = ranks_of(run_dir, 1, *settings)
    wait_for_steps(run_dir, 2)  # that of the step and that of the validation
    os.kill(process.pid, signal.SIGTERM)
    finish([process])
    assert len(list((run_dir / "samples").glob("*-[0-7].png"))) < 8
    assert not (run_dir / "model").exists()
    finish(ranks_of(run_dir, 1, *settings))
    assert len(list((run_dir / "samples").glob("*-[0-7].png"))) == 8
    assert (run_dir / "model/model_index.json").is_file()
