"""Continuations measured: means with their errors, as tables, as JSON, and against what is required."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean, stdev
from typing import Any

from video_dit.evaluation.cuts import Cut
from video_dit.evaluation.measures import DRIFT_SECONDS, Figures
from video_dit.evaluation.requirements import Requirement

NAMES = {
    "psnr": "PSNR, dB",
    "seam": "seam",
    "seam_to_codec": "seam to codec's",
    "motion": "motion",
    "colour_shift": "colour shift",
    "colour_drift": "drift, %/10 s",
    "position": "position",
    "position_2s": "position at 2 s",
    "identity": "identity",
    "colours": "colours, count",
    "repetition": "repetition",
}
RATIOS = ("seam", "seam_to_codec", "motion")
"""Figures whose mean is the geometric one: of a factor 10 and a tenth it is 1."""
DIGITS = {"psnr": 2, "colour_shift": 4, "colour_drift": 2, "identity": 2, "colours": 2}
MOST_SEAM, MOST_DRIFT, LEAST_KEPT, MOST_AWAY = 1.2, 2.0, 0.95, 0.1
LEAST_MOTION, MOST_MOTION = 0.7, 1.4

CODEC = "through codec"
"""The continuation that is the truth through the codec: the most to be hoped for."""

Summary = dict[str, dict[str, float | None]]
"""By continuation and by figure."""


@dataclass(frozen=True)
class Plan:
    """One of all that are measured. cut: of each clip. windows: how many training windows the whole clip is long.
    level: of the context. context: latent frames of it. key: a name of its own."""

    cut: Cut
    windows: int
    level: float
    context: int
    key: str


@dataclass(frozen=True)
class Measured:
    """Of one clip: its name, its prompt, and its figures by continuation."""

    name: str
    prompt: str
    figures: Mapping[str, Figures]


def summary(clips: Sequence[Mapping[str, Figures]]) -> tuple[Summary, Summary]:
    """The mean of each figure of each continuation over the clips of which it can be told, the geometric one of
    `RATIOS`, and its standard error; None for the mean of none, and the error of fewer than two."""
    means: Summary = {}
    errors: Summary = {}
    for name in dict.fromkeys(name for one in clips for name in one):
        means[name], errors[name] = {}, {}
        for field in fields(Figures):
            told = [getattr(one[name], field.name) for one in clips if name in one]
            values = [value for value in told if value is not None]
            found = mean_and_error(values, field.name in RATIOS) if values else (None, None)
            means[name][field.name], errors[name][field.name] = found
    return means, errors


def mean_and_error(values: Sequence[float], is_ratio: bool) -> tuple[float, float | None]:
    """The mean of one value or more, and its standard error; of ratios the geometric mean, whose error is that of the
    logarithm times the mean."""
    one = [math.log(value) for value in values] if is_ratio else values
    error = stdev(one) / math.sqrt(len(one)) if len(one) > 1 else None
    if not is_ratio:
        return mean(one), error
    middle = math.exp(mean(one))
    return middle, None if error is None else middle * error


def table(plan: Plan, means: Summary, errors: Summary, count: int, changed: int) -> str:
    """One line a continuation: the mean and standard error of each figure that could be told."""
    cut = plan.cut
    shown = [name for name in NAMES if any(column[name] is not None for column in means.values())]
    lines = [
        f"\n{plan.key}: {cut.num_given} frames known, {cut.num_made} new, context of {plan.context} latent frames at "
        f"level {plan.level:g}; mean of {count} clips ± its standard error",
        " " * 18 + "".join(f"{NAMES[figure]:>18}" for figure in shown),
    ]
    for name in means:
        cells = [cell(means[name][figure], errors[name][figure], DIGITS.get(figure, 3)) for figure in shown]
        lines.append(f"{name:18}" + "".join(f"{text:>18}" for text in cells))
    lines.append(f"clips whose known frames changed: {changed}")
    return "\n".join(lines)


def cell(value: float | None, error: float | None, digits: int) -> str:
    """Mean ± standard error, as far as they are known."""
    return "" if value is None else f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def sweep_table(plans: Sequence[Plan], means: Mapping[str, Summary], errors: Mapping[str, Summary], name: str) -> str:
    """One line a plan: figures of one continuation, so that levels and lengths of the context can be compared."""
    shown = [figure for figure in NAMES if any(means[plan.key][name][figure] is not None for plan in plans)]
    wide = max(len(plan.key) for plan in plans) + 2
    lines = [f"\n{name}, by context", " " * wide + "".join(f"{NAMES[figure]:>18}" for figure in shown)]
    for plan in plans:
        mine, off = means[plan.key][name], errors[plan.key][name]
        cells = [cell(mine[figure], off[figure], DIGITS.get(figure, 3)) for figure in shown]
        lines.append(f"{plan.key:{wide}}" + "".join(f"{text:>18}" for text in cells))
    return "\n".join(lines)


def shortfall(figure: str, value: float) -> float:
    """How far a figure is from the best there can be: 0 or more. No seam is better than that of the truth, and no
    repetition less than its own; too much motion is as bad as too little by the same factor."""
    return {
        "psnr": lambda: 100 - value,
        "seam": lambda: max(0.0, value - 1),
        "seam_to_codec": lambda: max(0.0, value - 1),
        "motion": lambda: abs(math.log(value)),
        "identity": lambda: 1 - value,
        "colours": lambda: 1 - value,
        "repetition": lambda: max(0.0, value),
    }.get(figure, lambda: value)()


def worse_than(means: Summary, other: str) -> list[str]:
    """Names of the figures in which ours falls short by more than another does."""
    pairs = {figure: (means["ours"][figure], means[other][figure]) for figure in NAMES}
    return [
        NAMES[figure].split(",")[0]
        for figure, (mine, theirs) in pairs.items()
        if mine is not None and theirs is not None and shortfall(figure, mine) > shortfall(figure, theirs)
    ]


def extend_requirements(plan: Plan, means: Summary, frame_rate: float) -> list[Requirement]:
    """What ours must reach. Drift is asked about where 10 s are made: less makes much of errors that do not drift."""
    mine, long = means["ours"], plan.cut.num_made / frame_rate >= DRIFT_SECONDS
    seam, motion, drift = (mine[name] for name in ("seam_to_codec", "motion", "colour_drift"))
    identity, colours, away = (mine[name] for name in ("identity", "colours", "position_2s"))
    most = means.get(CODEC, {}).get("colours")
    by_codec = "" if most is None else f" (of the truth, through the codec, by the judge {most:.0%})"
    assert seam is not None and motion is not None and drift is not None
    found = [
        Requirement(f"{plan.key}: seam at most {MOST_SEAM} of the codec's", seam, seam <= MOST_SEAM),
        Requirement(
            f"{plan.key}: motion {LEAST_MOTION} to {MOST_MOTION} of the truth's",
            motion,
            LEAST_MOTION <= motion <= MOST_MOTION,
        ),
        Requirement(
            f"{plan.key}: identity kept in at least {LEAST_KEPT:.0%} of clips",
            identity,
            None if identity is None else identity >= LEAST_KEPT,
        ),
        Requirement(
            f"{plan.key}: colours and count right at the far end of at least {LEAST_KEPT:.0%} of clips{by_codec}",
            colours,
            None if colours is None else colours >= LEAST_KEPT,
        ),
        Requirement(
            f"{plan.key}: what slides or orbits off by at most {MOST_AWAY:g} of the width 2 s from the join",
            away,
            None if away is None else away <= MOST_AWAY,
        ),
        Requirement(
            f"{plan.key}: colour drift at most {MOST_DRIFT:g} % per 10 s, of 10 s or more",
            drift,
            drift <= MOST_DRIFT if long else None,
        ),
    ]
    for other in ("replacement", "reencode"):
        if other in means:
            worse = worse_than(means, other)
            text = f"{plan.key}: no worse than {other} in any figure; worse in {', '.join(worse) or 'none'}"
            found.append(Requirement(text, float(len(worse)), not worse))
    return found


def plan_as_json(
    plan: Plan, means: Summary, errors: Summary, clips: Sequence[Measured], changed: int
) -> dict[str, Any]:
    """Everything that was measured of a plan."""
    return {
        "direction": plan.cut.direction,
        "windows": plan.windows,
        "context_level": plan.level,
        "context latent frames": plan.context,
        "known frames": plan.cut.num_given,
        "new frames": plan.cut.num_made,
        "known frames changed": changed,
        "mean": means,
        "standard error": errors,
        "clips": [
            {
                "seed": int(one.name) if one.name.isdecimal() else one.name,
                "prompt": one.prompt,
                **{name: asdict(figures) for name, figures in one.figures.items()},
            }
            for one in clips
        ],
    }
