"""Checkpoints of a training run: weights, optimizer and average, saved by some ranks and resumed by any others."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path

import deepspeed
import torch
from deepspeed import comm as dist
from safetensors import SafetensorError
from torch import Tensor, nn

from video_dit.ema import EMA, KIND
from video_dit.engine import Engine, optimizer_name
from video_dit.slices import (
    local_fp32_slices,
    local_state_slices,
    read_slices,
    set_steps,
    weights_from_masters,
    write_slices,
)


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return run_dir / "checkpoints" / f"step-{step}"


def save_checkpoint(engine: Engine, ema: EMA, run_dir: Path, step: int, facts: Mapping[str, str] | None = None) -> Path:
    """Write what is trained after ``step`` optimizer steps; all ranks call it.

    Each rank writes its slices of the fp32 weights, of the optimizer's state and of the average, as safetensors that
    any number of ranks can read in any ZeRO stage. Frozen weights are not in it.

    ``run_dir/checkpoints/latest`` names the newest whole one and is written last, when all else is on the disk, so
    that a save that was cut short is never loaded. The one that it named before is kept, others of fewer steps are
    removed.

    Args:
        facts: settings, by key, that the weights are of no use without.
    """
    folder = checkpoint_folder(run_dir, step)
    root, rank = folder.parent, engine.global_rank
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # of a save that was cut short, perhaps with more ranks
        folder.mkdir(parents=True)
        state = {"step": step, "optimizer": optimizer_name(engine), "shapes": _shapes(engine.module)}
        state["facts"] = dict(facts or {})
        (folder / "state.json").write_text(json.dumps(state))
        _flush(folder / "state.json")
    dist.barrier()
    _flush(write_slices(local_fp32_slices(engine), folder, "weight", rank))
    for kind, slices in local_state_slices(engine).items():
        _flush(write_slices(slices, folder, kind, rank))
    _flush(ema.save(folder, rank))
    dist.barrier()
    if rank == 0:
        _flush(folder)
        before = (root / "latest").read_text().strip() if (root / "latest").is_file() else None
        draft = root / "latest.part"
        draft.write_text(folder.name)
        _flush(draft)
        draft.replace(root / "latest")
        _flush(root)
        for number, path in _saved_steps(root).items():
            if number < step and path.name != before:
                shutil.rmtree(path)
    dist.barrier()
    return folder


def _saved_steps(root: Path) -> dict[int, Path]:
    """Folders of checkpoints by their steps; what users called otherwise is not among them."""
    named = {path.name.removeprefix("step-"): path for path in root.glob("step-*")}
    return {int(number): path for number, path in named.items() if number.isdecimal()}


def resume(engine: Engine, ema: EMA, run_dir: Path, facts: Mapping[str, str] | None = None) -> int:
    """Load the newest whole checkpoint, if there is one. Returns the number of steps done (0 without one).

    Raises:
        ValueError: it is not one of this model and optimizer, was saved with other ``facts``, or a part of it is
            missing or damaged; or not all ranks see the same one.
    """
    latest = run_dir / "checkpoints" / "latest"
    seen = latest.read_text().strip() if latest.is_file() else ""
    every = [""] * dist.get_world_size()
    dist.all_gather_object(every, seen)
    if len(set(every)) > 1:
        raise ValueError(
            f"run_dir={run_dir} has other checkpoints on some ranks ({', '.join(sorted(set(every)))} or none): "
            "use a folder that all nodes share"
        )
    if not seen:
        return 0
    folder = latest.parent / seen
    if not (folder / "state.json").is_file():
        raise ValueError(f"{folder} cannot be loaded: remove {latest} to start anew")
    try:
        return _load(engine, ema, folder, facts or {})
    except (SafetensorError, JSONDecodeError) as error:
        others = [number for number, path in _saved_steps(folder.parent).items() if path != folder]
        fix = f"write step-{max(others)} into" if others else "start anew: remove"
        raise ValueError(f"{folder} is damaged ({error}): {fix} {latest}") from None


def _load(engine: Engine, ema: EMA, folder: Path, facts: Mapping[str, str]) -> int:
    state = json.loads((folder / "state.json").read_text())
    if state["optimizer"] != optimizer_name(engine):
        raise ValueError(
            f"{folder} was written with {state['optimizer']}: use the train.optimizer of the run, or another run_dir"
        )
    for key, value in facts.items():
        if (its := state.get("facts", {}).get(key, value)) != value:
            if key.startswith("fingerprint"):
                raise ValueError(
                    f"the {key} is {value}, that of {folder} {its}: use the same again, or another run_dir"
                )
            raise ValueError(f"{key}={value} is not that of {folder}: use {key}={its}, or another run_dir")
    if (shapes := _shapes(engine.module)) != state["shapes"]:
        names = [n for n in (shapes | state["shapes"]) if shapes.get(n) != state["shapes"].get(n)]
        raise ValueError(
            f"{folder} does not fit this model ({names[0]} is {state['shapes'].get(names[0])} there and "
            f"{shapes.get(names[0])} here): use the settings of the run, or another run_dir"
        )
    with torch.no_grad():
        for kind, slices in {"weight": local_fp32_slices(engine), **local_state_slices(engine)}.items():
            wanted = {name: (at, at + part.numel()) for name, (at, part) in slices.items()}
            for name, part in read_slices(folder, kind, wanted).items():
                slices[name][1].copy_(part)
    ema.load(folder)
    set_steps(engine, state["step"])
    weights_from_masters(engine)
    return int(state["step"])


def _shapes(module: nn.Module) -> dict[str, list[int]]:
    """Of the trained parameters, whole."""
    trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in trained}


def _flush(path: Path) -> None:
    """Wait until the file or the list of files of a folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def averaged_weights(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The averaged weights of all ranks in ``folder`` as a state dict on the host, in the parameters' own shapes, fp32;
    frozen ones are the module's, in their own type. All ranks call it. Buffers are not in it.
    """
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    with deepspeed.zero.GatheredParameters(list(frozen.values())):  # stage 3 cuts these up as well
        given = {name: p.detach().to("cpu", copy=True) for name, p in frozen.items()}
    shapes = {n: getattr(p, "ds_shape", p.shape) for n, p in module.named_parameters() if p.requires_grad}
    flat = read_slices(folder, KIND, {name: (0, shape.numel()) for name, shape in shapes.items()})
    return given | {name: part.view(shapes[name]) for name, part in flat.items()}


def is_newer(folder: Path, than: Path) -> bool:
    """Whether ``folder`` is there and was written no earlier than ``than``."""
    return folder.is_dir() and folder.stat().st_mtime >= than.stat().st_mtime


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into, which takes the place of ``folder`` when the block ends well."""
    draft, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("part", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
