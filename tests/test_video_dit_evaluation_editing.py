"""What is asked of edits, and that the judge sees it in clips where it is so, and not where it is not."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from data.world.judge import FRAME_RATE, Judge
from data.world.score import Share
from video_dit import VideoPipeline
from video_dit.evaluation.editing import (
    KINDS,
    EditOptions,
    border_mask,
    evaluate_edits,
    has_colour,
    is_same,
    moves_as,
    recoloured,
    seen_of,
    subjects,
    table,
)

JUDGE = Path(__file__).parents[1] / "checkpoints" / "judge"


def options(**changed: object) -> EditOptions:
    values = {"model": Path("model"), "judge": JUDGE, "clips": 2, "kinds": KINDS, "strength": None, "steps": 1}
    return EditOptions(**(values | {"guidance_scale": None, "seed": 0, "picture": None} | changed))  # type: ignore[arg-type]


def test_only_the_colour_of_the_subject_is_changed() -> None:
    for subject in islice(subjects(), 12):
        before, after = subject.scene, recoloured(subject)
        assert subject.object.colour == "red"
        assert [obj.colour for obj in before.objects].count("red") == 1
        assert after.objects[subject.index].colour == "green"
        for number, (one, other) in enumerate(zip(before.objects, after.objects, strict=True)):
            assert (one.colour == other.colour) == (number != subject.index)
            assert (one.shape, one.motion, one.size) == (other.shape, other.motion, other.size)
        own, new = before.caption(), after.caption()
        assert own != new


def test_the_border_goes_through_the_object() -> None:
    for subject in islice(subjects(), 12):
        mask = border_mask(subject, 33, 64, 64)
        assert mask.any() and not mask.all()
        assert (mask[0].int().diff() >= 0).all() and torch.equal(mask, mask[:1].expand_as(mask))
        column = int((~mask[0]).sum())
        centres = subject.scene.truth(33, FRAME_RATE).objects[subject.index].centres[:, 0]
        assert column in (1, 63) or abs(column - float(centres.median()) * 64) <= 1


def test_the_judge_tells_an_edit_from_none() -> None:
    judge = Judge.load(JUDGE)
    told = []
    for subject in islice(subjects(), 6):
        clips = [scene.render(33, 64, 64, FRAME_RATE) for scene in (subject.scene, recoloured(subject))]
        before, after = (seen_of(judge, clip, subject) for clip in clips)
        told.append((has_colour(before, "green"), has_colour(after, "green"), is_same(before, subject)))
        still = clips[1][:1].expand(33, -1, -1, -1)
        told[-1] += (
            moves_as(after, subject),
            is_same(after, subject),
            moves_as(seen_of(judge, still, subject), subject),
        )
    green_before, green_after, same_before, moves, same_after, moves_still = (
        sum(one) for one in zip(*told, strict=True)
    )
    assert green_before == 0 and green_after >= 5
    assert same_before >= 5 and same_after == 0
    assert moves >= 5 and moves_still <= 3
    nothing = seen_of(judge, torch.zeros(33, 64, 64, 3, dtype=torch.uint8), subject)
    assert not has_colour(nothing, "green") and not moves_as(nothing, subject) and not is_same(nothing, subject)


def test_the_program_has_all_kinds(load_tool: Callable[[str], ModuleType]) -> None:
    assert tuple(load_tool("evaluate").parse_arguments(["edit"]).kinds) == KINDS


def test_a_table_has_both_columns_with_intervals() -> None:
    lines = table({"colour changed": [Share(1, 2), Share(2, 2)]}, 2).splitlines()
    assert "2 clips, red to green" in lines[1]
    assert "50.0 (9-91)" in lines[-1] and "100.0 (34-100)" in lines[-1]


@pytest.mark.slow
def test_a_random_model_changes_nothing_on_purpose(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    lines: list[str] = []
    found = evaluate_edits(options(model=tmp_path / "model", picture=tmp_path / "a.png"), lines.append)
    assert (tmp_path / "a.png").is_file()
    shares = found["shares"]
    of_colour = {f"{kind}: {name}" for kind in KINDS[:2] for name in ("colour changed", "motion stayed")}
    assert set(shares) == of_colour | {"inpaint: same object"}
    assert all(one["edits"]["asked"] == 2 for one in shares.values())
    assert "NOT MET" in "\n".join(lines)


def test_each_kind_is_made_as_it_is_called(
    tiny_pipe: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    seen: list[tuple[float, str | None]] = []
    edit = VideoPipeline.edit

    def record(self: VideoPipeline, *arguments: Any, **named: Any) -> Any:
        seen.append((arguments[1], named["source_prompt"]))
        return edit(self, *arguments, **named)

    monkeypatch.setattr(VideoPipeline, "edit", record)
    found = evaluate_edits(options(model=tmp_path / "model", clips=1, kinds=("flowedit", "sdedit")), print)
    (subject,) = islice(subjects(), 1)
    assert seen == [(0.8, subject.scene.caption()), (0.6, None)]
    assert [name.partition(":")[0] for name in found["shares"]] == ["flowedit", "flowedit", "sdedit", "sdedit"]
    assert found["settings"]["strength"] == {"sdedit": 0.6, "flowedit": 0.8}


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no model folder"):
        evaluate_edits(options(model=tmp_path), print)
