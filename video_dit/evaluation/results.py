"""What a benchmark of autoencoders found: as lines of a table, and as JSON with units in the names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from video_dit.evaluation.candidates import Candidate, Profile
from video_dit.evaluation.equal_training import Trial, mean_and_error
from video_dit.evaluation.speed import Stream, Timing

MIB = 2**20
HEADINGS = ("M params", "codec", "kFLOP/px dec", "enc", "dec s", "runs", "enc s", "runs", "MiB (own) dec", "enc")
HEADING = "{:>8}  {:13}{:>13}{:>9}{:>10} {:8}{:>10} {:8}{:>14}{:>14}  autoencoder".format(*HEADINGS)
TRAINED_HEADING = f"\n{'M params':>8}{'rate':>8}{'steps':>8}{'s':>7}  PSNR of unseen clips, dB"


@dataclass(frozen=True)
class Entry:
    """A candidate, what it costs, and the config of ours to which it was shrunk (its own for ours, "" for none)."""

    candidate: Candidate
    profile: Profile
    config: str


@dataclass(frozen=True)
class Row:
    """What was measured of an entry; ``failed`` says why where nothing was."""

    entry: Entry
    decode: Timing | None
    encode: Timing | None
    failed: str | None

    def line(self) -> str:
        """A line under `HEADING`."""
        p = self.entry.profile
        flops = f"{p.decode_flops / 1e3:13.1f}{p.encode_flops / 1e3:9.1f}"
        start = f"{p.parameters / 1e6:8.2f}  {p.codec:13}{flops}"
        if self.decode is None or self.encode is None:
            return f"{start}  {self.entry.candidate.name} failed: {self.failed}"
        times = "".join(f"{timing.median:10.3f} {timing.runs:8}" for timing in (self.decode, self.encode))
        memories = (f"{m.peak / MIB:.0f} ({m.own / MIB:.0f})" for m in (self.decode.memory, self.encode.memory))
        return start + times + "".join(f"{memory:>14}" for memory in memories) + f"  {self.entry.candidate.name}"


@dataclass(frozen=True)
class Trained:
    """Trials of an entry: searched, one of each learning rate; final, one of each seed with the best rate."""

    entry: Entry
    searched: list[Trial]
    final: list[Trial]

    def scores(self, group: str) -> list[float]:
        """Mean PSNR in dB of a group of unseen clips, of each seed."""
        return [trial.test[group] for trial in self.final]

    def line(self) -> str:
        """A line under `TRAINED_HEADING`."""
        count = len(self.final)
        steps, seconds = sum(t.steps for t in self.final) / count, sum(t.seconds for t in self.final) / count
        start = f"{self.entry.profile.parameters / 1e6:8.2f}{self.final[0].rate:8g}"
        cells = "".join(f"  {group} {mean_as_text(self.scores(group))}" for group in self.final[0].test)
        return f"{start}{steps:8.0f}{seconds:7.0f}{cells}  {self.entry.candidate.name}"


def mean_as_text(values: Sequence[float]) -> str:
    """Mean ± standard error."""
    mean, error = mean_and_error(values)
    return f"{mean:.2f}" + ("" if error is None else f" ± {error:.2f}")


def row_as_json(row: Row) -> dict[str, Any]:
    """Figures of an autoencoder with their units."""
    candidate, p = row.entry.candidate, row.entry.profile
    found: dict[str, Any] = {
        "name": candidate.name,
        "kind": candidate.kind,
        "config": row.entry.config,
        "class": candidate.cls.__name__,
        "settings": {name: v for name, v in candidate.settings.items() if not name.startswith("latents_")},
        "parameters": p.parameters,
        "frames_per_latent_frame": p.time_factor,
        "pixels_per_latent_pixel_along_each_axis": p.space_factor,
        "latent_channels": p.latent_shape[1],
        "decode_kflop_per_pixel": p.decode_flops / 1e3,
        "encode_kflop_per_pixel": p.encode_flops / 1e3,
        "failed": row.failed,
    }
    for name, timing in (("decode", row.decode), ("encode", row.encode)):
        if timing:
            found[f"{name}_seconds"] = timing.median
            found[f"{name}_seconds_of_each_run"] = timing.seconds
            found[f"{name}_after_a_warm_up"] = timing.warmed
            found[f"{name}_bytes_before"] = timing.memory.before
            found[f"{name}_peak_bytes"] = timing.memory.peak
    return found


def stream_as_json(seconds: float, stream: Stream | str) -> dict[str, float | str]:
    """Figures of a long clip with their units, or why it failed."""
    if isinstance(stream, str):
        return {"clip_seconds": seconds, "failed": stream}
    return {
        "clip_seconds": seconds,
        "frames": stream.frames,
        "decode_seconds": stream.seconds,
        "bytes_before": stream.memory.before,
        "peak_bytes": stream.memory.peak,
    }


def trained_as_json(trained: Trained) -> dict[str, Any]:
    """Figures of all trainings of an autoencoder with their units."""
    entry = trained.entry
    scores = {group: mean_and_error(trained.scores(group)) for group in trained.final[0].test}
    return {
        "name": entry.candidate.name,
        "config": entry.config,
        "parameters": entry.profile.parameters,
        "learning_rate": trained.final[0].rate,
        "psnr_db": {group: {"mean": finite(mean), "standard_error": error} for group, (mean, error) in scores.items()},
        "trials_of_each_rate": [_trial_as_json(trial) for trial in trained.searched],
        "trials_of_each_seed": [_trial_as_json(trial) for trial in trained.final],
    }


def _trial_as_json(trial: Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.rate,
        "seed": trial.seed,
        "steps": trial.steps,
        "training_seconds": trial.seconds,
        "held_psnr_db": finite(trial.held),
        "psnr_db": {group: finite(score) for group, score in trial.test.items()},
    }


def finite(value: float) -> float | None:
    """None, which JSON can hold, for what is no number."""
    return value if math.isfinite(value) else None
