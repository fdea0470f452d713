"""Saving, resuming, and folders that are replaced whole."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_engine import OPTIMIZERS, STAGES, averages, launch, run, same, start, tiny, weights
from torch import nn

from video_dit.checkpoint import averaged_weights, replace_folder, resume, save_checkpoint
from video_dit.ema import EMA
from video_dit.engine import TrainConfig, initialize


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
    assert all(tensor.device.type == "cpu" for tensor in state.values())
    assert state["0.bias"].dtype == engine.module[0].bias.dtype
    assert all(tensor.dtype == torch.float32 for name, tensor in state.items() if name != "0.bias")
    torch.testing.assert_close(state.pop("0.bias").float(), given, rtol=0.01, atol=0)  # frozen: as it was, in bf16
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
    save_checkpoint(engine, ema, tmp_path, 3)  # and is not kept in the place of a whole one
    assert sorted(path.name for path in whole.parent.iterdir()) == ["latest", "step-1", "step-3"]


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


def test_what_a_user_copied_stays(one_rank: None, tmp_path: Path) -> None:
    engine, ema = start(TrainConfig())
    shutil.copytree(save_checkpoint(engine, ema, tmp_path, 1), tmp_path / "checkpoints/step-1-good")
    for step in (2, 3):
        save_checkpoint(engine, ema, tmp_path, step)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-1-good", "step-2", "step-3"]


@pytest.mark.parametrize("file", ["state.json", "weight-rank-0000.safetensors", "ema-rank-0000.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before(one_rank: None, tmp_path: Path, file: str) -> None:
    engine, ema = start(TrainConfig())
    save_checkpoint(engine, ema, tmp_path, 1)
    path = save_checkpoint(engine, ema, tmp_path, 2) / file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"step-2 is damaged .*: write step-1 into .*latest") as error:
        resume(engine, ema, tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "checkpoints/latest").write_text("step-1\n")
    assert resume(engine, ema, tmp_path) == 1


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


SEEN_BY_ONE = """
from pathlib import Path

from deepspeed import comm as dist
from tiny_engine import start

from video_dit.checkpoint import resume, save_checkpoint
from video_dit.engine import TrainConfig, process_group

with process_group():
    engine, ema = start(TrainConfig())
    save_checkpoint(engine, ema, Path("0"), 1)
    dist.barrier()
    try:
        resume(engine, ema, Path(str(dist.get_rank())))
    except ValueError as error:
        Path(f"refused-{dist.get_rank()}").write_text(str(error))
"""


@pytest.mark.slow
def test_ranks_that_do_not_see_the_same_checkpoint_all_say_so(tmp_path: Path) -> None:
    launch(SEEN_BY_ONE, tmp_path, 2)
    for rank in range(2):
        assert f"run_dir={rank} has other checkpoints on some ranks" in (tmp_path / f"refused-{rank}").read_text()


@pytest.mark.parametrize("kind", ["weight", "exp_avg", "exp_avg_sq", "ema"])
def test_a_checkpoint_without_a_part_is_refused(one_rank: None, tmp_path: Path, kind: str) -> None:
    engine, ema = start(TrainConfig())
    folder = save_checkpoint(engine, ema, tmp_path, 1)
    (folder / f"{kind}-rank-0000.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"step-1: {kind} of 0.weight and 4 more are incomplete") as error:
        resume(engine, ema, tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_model_is_refused(one_rank: None, tmp_path: Path) -> None:
    """One that is larger would have all that the model asks for."""
    engine, ema = start(TrainConfig())
    save_checkpoint(engine, ema, tmp_path, 1)
    small = initialize(nn.Sequential(nn.Linear(5, 6)), TrainConfig())
    with pytest.raises(ValueError, match=r"0.weight is \[7, 5\] there and \[6, 5\] here.*: use the settings"):
        resume(small, EMA(small, 0.9), tmp_path)


def test_a_checkpoint_that_is_gone_is_named(one_rank: None, tmp_path: Path) -> None:
    engine, ema = start(TrainConfig())
    shutil.rmtree(save_checkpoint(engine, ema, tmp_path, 1))
    with pytest.raises(ValueError, match=r"step-1 cannot be loaded: remove .*latest to start anew"):
        resume(engine, ema, tmp_path)


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


def test_what_the_weights_are_of_no_use_without_must_be_the_same(one_rank: None, tmp_path: Path) -> None:
    """Told or not: whoever tells nothing, then or now, is not asked."""
    engine, ema = start(TrainConfig())
    run(engine, ema, TrainConfig(), 0, 1)
    save_checkpoint(engine, ema, tmp_path, 1, {"noise.path": "vp", "noise.schedule": "linear"})
    fitting: list[dict[str, str]] = [{"noise.schedule": "linear"}, {"noise.other": "x"}, {}]
    assert [resume(engine, ema, tmp_path, facts) for facts in fitting] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"noise\.path=straight is not that of .*step-1: use noise\.path=vp, or"):
        resume(engine, ema, tmp_path, {"noise.path": "straight"})
