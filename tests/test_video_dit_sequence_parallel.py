"""A pack on two ranks is the pack on one: attention, gradients, training."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_denoiser
import tiny_training
import torch
from conftest import free_port
from tiny_engine import launch

from video_dit.checkpoint import save_checkpoint
from video_dit.ema import EMA
from video_dit.engine import TrainConfig, initialize
from video_dit.sequence_parallel import of_first, packs_at_once, sequence_group, split_pack
from video_dit.slices import read_slices

CONFIG = TrainConfig(lr=1e-3, warmup_steps=3)
STEPS = 6

PROGRAM = """
import json
from dataclasses import replace
from pathlib import Path

import tiny_denoiser
import torch
from deepspeed import comm as dist
from test_video_dit_sequence_parallel import CONFIG, STEPS

from video_dit.attention import segment_attention
from video_dit.checkpoint import save_checkpoint
from video_dit.ema import EMA
from video_dit.engine import initialize, process_group
from video_dit.sequence_parallel import of_first, sequence_group, split_attention, split_pack

with process_group():
    group = sequence_group(2)
    rank = dist.get_rank()
    assert sequence_group(1) is None

    given = of_first(tiny_denoiser.pack(3 + rank) if rank == 0 else None, group)
    of_each = of_first(tiny_denoiser.pack(3 + rank), group)  # the second rank's own is another
    for pack in (given, of_each):
        assert pack.clips == tiny_denoiser.pack(3).clips
        assert torch.equal(pack.hidden_states, tiny_denoiser.pack(3).hidden_states)

    parts = []
    for position in range(6):
        whole = tiny_denoiser.pack(position)
        whole = replace(whole, weight=torch.arange(len(whole.made)))
        part = split_pack(whole, group)
        split = part.segments.split
        share = len(part.made)
        assert share == len(whole.made) // 2 + len(whole.made) % 2
        assert torch.equal(part.weight[part.made], (rank * share + torch.arange(share))[part.made])
        generator = torch.Generator().manual_seed(position)
        q, k, v, grad = torch.randn(4, 2 * share, 4, 6, generator=generator)
        inputs = [x[rank * share : (rank + 1) * share].requires_grad_() for x in (q, k, v)]
        out = split_attention(*inputs, split)
        out.backward(grad[rank * share : (rank + 1) * share])
        wholes = [x.clone().requires_grad_() for x in (q, k, v)]
        expected = segment_attention(*wholes, split.segments, split.segments)
        expected.backward(grad)
        torch.testing.assert_close(out, expected[rank * share : (rank + 1) * share])
        for one, all_of_it in zip(inputs, wholes):
            torch.testing.assert_close(one.grad, all_of_it.grad[rank * share : (rank + 1) * share])
        parts.append([share, part.loss_elements, part.segments.lengths, part.prompts.segments.lengths])

    for stage, checkpointing in ((1, False), (2, False), (3, False), (1, True), (3, True)):
        folder = Path(f"{stage}-{checkpointing}")
        config = replace(CONFIG, zero_stage=stage, sequence_parallel=2)
        module = tiny_denoiser.denoiser()
        if checkpointing:
            module.transformer.enable_gradient_checkpointing()
        engine = initialize(module, config, torch.float32)
        losses = tiny_denoiser.steps(engine, config, 0, STEPS, group)
        save_checkpoint(engine, EMA(engine, 0.9), folder, STEPS)
        if rank == 0:
            (folder / "losses.json").write_text(json.dumps(losses))
    Path(f"parts-{rank}.json").write_text(json.dumps(parts))
"""


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequence")
    launch(PROGRAM, folder, 2)
    return folder


@pytest.mark.slow
def test_slices_are_equal_and_whole_together(two_ranks: Path) -> None:
    first, second = (json.loads((two_ranks / f"parts-{rank}.json").read_text()) for rank in (0, 1))
    filled = 0
    for position, (one, two) in enumerate(zip(first, second, strict=True)):
        whole = tiny_denoiser.pack(position)
        assert one[0] == two[0]
        assert one[1] + two[1] == whole.loss_elements
        assert sum(one[2]) == sum(two[2]) == one[0]
        assert len(one[2]) == len(one[3])
        assert len(two[2]) == len(two[3])
        texts = whole.prompts.segments.lengths
        assert one[3] == texts[: len(one[3])]
        assert two[3] == texts[-len(two[3]) :]
        filled += one[0] + two[0] - len(whole.made)
    assert filled > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "checkpointing"), [(1, False), (2, False), (3, False), (1, True), (3, True)], ids=str
)
def test_a_pack_on_two_ranks_trains_as_on_one(
    two_ranks: Path, one_rank: None, tmp_path: Path, stage: int, checkpointing: bool
) -> None:
    engine = initialize(tiny_denoiser.denoiser(), CONFIG, torch.float32)
    losses = tiny_denoiser.steps(engine, CONFIG, 0, STEPS)
    saved = save_checkpoint(engine, EMA(engine, 0.9), tmp_path, STEPS)
    folder = two_ranks / f"{stage}-{checkpointing}"
    assert json.loads((folder / "losses.json").read_text()) == pytest.approx(losses, rel=1e-4)
    sizes = {name: (0, p.numel()) for name, p in tiny_denoiser.denoiser().named_parameters()}
    ours = read_slices(saved, "weight", sizes)
    theirs = read_slices(folder / f"checkpoints/step-{STEPS}", "weight", sizes)
    for name, part in ours.items():
        moved = (part - tiny_denoiser.denoiser().get_parameter(name).detach().flatten()).abs().mean()
        assert (part - theirs[name]).abs().mean() <= 1e-3 * moved, name
        assert (part - theirs[name]).abs().max() <= 1e-4, name


def test_one_rank_has_the_whole_pack(one_rank: None) -> None:
    pack = tiny_denoiser.pack(0)
    assert sequence_group(1) is None
    assert split_pack(pack, None) is pack
    assert of_first(pack, None) is pack
    assert pack.segments.split is None


def test_ranks_that_cannot_be_shared_out_are_refused() -> None:
    assert packs_at_once(2, 6) == 3
    with pytest.raises(ValueError, match=r"train.sequence_parallel=4 must divide the number of ranks, 6"):
        packs_at_once(4, 6)


def test_a_degree_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.sequence_parallel=0 must be at least 1"):
        replace(CONFIG, sequence_parallel=0)


@pytest.mark.slow
def test_train_py_on_two_ranks_that_share_packs_is_train_py_on_one(tmp_path: Path) -> None:
    """One without a launcher. The log counts each pack once."""
    root = Path(__file__).parents[1]
    settings = [*tiny_training.TINY, f"vae.path={root}/checkpoints/sora-tiny", f"data.cache={tmp_path}/cache"]
    command = [str(root / "train.py"), "--config", "sora_tiny.yaml", *settings, "train.max_steps=3"]
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--master_port", str(free_port())]
    runs = []
    for name, start in (("one", [sys.executable]), ("two", [*launcher, "--num_accelerators", "2"])):
        words = [*start, *command, f"run_dir={tmp_path}/{name}", f"train.sequence_parallel={len(runs) + 1}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        runs.append([record for record in records if "train/loss" in record])
    assert len(runs[0]) == len(runs[1]) == 3
    for one, two in zip(*runs, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=5e-3)  # bf16
        for figure in ("fill", "left_out", "imbalance"):
            assert two[f"train/{figure}"] == pytest.approx(one[f"train/{figure}"], abs=1e-9), figure
        assert one["train/padding"] == 0
        assert two["train/padding"] in (0, 1)  # up to a multiple of two
