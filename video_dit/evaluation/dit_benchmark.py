"""Our transformer against those of diffusers, and what training steps of ours reach: tables, requirements, JSON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from data.manifest import ClipRecord
from video_dit.evaluation.dit_candidates import (
    DiTCandidate,
    Levels,
    Peer,
    Size,
    Work,
    count_flops,
    count_parameters,
    our_candidate,
    peer_candidate,
)
from video_dit.evaluation.dit_epoch import EpochOptions, draw_shapes, measure_epoch
from video_dit.evaluation.dit_mixed import Mixed, MixedOptions, measure_mixed
from video_dit.evaluation.dit_speed import DiTSpeedOptions, Phase, Timed, measure_all
from video_dit.evaluation.fill import FillOptions, draw_clips
from video_dit.evaluation.requirements import Requirement
from video_dit.evaluation.speed import in_own_process
from video_dit.layers import find_device

FASTER, FASTER_PER_FRAME = 1.5, 3.0
"""How many times as fast as the fastest peer ours must be, and with a level per frame as Wan."""
REACHED = {"sora_small": 0.45, "sora_base": 0.55}
"""Shares of the peak that training steps of a config must reach on a GPU."""
ASKED_PARAMETERS, ASKED_TOKENS, ASKED_THREADS = 30e6, 640, 2
ASKED = f"{ASKED_PARAMETERS / 1e6:g} M parameters and {ASKED_TOKENS} tokens on {ASKED_THREADS} threads of the CPU"
COLUMNS = ("M params", "forward ms", "per frame", "TFLOP/s", "MFU %", "step ms", "per frame", "TFLOP/s", "MFU %")
HEADING = "".join(f"{name:>11}" for name in COLUMNS) + "  transformer"


@dataclass(frozen=True)
class DiTBenchmark:
    """What is compared. compiled: False for eager, True for torch.compile; both in turn. peak: FLOP/s of the GPU."""

    against: Sequence[Peer]
    size: Size
    work: Work
    dtypes: Sequence[torch.dtype]
    compiled: Sequence[bool]
    speed: DiTSpeedOptions
    peak: float


def benchmark_dit(options: DiTBenchmark, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all in this process, in turn.

    Args:
        options: what to compare.
        say: takes each line for people to read as soon as it is there.
    Returns:
        All figures, as JSON can hold them, with units in their names.
    Raises:
        ValueError: a peer cannot have as many parameters, or the device is not there.
    """
    find_device(options.speed.device)
    size, work, speed = options.size, options.work, options.speed
    own = our_candidate(size, work)
    candidates = [own, *(peer_candidate(peer, size, work, count_parameters(own)) for peer in options.against)]
    grid = " x ".join(map(str, work.grid))
    place = f"{speed.threads} threads of the CPU" if speed.device == "cpu" else torch.cuda.get_device_name()
    measured = f"{count_parameters(own) / 1e6:.1f} M parameters and {work.tokens} tokens on {place}"
    say(f"{measured}: {work.batch} of {grid}; texts of {work.text_length} tokens of {work.text_width} channels")
    say(f"{size.layers} layers of width {size.width}, {size.heads} heads; random weights; torch {torch.__version__}")
    training = "fp32 weights under autocast" if speed.autocast else "bf16 weights"
    say(f"matmul precision {speed.precision} for all; training in bf16 with {training}, no optimizer; medians")
    timed: list[Timed] = []
    for dtype in options.dtypes:
        for compiled in options.compiled:
            found = measure_all(candidates, work, dtype, compiled, speed)
            timed += found
            say(f"\n{_name(dtype)}, {'compiled' if compiled else 'eager'}")
            say(HEADING)
            for candidate in candidates:
                say(_line(candidate, [one for one in found if one.arm.family == candidate.family], options))
    wanted = speed_requirements(timed)
    if not is_asked(options, count_parameters(own)):
        wanted = [replace(requirement, met=None) for requirement in wanted]
    say(f"\nrequired at {ASKED}; measured at {measured}")
    for requirement in wanted:
        say(requirement.line())
    return {
        "settings": {
            "work": asdict(work),
            "size": asdict(size),
            "speed": asdict(speed),
            "place": place,
            "torch": torch.__version__,
        },
        "transformers": [_candidate_as_json(candidate, work) for candidate in candidates],
        "times": [_timed_as_json(one) for one in timed],
        "requirements": [asdict(requirement) for requirement in wanted],
    }


