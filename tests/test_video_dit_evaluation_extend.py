"""Continuations measured: which frames are compared, what is reported, and what is refused."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from data.sheet import GIVEN_COLOUR, MADE_COLOUR
from data.video import write_video
from data.world import sample_scene
from data.world.judge import Judge
from video_dit import VideoPipeline
from video_dit.evaluation.continuations import Setting, ours
from video_dit.evaluation.cuts import DIRECTIONS, boundary_repeated, cut_clip, given_of
from video_dit.evaluation.extend import (
    SHOWN,
    ExtendOptions,
    choose_known,
    evaluate_extend,
    figures_of,
    plans_of,
    row,
    untouched,
)
from video_dit.evaluation.unseen import UnseenClip
from video_dit.evaluation.world import UNSEEN
from video_dit.sampling import SamplingConfig

both = pytest.mark.parametrize("direction", ["forward", "backward"])
JUDGE = Path(__file__).parents[1] / "checkpoints" / "judge"


@pytest.fixture
def options(tiny_pipe: VideoPipeline, tmp_path: Path) -> ExtendOptions:
    """A random model in a folder; its window is 5 latent frames."""
    tiny_pipe.save_pretrained(tmp_path / "model")
    return ExtendOptions(
        model=tmp_path / "model",
        clips=2,
        known=None,
        steps=1,
        guidance_scale=2.0,
        context_level=[0.03],
        seed=3,
        picture=None,
        judge=JUDGE,
        directions=["forward", "backward"],
        methods=["ours"],
    )


def moving(num_frames: int = 17) -> Tensor:
    """A picture that moves a pixel a frame."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(60, 190, (16, 64, 3), generator=generator, dtype=torch.uint8)
    return torch.stack([picture[:, t : t + 16] for t in range(num_frames)])


@both
@pytest.mark.parametrize("known", [2, 3])
def test_the_model_sees_all_that_is_known_and_makes_the_rest_at_once(
    direction: str, known: int, tiny_pipe: VideoPipeline
) -> None:
    """The pipeline's own choice would be 2 latent frames, whatever is known."""
    seen: list[int] = []
    tiny_pipe.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cut, truth = cut_clip(direction, 5, known, 4), moving()
    clip = ours(tiny_pipe, given_of(truth, cut), cut, "a ball", Setting(SamplingConfig(1, 2.0, 0.03), known, 3))
    assert seen == [2 * 5]  # with and without the prompt, a token a latent frame
    assert untouched(clip, truth, cut) and not torch.equal(clip[cut.made], truth[cut.made])


def test_figures_of_unseen_scenes_their_means_and_errors(options: ExtendOptions, tmp_path: Path) -> None:
    said: list[str] = []
    picture = tmp_path / "picture.png"
    results = evaluate_extend(replace(options, picture=picture), said.append)
    assert json.loads(json.dumps(results)) == results
    assert results["settings"]["known"] == 2 and results["settings"]["size"] == "32x32"
    for direction, known, new in (("forward", 5, 12), ("backward", 9, 8)):
        found = results["directions"][direction]
        assert (found["known frames"], found["new frames"], found["known frames changed"]) == (known, new, 0)
        assert [clip["seed"] for clip in found["clips"]] == [UNSEEN, UNSEEN + 1]
        assert [clip["prompt"] for clip in found["clips"]] == [
            sample_scene("all", seed).caption() for seed in (UNSEEN, UNSEEN + 1)
        ]
        for name in ("ours", "through codec", "boundary repeated"):
            first, second = (clip[name]["psnr"] for clip in found["clips"])
            assert found["mean"][name]["psnr"] == pytest.approx((first + second) / 2)
            assert found["standard error"][name]["psnr"] == pytest.approx(abs(first - second) / 2)
        assert found["mean"]["through codec"]["motion"] == pytest.approx(1)
        assert found["mean"]["through codec"]["seam_to_codec"] == pytest.approx(1)
        assert found["mean"]["boundary repeated"]["motion"] < 0.1
        assert any(clip["boundary repeated"]["position"] is not None for clip in found["clips"])
    table, requirements, other, _, wrote = said
    assert (table.split()[0], other.split()[0], wrote.split()[0]) == ("forward:", "backward:", "wrote")
    assert len(requirements.splitlines()) == 6
    assert [one["text"].split(":")[0] for one in results["requirements"]] == ["forward"] * 6 + ["backward"] * 6
    with Image.open(picture) as sheet:
        assert sheet.height > 4 * 2 * 96
    assert evaluate_extend(options, lambda _: None) == results  # noise is of the seed alone


def test_directions_lengths_and_contexts_each_have_a_key_of_their_own(options: ExtendOptions) -> None:
    said: list[str] = []
    of_all = replace(
        options,
        directions=["connect", "loop"],
        windows=[1, 3],
        methods=["replacement", "reencode"],
        context_level=[0, 0.1],
        context_seconds=[0.5, 1.0],
    )
    results = evaluate_extend(of_all, said.append)["directions"]
    assert len(results) == 2 * 2 * 2 * 2 and len(said) == len(results) + 2
    found = results["connect, 3 windows, level 0.1, context 2"]
    assert (found["direction"], found["windows"], found["context_level"]) == ("connect", 3, 0.1)
    assert found["known frames"] + found["new frames"] == 1 + 4 * (3 * 5 - 1)
    means = found["mean"]
    assert list(means) == ["replacement", "reencode", "through codec", "boundary repeated"]
    assert means["reencode"] != results["connect, 3 windows, level 0, context 2"]["mean"]["reencode"]
    loop = results["loop, level 0, context 1"]["mean"]
    assert list(loop) == ["replacement", "reencode", "boundary repeated"]
    assert loop["reencode"]["psnr"] is None and loop["reencode"]["position"] is None
    assert all(math.isfinite(loop["reencode"][name]) for name in ("seam", "motion", "colour_drift", "repetition"))


