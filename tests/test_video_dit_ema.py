"""The average of weights, kept in slices: written by two ranks, read by one, for all stages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_engine import STAGES, ZERO_STAGES
from torch import nn

from video_dit.checkpoint import averaged_weights
from video_dit.ema import EMA
from video_dit.engine import TrainConfig, initialize
from video_dit.layers import fast_dtype
from video_dit.slices import local_fp32_slices

PROGRAM = '''
"""Two ranks train a tiny module; beside their slices they write the average computed the plain way."""

from pathlib import Path

import torch
from deepspeed import comm as dist
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import nn

from video_dit.ema import EMA
from video_dit.engine import TrainConfig, initialize, process_group
from video_dit.layers import fast_dtype

with process_group():
    for stage in (1, 2, 3):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))
        module[0].bias.requires_grad_(False)
        engine = initialize(module, TrainConfig(zero_stage=stage, lr=0.05))
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        plain = {name: safe_get_full_fp32_param(p).clone() for name, p in trained.items()}
        ema = EMA(engine, decay=0.15)
        for step in range(3):
            inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * step + dist.get_rank()))
            loss = engine(inputs.to(fast_dtype(engine.device))).float().square().mean()
            engine.backward(loss)
            engine.step()
            ema.update(engine, step)
            decay = min(0.15, (1 + step) / (10 + step))
            for name, p in trained.items():
                plain[name] = decay * plain[name] + (1 - decay) * safe_get_full_fp32_param(p)
        folder = Path(__file__).parent / f"stage-{stage}"
        folder.mkdir(parents=True, exist_ok=True)
        ema.save(folder, dist.get_rank())
        again = EMA(engine, decay=0.15)
        dist.barrier()
        again.load(folder)
        for name, (at, part) in ema.slices.items():
            assert again.slices[name][0] == at and torch.equal(again.slices[name][1], part), name
        if dist.get_rank() == 0:
            save_file({name: p.cpu().contiguous() for name, p in plain.items()}, folder / "plain.safetensors")
        dist.barrier()
'''


def tiny() -> nn.Module:
    """The module of PROGRAM. Its sizes are odd, so that no parameter falls into two equal halves."""
    module = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))
    module[0].bias.requires_grad_(False)
    return module


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, job_port: int) -> Path:
    """A folder that two ranks wrote, with ``stage-N/`` for each stage of ZeRO."""
    folder = tmp_path_factory.mktemp("two-ranks")
    script = folder / "program.py"
    script.write_text(PROGRAM)
    root = Path(__file__).parents[1]
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [launcher, "--num_accelerators", "2", "--master_port", str(job_port), script]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_what_two_ranks_wrote_is_the_plain_average(two_ranks: Path, stage: int) -> None:
    folder = two_ranks / f"stage-{stage}"
    plain = load_file(folder / "plain.safetensors")
    read = averaged_weights(tiny(), folder)
    assert set(plain) == {"0.weight", "2.weight", "2.bias", "3.weight", "3.bias"} == set(read) - {"0.bias"}  # frozen
    for name, tensor in plain.items():
        assert read[name].dtype == torch.float32
        torch.testing.assert_close(read[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_each_of_two_ranks_keeps_its_part(two_ranks: Path, stage: int) -> None:
    counts = []
    for rank in (0, 1):
        with safe_open(two_ranks / f"stage-{stage}" / f"ema-rank-{rank:04d}.safetensors", framework="pt") as file:
            counts.append(sum(file.get_tensor(name).numel() for name in file.keys()))  # noqa: SIM118
    total = sum(p.numel() for p in tiny().parameters() if p.requires_grad)
    assert sum(counts) == total
    assert max(counts) < 0.7 * total


@pytest.mark.slow
@pytest.mark.parametrize("wrote", ZERO_STAGES)
@pytest.mark.parametrize("reads", STAGES)
def test_one_rank_loads_what_two_wrote(two_ranks: Path, one_rank: None, wrote: int, reads: int) -> None:
    folder = two_ranks / f"stage-{wrote}"
    ema = EMA(initialize(tiny(), TrainConfig(zero_stage=reads)), decay=0.9)
    ema.load(folder)
    plain = load_file(folder / "plain.safetensors")
    assert set(ema.slices) == set(plain)
    for name, (at, part) in ema.slices.items():
        assert at == 0
        torch.testing.assert_close(part.view(plain[name].shape), plain[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_the_average_begins_as_a_copy_and_follows_the_weights(one_rank: None, stage: int) -> None:
    engine = initialize(tiny(), TrainConfig(zero_stage=stage, lr=0.1))
    ema = EMA(engine, decay=0.5)
    first = {name: part.clone() for name, (_, part) in local_fp32_slices(engine).items()}
    engine.backward(engine(torch.ones(2, 5, dtype=fast_dtype(engine.device))).float().square().mean())
    engine.step()
    for name, (_, part) in ema.slices.items():
        assert torch.equal(part, first[name])  # a copy, not a view
    weights = {name: part.clone() for name, (_, part) in local_fp32_slices(engine).items()}
    assert any(not torch.equal(weights[name], first[name]) for name in first)
    ema.update(engine, 0)  # decay (1 + 0) / (10 + 0)
    for name, (_, part) in ema.slices.items():
        torch.testing.assert_close(part, 0.1 * first[name] + 0.9 * weights[name])
    ema.update(engine, 1000)  # the decay asked for
    for name, (_, part) in ema.slices.items():
        torch.testing.assert_close(part, 0.05 * first[name] + 0.95 * weights[name])