def is_asked(options: DiTBenchmark, parameters: int) -> bool:
    """Whether speed is required at this size, within a tenth of the parameters, and on this device."""
    near = abs(parameters / ASKED_PARAMETERS - 1) < 0.1
    place = options.speed.device, options.speed.threads, options.work.tokens
    return near and place == ("cpu", ASKED_THREADS, ASKED_TOKENS)


def _line(candidate: DiTCandidate, timed: Sequence[Timed], options: DiTBenchmark) -> str:
    """A line under `HEADING`."""
    medians = {(one.arm.phase, one.arm.levels): one.median for one in timed}
    cells = [f"{count_parameters(candidate) / 1e6:.2f}"]
    flops = count_flops(candidate, options.work, "one")
    phases: list[tuple[Phase, int]] = [("forward", 1), ("training", 3)]
    for phase, passes in phases:
        seconds = medians.get((phase, "one"), math.nan)
        rate = passes * flops / seconds
        per_frame = medians.get((phase, "per frame"))
        cells += [f"{1e3 * seconds:.2f}", "-" if per_frame is None else f"{1e3 * per_frame:.2f}", f"{rate / 1e12:.3g}"]
        cells.append(f"{100 * rate / options.peak:.1f}" if options.speed.device == "cuda" else "-")
    failures = sorted({one.failed for one in timed if one.failed})
    failed = f" failed: {'; '.join(failures)}" if failures else ""
    return "".join(f"{cell:>11}" for cell in cells) + f"  {candidate.family}{failed}"


def speed_requirements(timed: Sequence[Timed]) -> list[Requirement]:
    """Ours beside the fastest peer, and beside Wan with a level per frame, in each way that was measured."""
    found = []
    ways = dict.fromkeys((one.arm.dtype, one.arm.compiled) for one in timed)
    for dtype, compiled in ways:
        phases: tuple[Phase, ...] = ("forward", "training")
        for phase in phases:
            of_way = [
                one for one in timed if (one.arm.dtype, one.arm.compiled, one.arm.phase) == (dtype, compiled, phase)
            ]
            way = f"{phase}, {_name(dtype)}, {'compiled' if compiled else 'eager'}"
            found.append(_faster(of_way, "one", FASTER, f"{way}: {FASTER:g} times as fast as the fastest peer"))
            wan = [one for one in of_way if one.arm.family in ("ours", "wan")]
            text = f"{way}: {FASTER_PER_FRAME:g} times as fast as wan, a level per frame"
            found.append(_faster(wan, "per frame", FASTER_PER_FRAME, text))
    return found


def _faster(timed: Sequence[Timed], levels: Levels, times: float, text: str) -> Requirement:
    medians = {one.arm.family: one.median for one in timed if one.arm.levels == levels and one.seconds}
    peers = [seconds for family, seconds in medians.items() if family != "ours"]
    if "ours" not in medians or not peers:
        return Requirement(f"{text}; times", None, None)
    ratio = min(peers) / medians["ours"]
    return Requirement(f"{text}; times", ratio, ratio >= times)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _candidate_as_json(candidate: DiTCandidate, work: Work) -> dict[str, Any]:
    return {
        "family": candidate.family,
        "class": candidate.cls.__name__,
        "settings": candidate.settings,
        "parameters": count_parameters(candidate),
        "forward_flops": {levels: count_flops(candidate, work, levels) for levels in candidate.levels},
    }


def _timed_as_json(timed: Timed) -> dict[str, Any]:
    arm = asdict(timed.arm) | {"dtype": _name(timed.arm.dtype)}
    middle = timed.median if timed.seconds else None
    return {**arm, "seconds": middle, "seconds_of_each_run": timed.seconds, "failed": timed.failed}


