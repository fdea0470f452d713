"""What a person sees of a run: progress bar, TensorBoard, ``metrics.jsonl`` and the loss curve as a PNG."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class Progress:
    """Shows and records a run on rank 0; does nothing on other ranks.

    Args:
        run_dir: where ``metrics.jsonl``, ``tensorboard/`` and ``loss.png`` go.
        start, total: steps done before, and in all.
        show: whether this is the rank that shows.
        wandb: also log to Weights & Biases, as the run ``run_dir.name`` of the project ``video-dit``.
    """

    def __init__(self, run_dir: Path, start: int, total: int, show: bool, wandb: bool = False) -> None:
        self.run_dir, self.show = run_dir, show
        self._bar = tqdm(initial=start, total=total, disable=not show, desc=run_dir.name, unit="step")
        if show:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._metrics = run_dir / "metrics.jsonl"
            kept = [line for line in self._records() if line["step"] <= start]
            draft = self._metrics.with_suffix(".part")
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
            draft.replace(self._metrics)  # so that a run that is killed here has its figures
            self._recorded = {(line["step"], name) for line in kept for name in line}
            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)
        self._wandb: Any = None
        if wandb and show:
            import wandb as weights_and_biases  # an extra, and it takes a second

            self._wandb = weights_and_biases.init(
                project="video-dit", name=run_dir.name, id=run_id(run_dir), resume="allow", dir=str(run_dir)
            )

    def step(self, done: int, scalars: Mapping[str, float], aside: Mapping[str, float] | None = None) -> None:
        """Record the figures of the step that makes ``done`` steps, and move the bar, which has no place for those that
        are given ``aside``."""
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in scalars.items()}, refresh=False)
        self._bar.update()
        self.record(done, {f"train/{name}": value for name, value in {**scalars, **(aside or {})}.items()})

    def record(self, done: int, scalars: Mapping[str, float]) -> None:
        """Record figures under their full names, such as ``validation/loss``; those that the run had recorded for that
        step before it was resumed are not recorded again."""
        if not self.show:
            return
        scalars = {name: value for name, value in scalars.items() if (done, name) not in self._recorded}
        if not scalars:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, done)
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": done, **scalars}) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=done)

    def flush(self) -> None:
        """Have TensorBoard's figures on the disk, as those beside it are, before more steps count as done."""
        if self.show:
            self._writer.flush()

    def pictures(self, done: int, sheets: Sequence[Path]) -> None:
        """Show contact sheets ``step-N-NAME.png``, each under ``samples/NAME``. (Videos of TensorBoard would need one
        more package; they lie beside the sheets.)"""
        if not self.show:
            return
        for sheet in sheets:
            name = f"samples/{sheet.stem.split('-', 2)[2]}"
            with Image.open(sheet) as picture:
                array = np.asarray(picture.convert("RGB"))
            self._writer.add_image(name, array, done, dataformats="HWC")
            if self._wandb is not None:
                import wandb

                self._wandb.log({name: wandb.Image(array)}, step=done)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.show:
            self._bar.write(line)

    def plot(self, train: str, validation: str) -> None:
        """Draw two of the figures over the steps into ``loss.png``."""
        if self.show:
            plot_metrics(self._records(), train, validation, self.run_dir / "loss.png")

    def close(self) -> None:
        """End the bar and the TensorBoard file."""
        self._bar.close()
        if self.show:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _records(self) -> list[dict]:
        if not self._metrics.is_file():
            return []
        records: list[dict] = []
        for line in self._metrics.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a run that was killed while it wrote
                break
        return records


def run_id(run_dir: Path) -> str:
    """What a resumed run is known by: its folder."""
    return hashlib.blake2b(str(run_dir.absolute()).encode(), digest_size=8).hexdigest()


def plot_metrics(records: list[dict], train: str, validation: str, path: Path) -> None:
    """A picture of the training figure (each step and its running mean) and the validation figure, log scale."""
    from matplotlib.figure import Figure  # slow to import, and only rank 0 draws

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [r["step"] for r in records if train in r]
    values = [r[train] for r in records if train in r]
    smooth: list[float] = []
    for value in values:
        smooth.append(value if not smooth else smooth[-1] + 0.05 * (value - smooth[-1]))
    axes.plot(steps, values, color="0.85", linewidth=0.8)
    axes.plot(steps, smooth, label=train)
    points = [(r["step"], r[validation]) for r in records if validation in r]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=validation)
    axes.set(xlabel="step", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=110)
