"""One line for a run that has failed."""

import pytest
import torch
from safetensors import SafetensorError

from video_dit.engine import TrainConfig
from video_dit.failures import failure_line, gradient_line, is_out_of_memory, memory_advice, not_finite_line


def test_a_real_failure_to_allocate_is_known() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(failure.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("could not create a primitive"))


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("not enough memory"), OSError()])
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_failure_of_the_machine_is_one_line_and_a_bug_is_none() -> None:
    assert failure_line(OSError(28, "No space left\non device")) == "[Errno 28] No space left on device"
    assert failure_line(SafetensorError("I/O error: No space left on device")) == "I/O error: No space left on device"
    assert "data.workers" in failure_line(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
    assert not failure_line(RuntimeError("shapes differ")) and not failure_line(AssertionError())


def test_the_advice_names_what_is_not_turned_yet() -> None:
    line = memory_advice(MemoryError(), 4608, TrainConfig(zero_stage=1))
    for words in (
        "data.token_budget below 4608",
        "train.checkpointing=true",
        "train.zero_stage=2",
        "offload_optimizer",
    ):
        assert words in line
    line = memory_advice(MemoryError(), 4608, TrainConfig(zero_stage=3, offload_optimizer=True, checkpointing=True))
    assert "checkpointing" not in line
    assert "zero_stage" not in line
    assert "offload" not in line
    line = memory_advice(MemoryError(), 4608, TrainConfig(zero_stage=0))
    assert "train.zero_stage=2 (on several ranks), train.offload_optimizer=true with train.zero_stage=1" in line
    line = memory_advice(RuntimeError("no\nmemory" + 200 * "!"), 4608, TrainConfig())
    assert line.startswith("out of memory (no memory!!!")
    assert len(line) < 400
    assert "\n" not in line


def test_a_loss_that_is_no_number_is_told_with_step_rank_and_clips() -> None:
    line = not_finite_line(7, 3, [5, 12])
    for words in ("step 7", "rank 3", "clips 5, 12"):
        assert words in line


def test_a_gradient_that_is_no_number_is_told_with_the_step() -> None:
    assert "gradient is not finite at step 7" in gradient_line(7)
