"""What every training program shares: its settings, its ranks and its engine."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeAlias

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from deepspeed import comm as dist
from deepspeed.accelerator import get_accelerator
from torch import nn

from video_dit.layers import fast_dtype
from video_dit.local_engine import LocalEngine
from video_dit.lora import LoRAConfig

THREADS_LET_GO = 0.2  # seconds
Engine: TypeAlias = DeepSpeedEngine | LocalEngine
LAUNCHED = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")  # set by launchers, for DeepSpeed to read


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimizer and of the loop.

    Raises:
        ValueError: a value is out of its range.
    """

    max_steps: int = 1000
    save_every: int = 500
    """Steps between checkpoints; each comes with a validation, a model folder and sample videos."""
    optimizer: str = "adamw"
    """``adamw``, or ``muon``: Muon (Jordan et al., 2024) for all matrices but embeddings, AdamW for the rest."""
    lr: float = 1e-3
    muon_lr: float = 0.01
    warmup_steps: int = 100
    decay_steps: int = 0
    """The last steps, over which the rate falls linearly to 0."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    """Longer gradients are cut to it; 0 leaves them. Not for Muon, whose updates have a norm of their own."""
    accumulation: int = 1
    """Packs a rank takes for one optimizer step. Their gradients are summed in bf16, with an error of 0.4 % of the sum
    for 4 packs and of 1 % for 64."""
    zero_stage: int = 1
    """0 is one rank without ZeRO, whose steps are far fewer operations."""
    offload_optimizer: bool = False
    """Keep masters and moments in the host's memory, and step there."""
    sequence_parallel: int = 1
    """Ranks that share a pack, each with a slice of its tokens, for clips too long for one."""
    checkpointing: bool = False
    """Keep only the input of each block of the transformer for the way back and run the block again there: a third more
    computation for a fraction of the activations."""
    ema_decay: float = 0.999
    compile: bool = True
    """Compile the blocks of the transformer, on a GPU, but for ZeRO 3; some 10 s at the start."""
    init_from: str = ""
    """A model folder to start from; empty starts from random weights."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """An adapter that is trained in place of the weights of ``init_from``."""
    peak_tflops: float = 0.0
    """Dense bf16 TFLOP/s of a device, which MFU is measured against; 0 takes what is known of H100, H200 and A100, and
    shows TFLOP/s on others."""
    wandb: bool = False
    """Log to Weights & Biases as well (extra ``wandb``)."""

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"train.zero_stage={self.zero_stage} must be 0, 1, 2 or 3")
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("train.offload_optimizer=true is a part of ZeRO: use train.zero_stage=1")
        for name in ("max_steps", "save_every", "accumulation", "sequence_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)} must be at least 1")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"train.optimizer={self.optimizer} must be adamw or muon")
        for name in ("lr", "muon_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name}={getattr(self, name)} must be above 0")
        if not self.max_grad_norm >= 0:
            raise ValueError(f"train.max_grad_norm={self.max_grad_norm} must be at least 0; 0 is no limit")
        if not 0 <= self.peak_tflops < float("inf"):
            raise ValueError(f"train.peak_tflops={self.peak_tflops} must be 0 or more")
        if self.lora.rank and not self.init_from:
            raise ValueError(f"train.lora.rank={self.lora.rank} needs a model to adapt: set train.init_from=FOLDER")
        if self.wandb and find_spec("wandb") is None:
            raise ValueError("train.wandb=true needs the package wandb: pip install wandb, or leave it off")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay={self.ema_decay} must be in [0, 1)")


@contextmanager
def process_group() -> Iterator[None]:
    """The ranks of this job, for as long as the block runs.

    DeepSpeed's extension for reductions through shared memory is left out. Only tensor-parallel inference uses it, but
    every job on CPUs would compile or load it; if a process is killed while it compiles, its lock file stays, and later
    jobs wait for ever. Each rank would also leave 66 MiB in ``/dev/shm``.

    Without a launcher, which would say otherwise by the environment, this process is the only rank; ValueError where it
    is one of several tasks of Slurm.

    A group of gloo that is left open may abort the process when it ends, as its threads let go of tensors when Python
    is no more: 8 of 24 processes that ended right after a barrier did. Nothing tells when they have let go, and an
    engine that still refers to its group keeps them from being joined, so one that is closed lets them run for a
    moment: of 78 launches on two busy cores two aborted without it, none of 100 with it.
    """
    # set as a whole: to read it would have DeepSpeed probe all its extensions, by the compiler
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    alone = not any(name in os.environ for name in LAUNCHED)
    if alone:
        if (tasks := int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))) > 1:
            raise ValueError(
                f"SLURM_STEP_NUM_TASKS={tasks} without RANK would be as many runs of one rank: start one task a node, "
                "with torchrun in it, or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in each"
            )
        backend = get_accelerator().communication_backend_name()
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed looks for it there alone
    deepspeed.init_distributed()
    done, backend = False, torch.distributed.get_backend()
    try:
        yield
        done = True
    finally:
        if done or backend != "nccl":  # which would wait for the others where one rank fails
            dist.destroy_process_group()
        if backend == "gloo":
            time.sleep(THREADS_LET_GO)
        if alone:
            del os.environ["LOCAL_RANK"]


def global_sums(values: Sequence[float], device: torch.device) -> list[float]:
    """Sums over all ranks."""
    totals = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return totals.tolist()


def global_sum(value: float, device: torch.device) -> float:
    """Sum over all ranks."""
    return global_sums([value], device)[0]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, constant, linear decay over the last ``decay_steps``; ``step`` counts from 0."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.max_steps - step) / max(1, config.decay_steps)
    return config.lr * min(warm, left if config.decay_steps else 1.0)


def adamw_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; vectors are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.99))


def muon_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """DeepSpeed's Muon over the matrices that are trained and no embeddings, with AdamW over the rest.

    It marks the parameters with ``use_muon``, where DeepSpeed's ZeRO stages look for it.
    """
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.use_muon = p.ndim == 2 and id(p) not in embeddings  # type: ignore[attr-defined]
    decay = config.weight_decay
    muon = {"params": [p for p in trained if p.use_muon], "lr": config.muon_lr, "momentum": 0.95, "weight_decay": decay}  # type: ignore[attr-defined]
    others = {"params": [p for p in trained if not p.use_muon], "lr": config.lr, "betas": (0.9, 0.99), "eps": 1e-8}  # type: ignore[attr-defined]
    groups = [muon | {"use_muon": True, "ns_method": "standard"}, others | {"use_muon": False, "weight_decay": 0.0}]
    return MuonWithAuxAdam([g for g in groups if g["params"]], adam_optimizer=torch.optim.AdamW)


def initialize(module: nn.Module, config: TrainConfig, dtype: torch.dtype | None = None) -> Engine:
    """An engine over the module's trainable parameters, of DeepSpeed or, in stage 0, of one rank alone: bf16 with fp32
    master weights; on a CPU without bf16 instructions, or where ``dtype`` says so, fp32 throughout.

    Raises:
        ValueError: several ranks are in stage 0.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    muon = config.optimizer == "muon"
    optimizer = muon_optimizer(module, config) if muon else adamw_optimizer(module, config)
    dtype, max_grad_norm = dtype or fast_dtype(device), 0.0 if muon else config.max_grad_norm
    check_stage(config, dist.get_world_size())
    if not config.zero_stage:
        return LocalEngine(module, optimizer, device, dtype, config.accumulation, max_grad_norm)
    if dtype == torch.float32:
        module.float()  # what is frozen may have been loaded in 16 bits, which DeepSpeed leaves as it is
    if muon and device.type == "cpu":
        # DeepSpeed compiles Muon's iteration, for each shape anew: a minute at the start, and no gain on a CPU
        torch.compiler.set_stance("force_eager")
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_scatter": not muon,  # Muon needs whole gradients
            "reduce_bucket_size": reduce_bucket_size(module),
            **({"offload_optimizer": {"device": "cpu"}} if config.offload_optimizer else {}),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    return engine


def check_stage(config: TrainConfig, ranks: int) -> None:
    """Raises ValueError where several ranks are in stage 0."""
    if not config.zero_stage and ranks > 1:
        raise ValueError(f"train.zero_stage=0 is for one rank, and there are {ranks}: use train.zero_stage=1")


def reduce_bucket_size(module: nn.Module) -> int:
    """Gradients reduced at a time, at most DeepSpeed's default; a GPU holds a buffer of so many, used or not."""
    return min(500_000_000, sum(p.numel() for p in module.parameters() if p.requires_grad))


def optimizer_name(engine: Engine) -> str:
    """The class of the engine's optimizer."""
    return type(engine.basic_optimizer).__name__


def set_learning_rate(engine: Engine, config: TrainConfig, step: int) -> None:
    """Set the rate of every parameter group for ``step``; that of Muon is in proportion."""
    rate = learning_rate(config, step)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * config.muon_lr / config.lr if group.get("use_muon") else rate
