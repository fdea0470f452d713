"""What ends a training run that nobody stopped, in one line for the person who has to mend it."""

from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from data.packing import lost_worker

if TYPE_CHECKING:  # imports DeepSpeed, which a tool that fails may not need
    from video_dit.engine import TrainConfig

HOST_MEMORY = ("can't allocate memory", "not enough memory", "could not create a primitive")
"""What PyTorch says where a CPU has no memory left; the last is oneDNN, which gives no reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in HOST_MEMORY)


def failure_line(error: BaseException) -> str:
    """What to tell of a failure of the machine, such as a full disk or a worker that was ended; "" for any other."""
    if isinstance(error, OSError | SafetensorError):  # safetensors has its own, also for the disk's
        return " ".join(str(error).split())
    return lost_worker(error) if isinstance(error, RuntimeError) else ""


def memory_advice(error: BaseException, token_budget: int, config: "TrainConfig") -> str:
    """Which keys to turn where memory ran out: those that are not turned yet, the cheapest first."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    keys = [] if config.checkpointing else ["train.checkpointing=true"]
    if config.zero_stage < 3:
        keys.append(f"train.zero_stage={max(2, config.zero_stage + 1)} (on several ranks)")
    if not config.offload_optimizer:
        keys.append(f"train.offload_optimizer=true{'' if config.zero_stage else ' with train.zero_stage=1'}")
    keys.append(f"data.token_budget below {token_budget}")
    return f"out of memory ({reason}): try {', '.join(keys)}; --dry-run tells what a rank needs"


def not_finite_line(step: int, rank: int, clips: list[int]) -> str:
    """What is known of a loss that is no number any more; ``clips`` by their index."""
    return (
        f"the loss is not finite at step {step} on rank {rank}, in a pack of clips {', '.join(map(str, clips))}: "
        "look at these clips, or lower train.lr; the weights were left as they were"
    )


def gradient_line(step: int) -> str:
    """What is known of a gradient that is no number any more where each loss was one; its step is left off."""
    return (
        f"the gradient is not finite at step {step}, though the loss is: lower train.lr; "
        "the weights were left as they were"
    )
