"""How long a forward pass and a training step of each transformer take, in turn, so that noise meets all alike."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from video_dit.evaluation.dit_candidates import DiTCandidate, Family, Levels, Work, blocks_of
from video_dit.evaluation.speed import clock

Phase = Literal["forward", "training"]
Precision = Literal["highest", "high", "medium"]
WARM_UPS = 2
SHORTEST = 0.02
"""Seconds that a run lasts at least; calls that are shorter are made several times."""


@dataclass(frozen=True)
class DiTSpeedOptions:
    """How all are computed.

    autocast: a training step in bf16 keeps fp32 weights; else weights are in bf16, as under DeepSpeed, whose fp32
    copies only the optimizer sees. Forward alone always has weights of the dtype. repeats: runs after the warm-up.
    """

    device: str
    threads: int
    repeats: int
    precision: Precision
    autocast: bool


@dataclass(frozen=True)
class Arm:
    """One thing that is timed."""

    family: Family
    phase: Phase
    levels: Levels
    dtype: torch.dtype
    compiled: bool


@dataclass(frozen=True)
class Timed:
    """Seconds of each run of an arm; ``failed`` says why where there are none."""

    arm: Arm
    seconds: list[float]
    failed: str | None = None

    @property
    def median(self) -> float:
        """Seconds of the run in the middle; nan where it failed."""
        return median(self.seconds) if self.seconds else math.nan


@contextmanager
def computing(options: DiTSpeedOptions) -> Iterator[None]:
    """Threads and precision of matrix products for as long as the block runs. More graphs than torch
    compiles are an error there: else calls would go on uncompiled."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.precision)
    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def measure_all(
    candidates: Sequence[DiTCandidate], work: Work, dtype: torch.dtype, compiled: bool, options: DiTSpeedOptions
) -> list[Timed]:
    """Every candidate, phase and kind of levels with one dtype: all are warmed up, then each runs once a round."""
    calls: dict[Arm, Callable[[], None]] = {}
    counts: dict[Arm, int] = {}
    found: dict[Arm, Timed] = {}
    torch.compiler.reset()
    with computing(options):
        for candidate in candidates:
            for phase in ("forward", "training"):
                built = _built(candidate, phase, dtype, compiled, options)
                for levels in candidate.levels:
                    arm = Arm(candidate.family, phase, levels, dtype, compiled)
                    try:
                        calls[arm] = prepare(candidate, built, arm, work, options)
                        counts[arm] = _warm_up(calls[arm], options.device)
                    except (RuntimeError, MemoryError) as error:
                        calls.pop(arm, None)
                        found[arm] = Timed(arm, [], " ".join(str(error).split())[:200] or type(error).__name__)
        seconds: dict[Arm, list[float]] = {arm: [] for arm in calls}
        for number in range(options.repeats):
            arms = list(calls)
            for arm in arms if number % 2 == 0 else reversed(arms):
                start = clock(options.device)
                for _ in range(counts[arm]):
                    calls[arm]()
                seconds[arm].append((clock(options.device) - start) / counts[arm])
    return [*(Timed(arm, runs) for arm, runs in seconds.items()), *found.values()]


def _built(
    candidate: DiTCandidate, phase: Phase, dtype: torch.dtype, compiled: bool, options: DiTSpeedOptions
) -> nn.Module:
    weights = torch.float32 if phase == "training" and options.autocast else dtype
    module = candidate.build(weights, options.device)
    if compiled:
        for block in blocks_of(module):
            block.compile()
    return module


def prepare(
    candidate: DiTCandidate, module: nn.Module, arm: Arm, work: Work, options: DiTSpeedOptions
) -> Callable[[], None]:
    """What is timed: a forward pass, or one with the mean-square error and the way back; no optimizer."""
    weights = next(module.parameters()).dtype
    inputs = candidate.inputs(work, arm.levels, options.device, weights)
    cast = arm.phase == "training" and options.autocast and arm.dtype != torch.float32

    def context() -> AbstractContextManager[Any]:
        return torch.autocast(options.device, arm.dtype) if cast else nullcontext()

    @torch.no_grad()
    def forward() -> None:
        with context():
            first(module(**inputs))

    if arm.phase == "forward":
        return forward
    target = torch.randn_like(inputs["hidden_states"], dtype=torch.float32)  # all predict what they are given

    def step() -> None:
        module.zero_grad(set_to_none=True)
        with context():
            prediction = first(module(**inputs))
        nn.functional.mse_loss(prediction.float(), target).backward()

    return step


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The prediction: diffusers' models return a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def _warm_up(call: Callable[[], None], device: str) -> int:
    """How many calls make a run."""
    for _ in range(WARM_UPS):
        call()
    clock(device)
    start = time.perf_counter()
    call()
    return max(1, math.ceil(SHORTEST / (clock(device) - start)))
