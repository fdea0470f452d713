"""What our autoencoder must reach beside those of diffusers, and whether it did."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from video_dit.evaluation.candidates import Kind, Rival
from video_dit.evaluation.results import Row, Trained
from video_dit.evaluation.speed import Stream

REQUIRED: tuple[Rival, ...] = ("wan", "cogvideox")
FASTER: dict[Kind, float] = {"published": 40.0, "shrunk": 3.0}
"""How many times as fast as the required rivals ours is to decode."""
MEMORY_GROWTH = 1.10
ASKED = "17 frames of 256x256 on 2 threads of the CPU"


@dataclass(frozen=True)
class Requirement:
    """One thing that ours must reach. value: None where it was not measured. met: None there too, and where what was
    measured is not what is asked about, as of another size."""

    text: str
    value: float | None
    met: bool | None

    def line(self) -> str:
        """For people to read."""
        unsettled = "not measured" if self.value is None else "not asked"
        verdict = {True: "met", False: "NOT MET", None: unsettled}[self.met]
        return f"{verdict:13} {self.text}" + ("" if self.value is None else f": {self.value:.2f}")


def requirements(
    rows: Sequence[Row], streams: Mapping[str, Mapping[float, Stream | str]], trained: Sequence[Trained]
) -> list[Requirement]:
    """What each of ours must reach: in speed, in quality after equal training time, and in memory.

    Args:
        rows: of all autoencoders. streams: long clips of ours by config and seconds, or why they failed. trained: ours
            and the shrunk.
    """
    found = []
    for own in (row for row in rows if row.entry.candidate.kind == "ours"):
        found += [_speed(own, rows, rival, kind) for kind in FASTER for rival in REQUIRED]
        of_config = {t.entry.candidate.family: t for t in trained if t.entry.config == own.entry.config}
        for rival in REQUIRED:
            found += _quality(own, of_config.get("ours"), of_config.get(rival), rival)
        found.append(_memory(own, streams.get(own.entry.config, {})))
    return found


def _speed(own: Row, rows: Sequence[Row], rival: Rival, kind: Kind) -> Requirement:
    text = f"{own.entry.candidate.name}: decodes {FASTER[kind]:g} times as fast as {rival}, {kind}; times"
    for row in rows:
        candidate = row.entry.candidate
        fits = kind == "published" or row.entry.config == own.entry.config
        if (candidate.family, candidate.kind) == (rival, kind) and fits and row.decode and own.decode:
            ratio = row.decode.median / own.decode.median
            return Requirement(text, ratio, ratio >= FASTER[kind])
    return Requirement(text, None, None)


def _quality(own: Row, ours: Trained | None, theirs: Trained | None, rival: Rival) -> list[Requirement]:
    name = own.entry.candidate.name
    text = f"{name}: PSNR after equal training not below that of {rival}, shrunk"
    if ours is None or theirs is None:
        return [Requirement(text, None, None)]
    leads = {group: mean(ours.scores(group)) - mean(theirs.scores(group)) for group in ours.final[0].test}
    found = {f"{text}, {group} clips; dB above": lead for group, lead in leads.items()}
    return [Requirement(t, None, None) if math.isnan(v) else Requirement(t, v, v >= 0) for t, v in found.items()]


def _memory(own: Row, streams: Mapping[float, Stream | str]) -> Requirement:
    name = own.entry.candidate.name
    if len(streams) < 2:
        return Requirement(f"{name}: peak memory of a long clip at most {MEMORY_GROWTH} of a short one's", None, None)
    text = f"{name}: peak memory of {max(streams):g} s at most {MEMORY_GROWTH} of that of {min(streams):g} s"
    short, long = streams[min(streams)], streams[max(streams)]
    if isinstance(short, str) or isinstance(long, str):
        return Requirement(text, None, False)
    growth = long.memory.peak / short.memory.peak
    if short.memory.own:  # a tiny one may need nothing new
        text += f" (of what decoding takes itself {long.memory.own / short.memory.own:.2f})"
    return Requirement(text, growth, growth <= MEMORY_GROWTH)
