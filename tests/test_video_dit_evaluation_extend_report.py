"""Figures as means, tables and requirements."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from video_dit.evaluation.cuts import cut_clip
from video_dit.evaluation.extend_report import (
    Plan,
    extend_requirements,
    shortfall,
    summary,
    sweep_table,
    table,
    worse_than,
)
from video_dit.evaluation.measures import Figures

BEST = Figures(100.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0)
LONG = Plan(cut_clip("forward", 36, 4, 4), 4, 0.03, 4, "forward, 4 windows")
SHORT = Plan(cut_clip("forward", 9, 4, 4), 1, 0.03, 4, "forward")


def means_of(ours: Figures, replacement: Figures) -> dict[str, dict[str, float | None]]:
    return {"ours": asdict(ours), "replacement": asdict(replacement)}


def test_standard_error_is_that_of_the_mean() -> None:
    means, errors = summary([{"ours": replace(BEST, psnr=psnr)} for psnr in (20.0, 22.0, 24.0, 26.0)])
    assert means["ours"] == asdict(replace(BEST, psnr=23.0))
    assert errors["ours"]["psnr"] == pytest.approx(np.std([20, 22, 24, 26], ddof=1) / 2) and errors["ours"]["seam"] == 0


def test_a_factor_and_its_inverse_cancel_out() -> None:
    means, errors = summary([{"ours": replace(BEST, motion=motion)} for motion in (0.1, 10.0)])
    assert means["ours"]["motion"] == pytest.approx(1)
    assert errors["ours"]["motion"] == pytest.approx(np.log(10))


def test_what_cannot_be_told_is_left_out_of_the_mean() -> None:
    clips = [{"ours": replace(BEST, position=position, psnr=None)} for position in (0.1, None, 0.3)]
    means, errors = summary(clips)
    assert means["ours"]["position"] == pytest.approx(0.2) and errors["ours"]["position"] == pytest.approx(0.1)
    assert means["ours"]["psnr"] is None and errors["ours"]["psnr"] is None
    means, errors = summary(clips[:1])
    assert means["ours"]["position"] == 0.1 and errors["ours"]["position"] is None


def test_a_table_has_the_figures_that_can_be_told() -> None:
    clips = [{"ours": replace(BEST, psnr=None, seam=seam), "boundary repeated": BEST} for seam in (1.1, 1.1)]
    lines = table(SHORT, *summary(clips), count=2, changed=1).splitlines()
    assert lines[1].startswith("forward: 13 frames known, 20 new, context of 4 latent frames at level 0.03; mean of 2")
    assert "PSNR" in lines[2] and "1.100 ± 0.000" in lines[3] and "100.00 ± 0.00" in lines[4]
    assert lines[-1] == "clips whose known frames changed: 1"
    without = table(SHORT, *summary([{"ours": replace(BEST, psnr=None)}]), count=1, changed=0)
    assert "PSNR" not in without and "seam" in without


def test_a_sweep_has_a_line_for_each_context() -> None:
    plans = [replace(SHORT, key=f"forward, level {level}") for level in (0, 0.1)]
    means, errors = summary([{"ours": BEST}, {"ours": BEST}])
    lines = sweep_table(plans, {p.key: means for p in plans}, {p.key: errors for p in plans}, "ours").splitlines()
    assert [line.split("  ")[0] for line in lines[3:]] == ["forward, level 0", "forward, level 0.1"]


@pytest.mark.parametrize(
    ("figure", "bad", "worse"),
    [
        ("psnr", 20, 10),
        ("seam", 1.5, 2),
        ("motion", 0.5, 2.1),
        ("motion", 1.9, 0.5),
        ("identity", 0.9, 0.8),
        ("colours", 0.9, 0.8),
        ("repetition", 0.1, 0.2),
        ("position", 0.1, 0.2),
        ("position_2s", 0.1, 0.2),
        ("colour_drift", 1, 2),
    ],
)
def test_what_falls_short(figure: str, bad: float, worse: float) -> None:
    best = getattr(BEST, figure)
    assert shortfall(figure, best) == 0 < shortfall(figure, bad) < shortfall(figure, worse)


def test_less_seam_and_repetition_than_the_truth_is_no_merit() -> None:
    assert shortfall("seam", 0.1) == shortfall("repetition", -0.3) == 0


def test_ours_is_worse_where_it_falls_short_by_more() -> None:
    other = replace(BEST, psnr=25.0, seam=3.0, position=None)
    assert worse_than(means_of(BEST, other), "replacement") == []
    worse = replace(BEST, psnr=24.0, seam=2.0, motion=0.9, position=0.5)
    assert worse_than(means_of(worse, other), "replacement") == ["PSNR", "motion"]


def test_requirements_name_what_is_not_met() -> None:
    met = extend_requirements(LONG, means_of(BEST, BEST), 8.0)
    assert [one.met for one in met] == [True] * 7
    poor = replace(BEST, seam_to_codec=1.3, motion=1.5, colour_drift=2.1, identity=0.9, colours=0.9, position_2s=0.11)
    missed = extend_requirements(LONG, means_of(poor, BEST), 8.0)
    assert [one.met for one in missed] == [False] * 7
    assert "worse in seam to codec's, motion, drift, position at 2 s, identity, colours" in missed[-1].text
    assert missed[-1].value == 6
    least = replace(BEST, seam_to_codec=1.2, motion=0.7, colour_drift=2.0, identity=0.95, colours=0.95, position_2s=0.1)
    assert [one.met for one in extend_requirements(LONG, means_of(least, least), 8.0)] == [True] * 7


def test_drift_is_asked_of_ten_seconds_and_objects_where_there_is_a_judge() -> None:
    unknown = replace(BEST, identity=None, colours=None, position_2s=None, colour_drift=50.0)
    assert [one.met for one in extend_requirements(SHORT, means_of(unknown, BEST), 8.0)] == [
        True,
        True,
        None,
        None,
        None,
        None,
        False,
    ]