def benchmark_mixed(
    configs: Sequence[str], options: MixedOptions, peak: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Training steps of configs on packs of mixed shapes, each in a process of its own; as `benchmark_dit`."""
    find_device(options.device)
    found = []
    say("A step: text encoder, transformer, the way back, optimizer, average of weights, as in train.py on one rank.")
    say("Packs are of random latents and the clips' captions, built before. FLOPs are forward and backward.")
    for config in configs:
        found.append(in_own_process(measure_mixed, config, options))
        for line in mixed_lines(found[-1], peak, options.device):
            say(line)
    wanted = [mixed_requirement(one, peak, options.device) for one in found]
    say("")
    for requirement in wanted:
        say(requirement.line())
    return {
        "configs": [_mixed_as_json(one, peak, options.device) for one in found],
        "requirements": [asdict(requirement) for requirement in wanted],
    }


def mixed_lines(mixed: Mixed, peak: float, device: str) -> list[str]:
    """What was measured, for people to read."""
    s = mixed.settings
    budget = s["token_budget"] * s["accumulation"]
    fill = sum(mixed.tokens) / (len(mixed.tokens) * budget)
    zero = f"ZeRO {s['zero_stage']}" if s["zero_stage"] else "no ZeRO"
    compiled = ", compiled" if s["compile"] and device == "cuda" else ""
    compiled += ", activations checkpointed" if s["checkpointing"] else ""
    own, both = mixed.flops_per_second, mixed.all_flops_per_second
    shares = [f" ({rate / peak:.1%} of {peak / 1e12:g})" if device == "cuda" else "" for rate in (own, both)]
    memory = f", {mixed.peak_bytes / 2**30:.1f} GiB at most" if device == "cuda" else ""
    return [
        f"\n{mixed.config}: {mixed.parameters / 1e6:.1f} M parameters and {mixed.text_parameters / 1e6:.1f} M of the "
        f"text encoder, {s['weights']}, {s['optimizer']}, {zero}{compiled}, "
        f"{s['device']}, torch {s['torch']}",
        f"  packs of {s['token_budget']} tokens x {s['accumulation']}, {fill:.1%} filled; a sample has "
        + ", ".join(f"{number:.0f}" for number in mixed.shapes)
        + " tokens (least, mean, most), a prompt "
        + ", ".join(f"{number:.0f}" for number in mixed.texts),
        f"  {len(mixed.seconds)} steps of {1e3 * sum(mixed.seconds) / len(mixed.seconds):.1f} ms on average "
        f"({1e3 * min(mixed.seconds):.1f} to {1e3 * max(mixed.seconds):.1f}){memory}",
        f"  {mixed.tokens_per_second:,.0f} tokens/s, {own / 1e12:.3g} TFLOP/s of the transformer{shares[0]}, "
        f"{both / 1e12:.3g} with the text encoder{shares[1]}",
    ]


def mixed_requirement(mixed: Mixed, peak: float, device: str) -> Requirement:
    """Whether the config reaches its share of the peak; measured on a GPU alone."""
    share = mixed.flops_per_second / peak
    least = next((value for name, value in REACHED.items() if name in mixed.config), None)
    if least is None:
        return Requirement(f"{mixed.config}: MFU, nothing asked; %", 100 * share if device == "cuda" else None, None)
    text = f"{mixed.config}: at least {100 * least:g} % of {peak / 1e12:g} TFLOP/s; %"
    return Requirement(text, 100 * share, share >= least) if device == "cuda" else Requirement(text, None, None)


def _mixed_as_json(mixed: Mixed, peak: float, device: str) -> dict[str, Any]:
    rates = {
        "tokens_per_second": mixed.tokens_per_second,
        "flops_per_second": mixed.flops_per_second,
        "flops_per_second_with_text_encoder": mixed.all_flops_per_second,
        "share_of_peak": mixed.flops_per_second / peak if device == "cuda" else None,
    }
    return asdict(mixed) | rates


def benchmark_epoch(
    records: Sequence[ClipRecord] | None,
    clips: int,
    runs: Sequence[EpochOptions],
    speed: DiTSpeedOptions,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Packs, padding and buckets, with the shapes of a manifest's clips or of a made-up mix; as `benchmark_dit`."""
    find_device(speed.device)
    found, wanted = [], []
    for options in runs:
        fill = FillOptions(clips, options.token_budget, 1, options.seed)
        shapes = draw_shapes(clips, options.seed) if records is None else draw_clips(records, fill)
        ways, needed = measure_epoch(shapes, options, speed, say)
        for requirement in needed:
            say(requirement.line())
        found.append(
            {
                "dtype": _name(options.dtype),
                "compiled": options.compiled,
                "token_budget": options.token_budget,
                "size": asdict(options.size),
                "ways": [asdict(way) | {"useful_tokens_per_second": way.tokens_per_second} for way in ways],
            }
        )
        wanted += needed
    return {
        "settings": {"clips": clips, "manifest": records is not None, "speed": asdict(speed)},
        "epochs": found,
        "requirements": [asdict(requirement) for requirement in wanted],
    }
