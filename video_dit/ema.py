"""Exponential moving average of weights, kept in fp32 as each rank's slices of ZeRO's master weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.utils import safe_get_local_fp32_param
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def local_fp32_slices(engine: DeepSpeedEngine) -> dict[str, tuple[int, Tensor]]:
    """This rank's part of the fp32 master weights: name to (offset in the flat parameter, 1-D view).

    Holds for ZeRO 1, 2 and 3. Frozen parameters have no master weight and are left out.
    """
    slices: dict[str, tuple[int, Tensor]] = {}
    for name, param in engine.module.named_parameters():
        if not param.requires_grad:
            continue
        if hasattr(param, "ds_id"):  # stage 3 cuts each parameter into equal parts, the last one padded
            part = safe_get_local_fp32_param(param)
            offset = part.numel() * engine.global_rank
            part = part.flatten()[: max(0, param.ds_numel - offset)]
            if part.numel():
                slices[name] = (offset, part)
        elif (mapping := param._hp_mapping) is not None:  # stages 1 and 2 cut the flattened group
            slices[name] = (mapping.lp_fragment_address.start, mapping.hp_fragment)
    return slices


class EMA:
    """``average ← decay · average + (1 − decay) · weight``, once a step; begins as a copy of the weights.

    Early on the decay is lower, ``(1 + step) / (10 + step)``, so that the average forgets the random start.
    """

    def __init__(self, engine: DeepSpeedEngine, decay: float) -> None:
        self.decay = decay
        self.slices = {name: (at, part.clone()) for name, (at, part) in local_fp32_slices(engine).items()}

    @torch.no_grad()
    def update(self, engine: DeepSpeedEngine, step: int) -> None:
        """Move the average towards the weights after optimizer step ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, (_, part) in local_fp32_slices(engine).items():
            self.slices[name][1].lerp_(part, 1 - decay)

    def save(self, folder: Path, rank: int) -> None:
        """Write this rank's slices to ``folder/ema-rank-N.safetensors``; offsets stand in the metadata."""
        tensors = {name: part.cpu().contiguous() for name, (_, part) in self.slices.items()}
        offsets = {name: str(at) for name, (at, _) in self.slices.items()}
        save_file(tensors, folder / f"ema-rank-{rank:04d}.safetensors", metadata=offsets)

    def load(self, folder: Path) -> None:
        """Read this rank's slices from files that any number of ranks wrote.

        Raises:
            ValueError: the files do not cover a parameter.
        """
        wanted = {name: (at, at + part.numel()) for name, (at, part) in self.slices.items()}
        for name, part in read_ema(folder, wanted).items():
            self.slices[name][1].copy_(part)


def read_ema(folder: Path, wanted: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Put slices together from the files of all ranks.

    Args:
        folder: where `EMA.save` wrote.
        wanted: name to (start, stop) in the flat parameter.
    Returns:
        Name to 1-D fp32 tensor of ``stop − start`` elements.
    Raises:
        ValueError: the files do not cover what is wanted.
    """
    result = {name: torch.empty(stop - start) for name, (start, stop) in wanted.items()}
    covered = dict.fromkeys(wanted, 0)
    for path in sorted(folder.glob("ema-rank-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            offsets = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name not in wanted:
                    continue
                start, stop = wanted[name]
                at = int(offsets[name])
                part = file.get_tensor(name)
                low, high = max(start, at), min(stop, at + part.numel())
                if low < high:
                    result[name][low - start : high - start] = part[low - at : high - at]
                    covered[name] += high - low
    short = [name for name, count in covered.items() if count != result[name].numel()]
    if short:
        raise ValueError(f"{folder}: the averaged weights of {short[0]} and {len(short) - 1} more are incomplete")
    return result
