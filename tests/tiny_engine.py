"""A module that trains in milliseconds, as several test files take it through the engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import free_port
from torch import Tensor, nn

from video_dit.checkpoint import resume, save_checkpoint
from video_dit.ema import EMA
from video_dit.engine import Engine, TrainConfig, initialize, set_learning_rate
from video_dit.layers import fast_dtype
from video_dit.slices import local_fp32_slices

ZERO_STAGES = (1, 2, 3)
STAGES = (0, *ZERO_STAGES)  # 0 is one rank
OPTIMIZERS = pytest.mark.parametrize("optimizer", ["adamw", "muon"])


def tiny(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))
        module[0].bias.copy_(torch.linspace(-1, 1, 7))
    module[0].bias.requires_grad_(False)  # frozen, the same whatever the seed
    return module


def start(config: TrainConfig, seed: int = 0) -> tuple[Engine, EMA]:
    engine = initialize(tiny(seed), config)
    return engine, EMA(engine, config.ema_decay)


def run(engine: Engine, ema: EMA, config: TrainConfig, first: int, stop: int) -> list[float]:
    """Train steps ``first`` to ``stop`` as the training programs do; the losses."""
    losses = []
    for step in range(first, stop):
        set_learning_rate(engine, config, step)
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        loss = engine(inputs.to(fast_dtype(engine.device))).float().square().mean()
        engine.backward(loss)
        engine.step()
        ema.update(engine, step)
        losses.append(loss.item())
    return losses


def weights(engine: Engine) -> dict[str, Tensor]:
    return {name: part.clone() for name, (_, part) in local_fp32_slices(engine).items()}


def averages(ema: EMA) -> dict[str, Tensor]:
    return {name: part.clone() for name, (_, part) in ema.slices.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _config(optimizer: str, stage: int) -> TrainConfig:
    return TrainConfig(zero_stage=stage, optimizer=optimizer, lr=0.03, muon_lr=0.1, warmup_steps=2)


def train_and_step(run_dir: Path, optimizer: str, stage: int) -> None:
    """Three steps, saved, and one more, saved in ``after/``."""
    config = _config(optimizer, stage)
    engine, ema = start(config)
    run(engine, ema, config, 0, 3)
    save_checkpoint(engine, ema, run_dir, 3)
    run(engine, ema, config, 3, 4)
    save_checkpoint(engine, ema, run_dir / "after", 4)


def resume_and_step(saved: Path, run_dir: Path, optimizer: str, stage: int) -> None:
    """Go on from the checkpoint of three steps: saved as it was read, and after a step as above."""
    config = _config(optimizer, stage)
    engine, ema = start(config, seed=1)
    assert resume(engine, ema, saved) == 3
    save_checkpoint(engine, ema, run_dir, 3)
    run(engine, ema, config, 3, 4)
    save_checkpoint(engine, ema, run_dir / "after", 4)


def launch(program: str, folder: Path, ranks: int, *arguments: str) -> None:
    """Run a program on so many ranks, in ``folder``; it can import this module."""
    script = folder / f"on_{ranks}.py"
    script.write_text(program)
    root = Path(__file__).parents[1]
    launcher = Path(sys.executable).with_name("deepspeed")
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    options = ["--no_local_rank", "--num_accelerators", str(ranks), "--master_port", str(free_port())]
    command = [launcher, *options, script, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