def test_real_clips_have_a_truth_only_where_they_are_long_enough(options: ExtendOptions, tmp_path: Path) -> None:
    for name, frames in (("long", 20), ("short", 10)):
        write_video(tmp_path / f"{name}.mp4", moving(frames).repeat(1, 3, 3, 1), 8)
    (tmp_path / "clips.csv").write_text("path,text\nlong.mp4,stripes\nshort.mp4,dots\n")
    results = evaluate_extend(replace(options, manifest=tmp_path / "clips.csv"), lambda _: None)
    long, short = results["directions"]["forward"]["clips"]
    assert (long["prompt"], short["prompt"]) == ("stripes", "dots")
    assert long["ours"]["psnr"] is not None and "through codec" in long
    assert short["ours"]["psnr"] is None and "through codec" not in short
    for clip in (long, short):
        assert clip["ours"]["position"] is None and clip["ours"]["identity"] is None
        assert all(math.isfinite(clip["ours"][name]) for name in ("seam", "motion", "colour_drift", "repetition"))
    assert {one["met"] for one in results["requirements"] if "identity" in one["text"]} == {None}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_continuation_that_stands_still_has_the_figures_of_one(direction: str) -> None:
    """And one that is the truth through the codec has those of that."""
    cut, scene = cut_clip(direction, 9, 4, 4), sample_scene("val", 3)
    frames = scene.render(41, 32, 32, 8.0)  # more than the cut takes
    decoded = (125 + (frames.int() - 125) * 9 // 10).to(torch.uint8)
    clip = UnseenClip("3", "", frames, scene)
    through = frames[: cut.num_frames].clone()
    through[cut.made] = decoded[cut.made]
    made = {"still": boundary_repeated(given_of(frames, cut), cut), "coded": through}
    found = figures_of(made, clip, decoded, cut, Judge.load(JUDGE), 8.0)
    assert found["still"] == found["boundary repeated"]
    assert found["coded"].motion == pytest.approx(1)
    if cut.has_truth:
        assert found["coded"] == found["through codec"] and found["coded"].seam_to_codec == pytest.approx(1)


@both
def test_one_that_touches_what_it_is_given_is_found(direction: str) -> None:
    truth, cut = moving(), cut_clip(direction, 5, 2, 4)
    clip = truth.clone()
    clip[cut.made] = 0
    assert untouched(clip, truth, cut)
    clip[cut.given[0].start, 0, 0, 0] += 1
    assert not untouched(clip, truth, cut)


def test_more_clips_than_the_picture_shows(options: ExtendOptions, tmp_path: Path) -> None:
    heights = []
    for clips in (SHOWN, SHOWN + 1):
        evaluate_extend(replace(options, clips=clips, picture=tmp_path / "a.png"), lambda _: None)
        with Image.open(tmp_path / "a.png") as sheet:
            heights.append(sheet.height)
    assert heights[0] == heights[1]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_row_of_the_picture_says_what_was_given(direction: str) -> None:
    cut = cut_clip(direction, 5, 2, 4)
    truth = moving()[: cut.num_frames]
    line = row(truth, 255 - truth, cut)[:, 16:20]
    for part, colour in [(cut.made, MADE_COLOUR), *((run, GIVEN_COLOUR) for run in cut.given)]:
        assert (line[part] == torch.tensor(colour)).all()
    assert torch.equal(row(truth, 255 - truth, cut)[:, :16], truth)
    assert not row(None, truth, cut)[:, :16].any() and not row(truth[:3], truth, cut)[:, :16].any()


@pytest.mark.parametrize("known", [1, 4])
def test_a_model_must_be_given_something_and_have_something_to_make(options: ExtendOptions, known: int) -> None:
    with pytest.raises(ValueError, match=f"--known {known}: a window has 5 latent frames: use 2 to 3"):
        evaluate_extend(replace(options, known=known), lambda _: None)


@pytest.mark.parametrize(
    ("known", "contexts", "expected"), [(None, [], 2), (None, [1, 3], 3), (2, [3], 2), (None, [1], 2)]
)
def test_all_contexts_are_given_the_same_frames(
    known: int | None, contexts: Sequence[int], expected: int, tiny_pipe: VideoPipeline, options: ExtendOptions
) -> None:
    chosen = choose_known(tiny_pipe, replace(options, known=known), contexts)
    assert chosen == expected
    cuts = {plan.cut for plan in plans_of(tiny_pipe, replace(options, directions=["forward"]), chosen, contexts)}
    assert len(cuts) == 1


def test_a_model_of_too_short_a_window(tiny_pipe: VideoPipeline, options: ExtendOptions) -> None:
    tiny_pipe.transformer.register_to_config(sample_latent_frames=3)
    tiny_pipe.save_pretrained(options.model)
    with pytest.raises(ValueError, match="makes 3 latent frames at a time: give a model of at least 4"):
        evaluate_extend(options, lambda _: None)


def test_a_judge_that_is_not_there(options: ExtendOptions) -> None:
    with pytest.raises(ValueError, match="holds no judge"):
        evaluate_extend(replace(options, judge=options.model), lambda _: None)
