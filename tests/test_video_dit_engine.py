"""Settings, learning rate, the DeepSpeed engine, saving and resuming."""

import os
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed import comm as dist
from tiny_engine import OPTIMIZERS, STAGES, ZERO_STAGES, run, same, start, tiny, weights
from torch import Tensor, nn

from video_dit.checkpoint import resume, save_checkpoint
from video_dit.engine import (
    TrainConfig,
    initialize,
    learning_rate,
    muon_optimizer,
    process_group,
    set_learning_rate,
)
from video_dit.layers import fast_dtype
from video_dit.slices import local_state_slices


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"zero_stage": 4}, "train.zero_stage=4 must be 0, 1, 2 or 3"),
        ({"zero_stage": 0, "offload_optimizer": True}, "train.offload_optimizer=true is a part of ZeRO"),
        ({"max_steps": 0}, "train.max_steps=0 must be at least 1"),
        ({"save_every": -1}, "train.save_every=-1 must be at least 1"),
        ({"save_every": 0}, "train.save_every=0 must be at least 1"),
        ({"accumulation": 0}, "train.accumulation=0 must be at least 1"),
        ({"optimizer": "sgd"}, "train.optimizer=sgd must be adamw or muon"),
        ({"lr": 0.0}, "train.lr=0.0 must be above 0"),
        ({"muon_lr": -1.0}, "train.muon_lr=-1.0 must be above 0"),
        ({"max_grad_norm": -1.0}, "train.max_grad_norm=-1.0 must be at least 0; 0 is no limit"),
        ({"lr": float("nan")}, "train.lr=nan must be above 0"),
        ({"ema_decay": 1.0}, r"train.ema_decay=1.0 must be in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        TrainConfig(**option)
    assert "\n" not in str(error.value)


def test_the_rate_rises_stays_and_falls_linearly() -> None:
    config = TrainConfig(max_steps=100, lr=2.0, warmup_steps=10, decay_steps=20)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:81] == [2.0] * 72
    assert rates[99] == pytest.approx(2.0 / 20)
    for ramp in (rates[:10], rates[80:]):
        steps = [b - a for a, b in pairwise(ramp)]
        assert steps == pytest.approx([steps[0]] * len(steps))
    assert min(rates) > 0


def test_the_rate_without_warm_up_and_decay_is_constant() -> None:
    config = TrainConfig(max_steps=10, lr=0.5, warmup_steps=0, decay_steps=0)
    assert {learning_rate(config, step) for step in range(10)} == {0.5}


def test_warm_up_and_decay_may_overlap() -> None:
    config = TrainConfig(max_steps=10, lr=1.0, warmup_steps=8, decay_steps=8)
    rates = [learning_rate(config, step) for step in range(10)]
    assert max(rates) < 1
    assert rates.index(max(rates)) in (4, 5)


def test_only_matrices_decay_and_frozen_weights_stay(one_rank: None) -> None:
    module = tiny()
    frozen = module[0].bias.detach().clone()
    config = TrainConfig(weight_decay=0.3, lr=0.1)
    engine = initialize(module, config)
    decays = sorted(group["weight_decay"] for group in engine.optimizer.param_groups)
    assert decays == [0.0, 0.3]
    # with a loss that does not depend on the weights AdamW moves only what decays
    before = weights(engine)
    engine.backward((engine(torch.ones(2, 5, dtype=fast_dtype(engine.device))).float() * 0).sum())
    engine.step()
    moved = {name for name, part in weights(engine).items() if not torch.equal(part, before[name])}
    assert moved == {"0.weight", "3.weight"}
    torch.testing.assert_close(module[0].bias.float(), frozen, atol=0, rtol=2**-7)


@pytest.mark.parametrize("stage", STAGES)
def test_in_fp32_what_is_frozen_is_too(one_rank: None, stage: int) -> None:
    """It may have been loaded in 16 bits, in which a CPU without bf16 is slow."""
    module = tiny()
    module[0].weight.requires_grad_(False)
    module[0].weight.data = module[0].weight.data.bfloat16()
    engine = initialize(module, TrainConfig(zero_stage=stage), torch.float32)
    assert {p.dtype for p in engine.module.parameters()} == {torch.float32}


@OPTIMIZERS
@pytest.mark.parametrize("stage", STAGES)
def test_the_engine_trains(one_rank: None, stage: int, optimizer: str) -> None:
    config = TrainConfig(zero_stage=stage, lr=0.03, warmup_steps=1, optimizer=optimizer, muon_lr=0.1)
    engine, ema = start(config)
    losses = run(engine, ema, config, 0, 15)
    assert sum(losses[-3:]) < 0.3 * sum(losses[:3])
    set_learning_rate(engine, config, 0)
    rates = [group["lr"] for group in engine.optimizer.param_groups]
    assert sorted(set(rates)) == ([0.03] if optimizer == "adamw" else [0.03, 0.1])


