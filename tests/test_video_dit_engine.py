"""Settings, learning rate, the DeepSpeed engine, saving and resuming."""

import os
import shutil
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
from deepspeed import DeepSpeedEngine
from deepspeed import comm as dist
from torch import Tensor, nn

from video_dit.ema import EMA, local_fp32_slices
from video_dit.engine import (
    TrainConfig,
    averaged_weights,
    initialize,
    learning_rate,
    muon_optimizer,
    process_group,
    replace_folder,
    resume,
    save_checkpoint,
    set_learning_rate,
)
from video_dit.layers import fast_dtype

STAGES = (1, 2, 3)
OPTIMIZERS = pytest.mark.parametrize("optimizer", ["adamw", "muon"])


def tiny(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))
    module[0].bias.requires_grad_(False)
    return module


def start(config: TrainConfig, seed: int = 0) -> tuple[DeepSpeedEngine, EMA]:
    engine = initialize(tiny(seed), config)
    return engine, EMA(engine, config.ema_decay)


def run(engine: DeepSpeedEngine, ema: EMA, config: TrainConfig, first: int, stop: int) -> list[float]:
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


def weights(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    return {name: part.clone() for name, (_, part) in local_fp32_slices(engine).items()}


def averages(ema: EMA) -> dict[str, Tensor]:
    return {name: part.clone() for name, (_, part) in ema.slices.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"zero_stage": 0}, "train.zero_stage=0 must be 1, 2 or 3"),
        ({"max_steps": 0}, "train.max_steps=0 must be at least 1"),
        ({"save_every": -1}, "train.save_every=-1 must be at least 1"),
        ({"save_every": 0}, "train.save_every=0 must be at least 1"),
        ({"accumulation": 0}, "train.accumulation=0 must be at least 1"),
        ({"optimizer": "sgd"}, "train.optimizer=sgd must be adamw or muon"),
        ({"lr": 0.0}, "train.lr=0.0 must be above 0"),
        ({"muon_lr": -1.0}, "train.muon_lr=-1.0 must be above 0"),
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


@OPTIMIZERS
@pytest.mark.parametrize("stage", STAGES)
def test_resumed_equals_uninterrupted(one_rank: None, tmp_path: Path, stage: int, optimizer: str) -> None:
    config = TrainConfig(
        zero_stage=stage, lr=0.03, warmup_steps=2, max_steps=6, decay_steps=3, optimizer=optimizer, muon_lr=0.1
    )
    engine, ema = start(config)
    assert resume(engine, ema, tmp_path) == 0  # nothing to resume from
    run(engine, ema, config, 0, 3)
    folder = save_checkpoint(engine, ema, tmp_path, 3)
    assert folder == tmp_path / "checkpoints" / "step-3"
    saved, saved_average = weights(engine), averages(ema)
    losses = run(engine, ema, config, 3, 6)

    other, other_ema = start(config, seed=1)
    assert not same(weights(other), saved)
    assert resume(other, other_ema, tmp_path) == 3
    assert same(weights(other), saved)
    assert same(averages(other_ema), saved_average)
    assert run(other, other_ema, config, 3, 6) == losses
    assert same(weights(other), weights(engine))
    assert same(averages(other_ema), averages(ema))


@pytest.mark.parametrize("stage", STAGES)
def test_averaged_weights_fit_the_module(one_rank: None, tmp_path: Path, stage: int) -> None:
    config = TrainConfig(zero_stage=stage)
    engine, ema = start(config)
    run(engine, ema, config, 0, 2)
    state = averaged_weights(engine.module, save_checkpoint(engine, ema, tmp_path, 2))
    fresh = tiny()
    given = fresh.state_dict()["0.bias"].clone()
    fresh.load_state_dict(state)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    torch.testing.assert_close(state.pop("0.bias"), given, rtol=0.01, atol=0)  # frozen: as it was, in bf16
    for name, tensor in state.items():
        assert torch.equal(tensor.flatten(), ema.slices[name][1])


def test_a_save_that_was_cut_short_is_never_loaded(one_rank: None, tmp_path: Path) -> None:
    config = TrainConfig()
    engine, ema = start(config)
    run(engine, ema, config, 0, 1)
    save_checkpoint(engine, ema, tmp_path, 1)
    at_one = weights(engine)
    run(engine, ema, config, 1, 2)
    whole = save_checkpoint(engine, ema, tmp_path, 2)
    (tmp_path / "checkpoints" / "latest").write_text("step-1")  # as before the second save's last act
    for file in whole.iterdir():
        file.write_bytes(b"")
    assert resume(engine, ema, tmp_path) == 1
    assert same(weights(engine), at_one)


def test_a_checkpoint_of_another_optimizer_is_refused(one_rank: None, tmp_path: Path) -> None:
    engine, ema = start(TrainConfig())
    save_checkpoint(engine, ema, tmp_path, 1)
    other, other_ema = start(TrainConfig(optimizer="muon"))
    with pytest.raises(ValueError, match=r"step-1 .*use the .* of the run, or another run_dir") as error:
        resume(other, other_ema, tmp_path)
    assert "\n" not in str(error.value)


def test_two_checkpoints_are_kept(one_rank: None, tmp_path: Path) -> None:
    engine, ema = start(TrainConfig())
    root = tmp_path / "checkpoints"
    for step in (2, 9, 10):
        save_checkpoint(engine, ema, tmp_path, step)
    assert sorted(path.name for path in root.glob("step-*")) == ["step-10", "step-9"]
    assert not list(root.glob("*.part"))
    assert (root / "latest").read_text() == "step-10"


def test_checkpoints_of_an_abandoned_run_do_not_cost_the_new_ones(one_rank: None, tmp_path: Path) -> None:
    """Who starts anew, as the error of `resume` advises, may have later steps of before in the folder."""
    engine, ema = start(TrainConfig())
    root = tmp_path / "checkpoints"
    for step in (800, 900):
        save_checkpoint(engine, ema, tmp_path, step)
    (root / "latest").unlink()
    for step in (1, 2, 3):
        folder = save_checkpoint(engine, ema, tmp_path, step)
        assert folder.is_dir()
        assert resume(engine, ema, tmp_path) == step
    assert (root / "step-2").is_dir()


def test_a_checkpoint_without_its_average_is_refused(one_rank: None, tmp_path: Path) -> None:
    engine, ema = start(TrainConfig())
    folder = save_checkpoint(engine, ema, tmp_path, 1)
    (folder / "ema-rank-0000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"step-1: the averaged weights of .* are incomplete") as error:
        resume(engine, ema, tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_is_gone_is_named(one_rank: None, tmp_path: Path) -> None:
    engine, ema = start(TrainConfig())
    shutil.rmtree(save_checkpoint(engine, ema, tmp_path, 1))
    with pytest.raises(ValueError, match=r"step-1 cannot be loaded: remove .*latest to start anew"):
        resume(engine, ema, tmp_path)


def test_accumulated_packs_are_one_step_of_their_mean(one_rank: None) -> None:
    config = TrainConfig(accumulation=2, lr=0.03)
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


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "vae"
    with replace_folder(folder) as draft:
        (draft / "a").write_text("1")
        assert not folder.exists()
    assert (folder / "a").read_text() == "1"
    with replace_folder(folder) as draft:
        assert list(draft.iterdir()) == []
        (draft / "b").write_text("2")
        assert (folder / "a").is_file()
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in folder.parent.iterdir()] == ["vae"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path: Path, failure: type[BaseException]) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "a").write_text("1")
    with pytest.raises(failure), replace_folder(folder) as draft:
        (draft / "a").write_text("2")
        raise failure
    assert (folder / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


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
