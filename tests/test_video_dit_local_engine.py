"""Training on one rank without ZeRO: what DeepSpeed's engine computes, by fewer operations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from deepspeed import comm as dist
from tiny_engine import OPTIMIZERS, averages, same, start, tiny, weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from video_dit.ema import EMA
from video_dit.engine import Engine, TrainConfig, initialize, set_learning_rate
from video_dit.local_engine import LocalEngine
from video_dit.slices import local_state_slices

ALONE = TrainConfig(zero_stage=0, lr=0.03, muon_lr=0.1, warmup_steps=1, max_grad_norm=0.5)


def backward(engine: Engine, seed: int, scale: float = 1.0) -> None:
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    dtype = next(engine.module.parameters()).dtype
    engine.backward((engine(inputs.to(dtype)).float() - 1).square().mean() * scale)


@OPTIMIZERS
def test_its_steps_are_those_of_zero(one_rank: None, optimizer: str) -> None:
    """In fp32; only gradients of the first step are cut."""
    alone = replace(ALONE, optimizer=optimizer)
    engines = [initialize(tiny(), replace(alone, zero_stage=stage), torch.float32) for stage in (0, 1)]
    assert isinstance(engines[0], LocalEngine)
    assert not isinstance(engines[1], LocalEngine)
    begun = weights(engines[0])
    assert same(begun, weights(engines[1]))
    for step in range(4):
        for engine in engines:
            set_learning_rate(engine, alone, step)
            backward(engine, step, 100.0 if step == 0 else 0.1)
            engine.step()
            assert engine.was_step_applied()
    for read in (weights, states):
        one, other = (read(engine) for engine in engines)
        assert one.keys() == other.keys()
        for name, part in other.items():
            torch.testing.assert_close(one[name], part, rtol=1e-5, atol=1e-5 * float(part.abs().max()))
    assert not any(torch.equal(weights(engines[0])[name], part) for name, part in begun.items())


def test_a_gradient_that_the_engine_does_not_hold_is_seen(one_rank: None) -> None:
    """A step would leave it out, and say nothing."""
    engine = initialize(tiny(), ALONE)
    engine.module.zero_grad()
    backward(engine, 0)
    with pytest.raises(AssertionError):
        engine.step()


@OPTIMIZERS
def test_a_gradient_that_is_not_finite_changes_nothing(one_rank: None, optimizer: str) -> None:
    config = replace(ALONE, optimizer=optimizer)
    engine, _ = start(config)
    backward(engine, 0)
    engine.step()
    before = weights(engine), states(engine)
    backward(engine, 1, float("inf"))
    engine.step()
    assert not engine.was_step_applied()
    assert same(weights(engine), before[0])
    assert same(states(engine), before[1])
    backward(engine, 2)
    engine.step()  # of which nothing is left
    assert engine.was_step_applied()
    assert all(part.isfinite().all() for part in weights(engine).values())


def states(engine: Engine) -> dict[str, Tensor]:
    return {f"{k} {name}": t.clone() for k, of in local_state_slices(engine).items() for name, (_, t) in of.items()}


def test_the_module_computes_with_the_rounded_masters(one_rank: None) -> None:
    engine, ema = start(ALONE)
    backward(engine, 0)
    engine.step()
    ema.update(engine, 0)
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    assert set(trained) == set(weights(engine)) == set(averages(ema))
    for name, part in weights(engine).items():
        assert torch.equal(trained[name].flatten(), part.to(trained[name].dtype))
        assert trained[name].grad is not None
        assert not trained[name].grad.any()  # type: ignore[union-attr]


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], None]) -> int:
    with Operations() as mode:
        work()
    return mode.count


@OPTIMIZERS
def test_a_step_of_many_layers_is_as_many_operations_as_one_of_few(one_rank: None, optimizer: str) -> None:
    """Views, which a GPU does not hear of, are not counted."""
    counts = []
    for layers in (2, 20):
        module = nn.Sequential(nn.Linear(5, 6), *(nn.Linear(6, 6) for _ in range(layers)))
        engine = initialize(module, replace(ALONE, optimizer=optimizer))
        ema = EMA(engine, 0.5)
        for step in range(2):  # the state is made in the first
            backward(engine, step)
            count = operations(engine.step) + operations(lambda ema=ema, engine=engine: ema.update(engine, 1))
        counts.append(count)
    assert counts[0] == counts[1]
    assert counts[0] < 200


def test_it_is_for_one_rank(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(
        ValueError, match=r"train.zero_stage=0 is for one rank, and there are 2: use train.zero_stage=1"
    ):
        initialize(tiny(), ALONE)
