"""Slices of weights and optimizer state: written by one rank, read by two, and the other way, across ZeRO stages."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from tiny_engine import OPTIMIZERS, STAGES, ZERO_STAGES, launch, resume_and_step, tiny
from torch import Tensor

from video_dit.engine import TrainConfig, initialize
from video_dit.slices import local_fp32_slices, local_state_slices, read_slices, write_slices

PROGRAM = """
import sys
from pathlib import Path

from tiny_engine import STAGES, ZERO_STAGES, resume_and_step, train_and_step
from video_dit.engine import process_group

here, other = Path(sys.argv[1]), Path(sys.argv[2])
alone, is_second = here.name == "1", other.is_dir()
with process_group():
    for optimizer in ("adamw", "muon"):
        for stage in STAGES if alone else ZERO_STAGES:
            train_and_step(here / f"{optimizer}-{stage}", optimizer, stage)
            for written in STAGES if is_second else ():
                saved = other / f"{optimizer}-{written}"
                resume_and_step(saved, here / f"{optimizer}-{written}-to-{stage}", optimizer, stage)
"""


@pytest.fixture(scope="session")
def wrote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where one rank and then two trained in each stage; the two also went on from what the one had saved."""
    root = tmp_path_factory.mktemp("ranks")
    for ranks, others in (("1", "2"), ("2", "1")):
        launch(PROGRAM, root, int(ranks), ranks, others)
    return root


def whole(folder: Path, optimizer: str) -> dict[tuple[str, str], Tensor]:
    """All that a checkpoint holds, put together."""
    sizes = {name: (0, p.numel()) for name, p in tiny().named_parameters() if p.requires_grad}
    matrices = {name for name in sizes if tiny().get_parameter(name).ndim == 2 and optimizer == "muon"}
    found = {}
    for kind in ("weight", "ema", "exp_avg", "exp_avg_sq", "momentum_buffer"):
        names = sizes if kind in ("weight", "ema") else matrices if kind == "momentum_buffer" else set(sizes) - matrices
        found |= {(kind, name): t for name, t in read_slices(folder, kind, {n: sizes[n] for n in names}).items()}
    return found


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(
            found[key], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key} {m}"
        )
        assert tensor.any()


AT, AFTER = "checkpoints/step-3", "after/checkpoints/step-4"
TOLERANCE = {"adamw": 1e-5, "muon": 0.02}  # Muon's momentum is in 16 bits in some stages, a step of it moves by 0.1


@pytest.mark.slow
@OPTIMIZERS
@pytest.mark.parametrize(("written", "read"), list(product(STAGES, ZERO_STAGES)))
def test_two_ranks_go_on_from_one(wrote: Path, written: int, read: int, optimizer: str) -> None:
    one, two = wrote / f"1/{optimizer}-{written}", wrote / f"2/{optimizer}-{written}-to-{read}"
    assert_close(whole(two / AT, optimizer), whole(one / AT, optimizer), 0)
    assert_close(whole(two / AFTER, optimizer), whole(one / AFTER, optimizer), TOLERANCE[optimizer])


@pytest.mark.slow
@OPTIMIZERS
@pytest.mark.parametrize(("written", "read"), list(product(ZERO_STAGES, STAGES)))
def test_one_rank_goes_on_from_two(
    wrote: Path, one_rank: None, tmp_path: Path, written: int, read: int, optimizer: str
) -> None:
    two = wrote / f"2/{optimizer}-{written}"
    resume_and_step(two, tmp_path, optimizer, read)
    assert_close(whole(tmp_path / AT, optimizer), whole(two / AT, optimizer), 0)
    assert_close(whole(tmp_path / AFTER, optimizer), whole(two / AFTER, optimizer), TOLERANCE[optimizer])


@pytest.mark.parametrize("stage", STAGES)
def test_slices_are_the_fp32_masters(one_rank: None, stage: int) -> None:
    module = tiny()
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    engine = initialize(module, TrainConfig(zero_stage=stage))
    slices = local_fp32_slices(engine)
    assert set(slices) == set(before)
    for name, (at, part) in slices.items():
        assert at == 0
        assert part.dtype == torch.float32
        # the masters are made of the weights as bf16 holds them
        torch.testing.assert_close(part.view(before[name].shape), before[name], atol=0, rtol=2**-7)


@pytest.mark.parametrize("stage", STAGES)
def test_state_begins_at_zero_and_is_the_optimizers_own(one_rank: None, stage: int) -> None:
    engine = initialize(tiny(), TrainConfig(zero_stage=stage))
    states = local_state_slices(engine)
    assert set(states) == {"exp_avg", "exp_avg_sq"}
    engine.backward(engine(torch.ones(2, 5, dtype=engine.module[3].weight.dtype)).float().square().mean())
    assert not any(part.any() for slices in states.values() for _, part in slices.values())
    engine.step()
    for kind, slices in states.items():
        assert set(slices) == set(local_fp32_slices(engine))
        for name, (_, part) in slices.items():
            assert part.any(), (kind, name)
            assert part.data_ptr() == local_state_slices(engine)[kind][name][1].data_ptr()


def test_any_cut_is_read_from_any_other(tmp_path: Path) -> None:
    full = torch.arange(10.0)
    other = torch.arange(4.0) - 7
    write_slices({"a": (0, full[:3])}, tmp_path, "x", 0)
    write_slices({"a": (3, full[3:4]), "b": (0, other)}, tmp_path, "x", 1)
    write_slices({"a": (4, full[4:])}, tmp_path, "x", 2)
    write_slices({"a": (2, full[2:6]), "b": (0, other[:2])}, tmp_path, "x", 3)  # again, as Muon's momentum may be
    write_slices({"a": (0, full + 1)}, tmp_path, "y", 0)
    for start, stop in ((0, 10), (0, 3), (2, 5), (3, 4), (7, 10), (5, 5)):
        assert torch.equal(read_slices(tmp_path, "x", {"a": (start, stop)})["a"], full[start:stop])
    both = read_slices(tmp_path, "x", {"a": (1, 9), "b": (1, 3)})
    assert torch.equal(both["a"], full[1:9])
    assert torch.equal(both["b"], other[1:3])


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write_slices({"a": (0, torch.zeros(3)), "b": (0, torch.zeros(2)), "d": (2, torch.zeros(2))}, tmp_path, "x", 0)
    write_slices({"a": (4, torch.zeros(3))}, tmp_path, "x", 1)
    check: Callable[[dict], dict] = lambda wanted: read_slices(tmp_path, "x", wanted)  # noqa: E731
    for wanted in ({"a": (0, 4)}, {"a": (2, 5), "b": (0, 2)}, {"a": (3, 5)}, {"a": (5, 8)}):
        with pytest.raises(ValueError, match="x of a and 0 more are incomplete") as error:
            check(wanted)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="x of c and 1 more are incomplete"):
        check({"c": (0, 1), "d": (0, 3), "a": (0, 3)})
    with pytest.raises(ValueError, match="incomplete"):
        read_slices(tmp_path / "nothing", "x", {"a": (0, 1)})
