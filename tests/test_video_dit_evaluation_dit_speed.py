"""Who is timed, how often and in which way; times themselves mean nothing here."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from video_dit.evaluation import dit_speed
from video_dit.evaluation.dit_candidates import DiTCandidate, Size, Work, our_candidate, peer_candidate
from video_dit.evaluation.dit_speed import Arm, DiTSpeedOptions, computing, measure_all, prepare

SIZE, WORK = Size(1, 64, 2), Work(1, (2, 2, 2), 4, 64)
OPTIONS = DiTSpeedOptions("cpu", 1, 3, "highest", autocast=False)


@pytest.fixture
def candidates() -> list[DiTCandidate]:
    ours = our_candidate(SIZE, WORK)
    return [ours, peer_candidate("cogvideox", SIZE, WORK, 130_000)]


def test_every_arm_has_as_many_runs_in_turn(candidates: list[DiTCandidate], monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Arm] = []

    def noted(candidate: DiTCandidate, module: nn.Module, arm: Arm, *rest: object) -> Callable[[], None]:
        call = prepare(candidate, module, arm, *rest)  # type: ignore[arg-type]

        def run() -> None:
            order.append(arm)
            call()

        return run

    monkeypatch.setattr(dit_speed, "prepare", noted)
    monkeypatch.setattr(dit_speed, "SHORTEST", 0.0)
    found = measure_all(candidates, WORK, torch.float32, False, OPTIONS)
    arms = [one.arm for one in found]
    assert [(arm.family, arm.phase, arm.levels) for arm in arms] == [
        ("ours", "forward", "one"),
        ("ours", "forward", "per frame"),
        ("ours", "training", "one"),
        ("ours", "training", "per frame"),
        ("cogvideox", "forward", "one"),
        ("cogvideox", "training", "one"),
    ]
    assert order[-18:] == [*arms, *reversed(arms), *arms]
    assert all(len(one.seconds) == 3 and one.median > 0 for one in found)


def test_short_calls_are_made_several_times_a_run(candidates: list[DiTCandidate]) -> None:
    calls = []
    assert dit_speed._warm_up(lambda: calls.append(1), "cpu") > 1000
    assert len(calls) == dit_speed.WARM_UPS + 1


def test_a_step_gives_gradients_and_a_forward_pass_none(candidates: list[DiTCandidate]) -> None:
    candidate = candidates[0]
    module = candidate.build()
    prepare(candidate, module, Arm("ours", "forward", "one", torch.float32, False), WORK, OPTIONS)()
    assert all(p.grad is None for p in module.parameters())
    prepare(candidate, module, Arm("ours", "training", "one", torch.float32, False), WORK, OPTIONS)()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("autocast", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_weights_of_a_step_in_16_bits(
    candidates: list[DiTCandidate], autocast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.dtype] = {}

    def noted(candidate: DiTCandidate, module: nn.Module, arm: Arm, *rest: object) -> Callable[[], None]:
        seen[arm.phase] = next(module.parameters()).dtype
        return prepare(candidate, module, arm, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(dit_speed, "prepare", noted)
    found = measure_all(candidates[1:], WORK, torch.bfloat16, False, replace(OPTIONS, autocast=autocast))
    assert seen == {"forward": torch.bfloat16, "training": dtype}
    assert not any(one.failed for one in found)


def test_one_that_fails_does_not_end_the_others(
    candidates: list[DiTCandidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(candidate: DiTCandidate, module: nn.Module, arm: Arm, *rest: object) -> Callable[[], None]:
        if arm.family == "ours" and arm.phase == "training":
            raise RuntimeError("not enough\nmemory")
        return prepare(candidate, module, arm, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(dit_speed, "prepare", failing)
    found = measure_all(candidates, WORK, torch.float32, False, OPTIONS)
    failed = [one for one in found if one.failed]
    assert [(one.arm.phase, one.failed) for one in failed] == [("training", "not enough memory")] * 2
    assert all(math.isnan(one.median) for one in failed)
    assert len(found) == 6


def test_precision_and_threads_are_as_they_were_after() -> None:
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    with computing(replace(OPTIONS, precision="medium")):
        assert torch.get_float32_matmul_precision() == "medium"
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own code, as it traces ours
def test_compiled_blocks(candidates: list[DiTCandidate]) -> None:
    found = measure_all(candidates[:1], WORK, torch.float32, True, replace(OPTIONS, repeats=1))
    assert [one.failed for one in found] == [None] * 4
    assert all(one.arm.compiled for one in found)
