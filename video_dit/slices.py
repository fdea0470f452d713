"""How parameters are cut up: a rank's slices of fp32 weights and optimizer state, written and read by any ranks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from video_dit.engine import Engine
from video_dit.local_engine import LocalEngine

Slices = dict[str, tuple[int, Tensor]]
"""Name of a parameter to (offset in the flat parameter, 1-D tensor)."""


def local_fp32_slices(engine: Engine) -> Slices:
    """This rank's part of the fp32 master weights, as views.

    Holds for all ZeRO stages. Frozen parameters have no master weight and are left out.
    """
    return {name: (at, flat.data[part]) for name, _, at, flat, part in _cut(engine)}


def local_state_slices(engine: Engine) -> dict[str, Slices]:
    """The optimizer's state of those slices, by its name (``exp_avg``, …), as views; zeros before the first step.

    Muon in stages 1 and 2 keeps the momentum of every matrix that a rank has a part of whole, and in 16 bits.
    """
    states: dict[str, Slices] = {}
    for name, param, at, flat, part in _cut(engine):
        state = _begun(engine, param, flat)
        if "momentum_buffer" not in state:
            for kind in ("exp_avg", "exp_avg_sq"):
                states.setdefault(kind, {})[name] = (at, state[kind][part])
        elif (group := _whole_matrices(engine, param)) is not None:
            before = sum(other.numel() for other in group[: [id(p) for p in group].index(id(param))])
            whole = state["momentum_buffer"][before : before + param.numel()]
            states.setdefault("momentum_buffer", {})[name] = (0, whole)
        else:
            states.setdefault("momentum_buffer", {})[name] = (at, state["momentum_buffer"][part])
    return states


def set_steps(engine: Engine, steps: int) -> None:
    """Let Adam have taken so many steps."""
    for _, param, _, flat, _ in _cut(engine):
        if "step" in (state := _begun(engine, param, flat)):
            state["step"] = torch.tensor(float(steps))


def weights_from_masters(engine: Engine) -> None:
    """Round the fp32 master weights to the weights that the module computes with; all ranks call it."""
    if isinstance(engine, LocalEngine):
        engine.round_masters()
        return
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        optimizer.update_lp_params()
        return
    optimizer.checkpoint_event_prologue()  # small weights, which every rank holds whole, are cut up
    for number in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(number)
    optimizer.checkpoint_event_epilogue()


def _cut(engine: Engine) -> Iterator[tuple[str, nn.Parameter, int, Tensor, slice]]:
    """Name, parameter, where this rank's slice begins in it, the optimizer's tensor that holds it, and where there."""
    if isinstance(engine, LocalEngine):
        yield from ((name, param, 0, flat, part) for name, param, flat, part in engine.parts())
        return
    optimizer = engine.optimizer
    for name, param in engine.module.named_parameters():
        if not param.requires_grad:
            continue
        if hasattr(param, "ds_id"):  # stage 3 cuts each parameter into equal parts, the last one padded
            group, start, length = optimizer.grad_position[optimizer.get_param_id(param)]
            at = length * engine.global_rank
            if (length := min(length, param.ds_numel - at)) > 0:
                yield name, param, at, optimizer.fp32_partitioned_groups_flat[group], slice(start, start + length)
        elif (mapping := param._hp_mapping) is not None:  # stages 1 and 2 cut the flattened group
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            start, length = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
            yield name, param, mapping.lp_fragment_address.start, flat, slice(start, start + length)


def _begun(engine: Engine, param: nn.Parameter, flat: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of ``flat``, begun as its first step would."""
    state = engine.basic_optimizer.state[flat]
    if state:
        return state
    if getattr(param, "use_muon", False):
        group = _whole_matrices(engine, param)
        count = flat.numel() if group is None else sum(p.numel() for p in group)
        state["momentum_buffer"] = torch.zeros(count, dtype=torch.float32, device=flat.device)
    else:
        state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}
    return state


def _whole_matrices(engine: Engine, param: nn.Parameter) -> list[nn.Parameter] | None:
    """The matrices whose momentum stands whole and end to end beside that of ``param``; None where it is cut up."""
    if isinstance(engine, LocalEngine) or hasattr(param, "ds_id") or engine.optimizer.cpu_offload:
        return None
    return engine.optimizer.params_in_partition[param._hp_mapping.param_group_index]  # type: ignore[attr-defined]


def write_slices(slices: Mapping[str, tuple[int, Tensor]], folder: Path, kind: str, rank: int) -> Path:
    """Write ``folder/KIND-rank-N.safetensors``; offsets stand in the metadata."""
    tensors = {name: part.cpu().contiguous() for name, (_, part) in slices.items()}
    offsets = {name: str(at) for name, (at, _) in slices.items()}
    path = folder / f"{kind}-rank-{rank:04d}.safetensors"
    save_file(tensors, path, metadata=offsets)
    return path


def read_slices(folder: Path, kind: str, wanted: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Put slices together from the files of all ranks.

    Args:
        folder: where `write_slices` wrote. kind: what it wrote.
        wanted: name to (start, stop) in the flat parameter.
    Returns:
        Name to 1-D fp32 tensor of ``stop − start`` elements.
    Raises:
        ValueError: the files do not cover what is wanted.
    """
    result = {name: torch.empty(stop - start) for name, (start, stop) in wanted.items()}
    with ExitStack() as stack:
        stored: dict[str, list] = {name: [] for name in wanted}
        for path in sorted(folder.glob(f"{kind}-rank-*.safetensors")):
            file = stack.enter_context(safe_open(path, framework="pt"))
            for name, at in (file.metadata() or {}).items():
                if name in stored:
                    stored[name].append((int(at), file.get_slice(name)))
        short = []
        for name, (start, stop) in wanted.items():
            reached = start
            for at, part in sorted(stored[name], key=lambda each: each[0]):
                end = min(stop, at + part.get_shape()[0])
                if at <= reached < end:
                    result[name][reached - start : end - start] = part[reached - at : end - at]
                    reached = end
            if reached < stop:
                short.append(name)
    if short:
        raise ValueError(f"{folder}: {kind} of {short[0]} and {len(short) - 1} more are incomplete")
    return result