def test_muon_takes_all_matrices_that_are_trained_but_embeddings() -> None:
    module = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False))
    module[3].weight.requires_grad_(False)
    groups = muon_optimizer(module, TrainConfig(weight_decay=0.1, lr=0.2, muon_lr=0.3)).param_groups
    names = {id(p): name for name, p in module.named_parameters()}
    found = {group["use_muon"]: sorted(names[id(p)] for p in group["params"]) for group in groups}
    assert found == {True: ["1.weight"], False: ["0.weight", "1.bias", "2.bias", "2.weight"]}
    assert {group["use_muon"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        True: (0.3, 0.1),
        False: (0.2, 0.0),
    }


def test_a_step_of_muon_turns_a_matrix_by_its_rate(one_rank: None) -> None:
    """The directions of the update are about as large, those of the gradient are not: its singular values lie around
    the rate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 8, bias=False))
    before = module[0].weight.detach().clone()
    config = TrainConfig(optimizer="muon", muon_lr=0.25, warmup_steps=0, weight_decay=0.0)
    engine = initialize(module, config)
    set_learning_rate(engine, config, 0)
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -1, 8)
    engine.backward(engine(inputs.to(fast_dtype(engine.device))).float().square().mean())
    engine.step()
    (part,) = weights(engine).values()
    sizes = torch.linalg.svdvals(part.view(8, 8) - before.to(fast_dtype(engine.device)).float())
    assert sizes.max() < 1.35 * 0.25
    assert sizes.sort().values[2] > 0.5 * 0.25


def gradient(config: TrainConfig, scale: float) -> Tensor:
    """Of a loss times ``scale``, as it comes to the optimizer: its first moment is a tenth of it."""
    engine = initialize(tiny(), config)
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).to(fast_dtype(engine.device))
    engine.backward(engine(inputs).float().square().mean() * scale)
    engine.step()
    return torch.cat([part * 10 for _, part in local_state_slices(engine)["exp_avg"].values()])


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_cut_to_the_norm(one_rank: None, stage: int) -> None:
    config = TrainConfig(zero_stage=stage, max_grad_norm=0.5)
    short, long = gradient(config, 1e-3), gradient(config, 1e3)
    free = gradient(replace(config, max_grad_norm=0.0), 1e3)
    assert float(long.norm()) == pytest.approx(0.5, rel=0.01)
    assert float(free.norm()) > 100
    for cut in (short, long):
        torch.testing.assert_close(cut / cut.norm(), free / free.norm(), rtol=0.02, atol=1e-3)
    assert float(short.norm()) == pytest.approx(float(free.norm()) * 1e-6, rel=0.02)


def test_muon_is_not_cut(one_rank: None) -> None:
    """A norm that would leave next to nothing of its updates."""
    config = TrainConfig(optimizer="muon", muon_lr=0.1, warmup_steps=1, max_grad_norm=1e-9)
    engine, ema = start(config)
    before = weights(engine)
    run(engine, ema, config, 0, 1)
    assert (weights(engine)["0.weight"] - before["0.weight"]).abs().max() > 0.01


@OPTIMIZERS
@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_a_step_on_the_host_is_the_same(one_rank: None, tmp_path: Path, stage: int, optimizer: str) -> None:
    """On a CPU all is on the host, but DeepSpeed takes the paths of offloading; the checkpoint is of one kind."""
    config = TrainConfig(zero_stage=stage, lr=0.03, muon_lr=0.1, warmup_steps=1, optimizer=optimizer, max_grad_norm=0.0)
    there, here = replace(config, offload_optimizer=True), config
    (one, one_ema), (two, two_ema) = start(there), start(here)
    losses = run(one, one_ema, there, 0, 3), run(two, two_ema, here, 0, 3)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if optimizer == "adamw" else 0.1)
    save_checkpoint(one, one_ema, tmp_path, 3)
    three, three_ema = start(here, seed=1)
    assert resume(three, three_ema, tmp_path) == 3
    assert same(weights(three), weights(one))
    assert run(three, three_ema, here, 3, 4) == pytest.approx(run(one, one_ema, there, 3, 4), rel=0.05)


def test_no_launcher_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    with process_group():
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)


def test_tasks_of_slurm_without_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(ValueError, match=r"SLURM_STEP_NUM_TASKS=4 without RANK .*: start one task"), process_group():
        pass


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_the_buffer_for_gradients_is_no_larger_than_they_are(one_rank: None, stage: int) -> None:
    engine = initialize(tiny(), TrainConfig(zero_stage=stage))
    assert engine.optimizer.reduce_bucket_size == sum(p.numel() for p in tiny().parameters() if p.requires_grad)


@pytest.mark.parametrize("stage", [0, 1])
def test_accumulated_packs_are_one_step_of_their_mean(one_rank: None, stage: int) -> None:
    config = TrainConfig(zero_stage=stage, accumulation=2, lr=0.03)
    split, _ = start(config)
    whole, _ = start(replace(config, accumulation=1))
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).to(fast_dtype(whole.device))
    before = weights(split)
    for number, part in enumerate(inputs.chunk(2)):
        split.backward(split(part).float().square().mean())
        split.step()
        assert same(weights(split), before) == (number == 0)
    whole.backward(whole(inputs).float().square().mean())
    whole.step()
    for name, part in weights(whole).items():
        assert (weights(split)[name] - part).abs().mean() < 0.2 * (part - before[name]).abs().mean()


class RankError(Exception):
    """Of a rank."""


def gloo_threads() -> int:
    count = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has just ended
            count += path.read_text().strip() == "pt_gloo_runloop"
    return count


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("fails", [False, True])
def test_a_process_group_leaves_no_threads_behind(one_rank_environment: None, fails: bool) -> None:
    """Those of gloo abort the process if they outlive Python."""
    before = gloo_threads()
    with pytest.raises(RankError) if fails else nullcontext(), process_group():
        dist.barrier()
        assert gloo_threads() > before
        if fails:
            raise RankError
    for _ in range(20):  # the system may list a thread for a moment after its end
        if gloo_threads() == before:
            break
        time.sleep(0.1)
    assert gloo_threads() == before


def test_a_process_group_waits_for_no_compiler(tmp_path: Path, one_rank_environment: None) -> None:
    """A process that is killed while it builds an extension leaves a lock, which holds up every later job."""
    program = "from video_dit.engine import process_group\nwith process_group():\n    pass"
    for name in ("c++", "g++", "gcc", "cc"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c++", "cc", "g++", "gcc"]
