"""Continuations against the truth: what each figure is blind to and what it is not, and which frames are compared."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.sheet import GIVEN_COLOUR, MADE_COLOUR
from data.world import sample_scene
from video_dit import VideoPipeline
from video_dit.evaluation.extend import (
    DIRECTIONS,
    SHOWN,
    Cut,
    ExtendOptions,
    Figures,
    colour_shift,
    cut_window,
    evaluate_extend,
    extended,
    joined,
    measure,
    row,
    seam,
    summary,
)
from video_dit.evaluation.world import UNSEEN

both = pytest.mark.parametrize("direction", DIRECTIONS)


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
        context_level=0.03,
        seed=3,
        picture=None,
    )


def moving(num_frames: int = 17) -> Tensor:
    """A picture that moves a pixel a frame, so that all steps are much alike; no value is near black or white."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(60, 190, (16, 64, 3), generator=generator, dtype=torch.uint8)
    return torch.stack([picture[:, t : t + 24] for t in range(num_frames)])


@both
def test_the_truth_itself_has_the_best_figures(direction: str) -> None:
    truth = moving()
    assert measure(truth, truth, truth, cut_window(direction, 5, 2, 4)) == Figures(100.0, 1.0, 1.0, 0.0)


@both
def test_a_frozen_continuation_does_not_move(direction: str) -> None:
    truth, cut = moving(), cut_window(direction, 5, 2, 4)
    frozen = joined(truth, truth[cut.boundary], cut)
    figures = measure(frozen, truth, truth, cut)
    assert figures.motion < 0.05 and figures.psnr < 20
    assert figures.seam < 1  # which is no praise: read it beside the motion
    assert torch.equal(frozen[cut.join], frozen[cut.join - 1]) and torch.equal(frozen[cut.known], truth[cut.known])


@both
def test_half_the_motion_is_half_the_figure(direction: str) -> None:
    truth, cut = moving(), cut_window(direction, 5, 2, 4)
    flat = 125 + (truth.int() - 125) // 2
    figures = measure(joined(truth, flat[cut.new].to(torch.uint8), cut), truth, truth, cut)
    assert figures.motion == pytest.approx(0.5, abs=0.01)


@both
def test_another_colour_is_a_shift_and_a_seam_but_no_motion(direction: str) -> None:
    truth, cut = moving(), cut_window(direction, 5, 2, 4)
    other = (truth.int() + torch.tensor([40, -40, 10])).to(torch.uint8)
    figures = measure(joined(truth, other[cut.new], cut), truth, truth, cut)
    assert figures.colour_shift == pytest.approx(30 / 255, abs=1e-4)  # those of the channels do not cancel out
    assert figures.psnr == pytest.approx(10 * np.log10(255**2 / ((1600 + 1600 + 100) / 3)), abs=0.01)
    assert figures.motion == pytest.approx(1)
    assert 1.05 < figures.seam < 2


@both
def test_a_cut_at_the_join_is_a_seam_and_one_elsewhere_is_none(direction: str) -> None:
    still, cut = moving(1).expand(17, -1, -1, -1), cut_window(direction, 5, 2, 4)
    calm = still + torch.arange(17, dtype=torch.uint8)[:, None, None, None]  # a grey level a frame
    assert seam(calm, cut) == pytest.approx(1, rel=1e-4)
    for place, height in ((cut.join, 20), (cut.join + 2, 1), (cut.join - 2, 1)):
        broken = calm.clone()
        broken[place:] += 19
        assert seam(broken, cut) == pytest.approx(height, rel=1e-4)
        assert measure(broken, calm, calm, cut).seam == pytest.approx(height, rel=1e-4)
    assert measure(broken, calm, broken, cut).seam == pytest.approx(1, rel=1e-4)  # as much as the codec itself gives


def test_a_still_clip_has_no_seam_and_moves_as_much_as_the_truth() -> None:
    still, cut = moving(1).expand(17, -1, -1, -1), cut_window("forward", 5, 2, 4)
    assert measure(still, still, still, cut) == Figures(100.0, 1.0, 1.0, 0.0)


@both
def test_flicker_does_not_hide_a_seam(direction: str) -> None:
    """New frames that change a lot do not make little of the step to them."""
    cut = cut_window(direction, 5, 2, 4)
    truth = moving(1).expand(17, -1, -1, -1) + torch.arange(17, dtype=torch.uint8)[:, None, None, None]
    noise = 5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noisy = (truth + noise).round().clamp(0, 255).to(torch.uint8)
    figures = measure(joined(truth, noisy[cut.new], cut), truth, truth, cut)
    assert figures.seam > 3
    assert figures.motion > 3  # and counts as motion


def test_shifts_of_single_frames_cancel_out() -> None:
    truth = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    flicker = truth + torch.tensor([5, 251], dtype=torch.uint8)[:, None, None, None]  # 251 is -5
    assert colour_shift(flicker, truth) == 0
    assert colour_shift(flicker[:1], truth[:1]) == pytest.approx(5 / 255, abs=1e-6)


@pytest.mark.parametrize(
    ("direction", "known", "frames", "boundary"),
    [("forward", 4, 13, 12), ("backward", 4, 17, 16), ("forward", 2, 5, 4), ("backward", 7, 29, 4)],
)
def test_what_is_known_of_a_window(direction: str, known: int, frames: int, boundary: int) -> None:
    cut = cut_window(direction, 9, known, 4)
    order = list(range(33))
    assert sorted(order[cut.known] + order[cut.new]) == order
    assert len(order[cut.known]) == frames == 33 - cut.num_new and cut.boundary == boundary
    assert order[cut.known][-1 if direction == "forward" else 0] == boundary
    assert abs(order[cut.new][0 if direction == "forward" else -1] - boundary) == 1


@both
@pytest.mark.parametrize("known", [2, 3])
def test_the_model_sees_all_that_is_known_and_makes_the_rest_at_once(
    direction: str, known: int, tiny_pipe: VideoPipeline, options: ExtendOptions
) -> None:
    """The pipeline's own choice would be 2 latent frames, whatever is known."""
    seen: list[int] = []
    tiny_pipe.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cut = cut_window(direction, 5, known, 4)
    truth = moving()[:, :, :16]
    clip = extended(tiny_pipe, truth, "a ball", cut, options, 0)
    assert seen == [2 * 5]  # with and without the prompt, a token a latent frame
    assert torch.equal(clip[cut.known], truth[cut.known]) and not torch.equal(clip[cut.new], truth[cut.new])


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
        for name in ("made", "through codec", "boundary repeated"):
            first, second = (clip[name]["psnr"] for clip in found["clips"])
            assert found["mean"][name]["psnr"] == pytest.approx((first + second) / 2)
            assert found["standard error"][name]["psnr"] == pytest.approx(abs(first - second) / 2)
        assert found["mean"]["through codec"]["motion"] == pytest.approx(1)
        assert found["mean"]["boundary repeated"]["motion"] < 0.1
    assert [text.split()[0] for text in said] == ["forward:", "backward:", "wrote"]
    with Image.open(picture) as sheet:
        assert sheet.height > 4 * 2 * 96
    assert evaluate_extend(options, lambda _: None) == results  # noise is of the seed alone


def test_a_model_that_stands_still_gets_the_figures_of_that_and_one_that_touches_what_it_is_given_is_found(
    options: ExtendOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline is replaced by one that repeats the boundary frame, and backward changes a value of the last."""

    def repeat(_: VideoPipeline, frames: Tensor, direction: str, **given: float) -> SimpleNamespace:
        count = round(given["seconds"] * 8)
        end, order = (frames[-1:], 1) if direction == "forward" else (frames[:1], -1)
        whole = torch.cat([frames, end.expand(count, -1, -1, -1)][::order]).float() / 255
        if direction == "backward":
            whole[-1, 0, 0, 0] = (whole[-1, 0, 0, 0] + 0.5) % 1
        return SimpleNamespace(frames=whole[None].numpy())

    monkeypatch.setattr(VideoPipeline, "extend", repeat)
    results = evaluate_extend(options, lambda _: None)["directions"]
    for direction, changed in (("forward", 0), ("backward", 2)):
        assert results[direction]["known frames changed"] == changed
        means = results[direction]["mean"]
        assert means["made"] == pytest.approx(means["boundary repeated"], rel=0.05)


def test_more_clips_than_the_picture_shows(options: ExtendOptions, tmp_path: Path) -> None:
    heights = []
    for clips in (SHOWN, SHOWN + 1):
        evaluate_extend(replace(options, clips=clips, picture=tmp_path / "a.png"), lambda _: None)
        with Image.open(tmp_path / "a.png") as sheet:
            heights.append(sheet.height)
    assert heights[0] == heights[1]


@both
def test_a_row_of_the_picture_says_what_was_given(direction: str) -> None:
    truth, cut = moving(), cut_window(direction, 5, 2, 4)
    line = row(truth, 255 - truth, cut)[:, 16:20]
    for part, colour in ((cut.known, GIVEN_COLOUR), (cut.new, MADE_COLOUR)):
        assert (line[part] == torch.tensor(colour)).all()
    assert torch.equal(row(truth, 255 - truth, cut)[:, :16], truth)


def test_standard_error_is_that_of_the_mean() -> None:
    clips = [{"made": Figures(psnr, 1.0, 1.0, 0.0)} for psnr in (20.0, 22.0, 24.0, 26.0)]
    means, errors = summary(clips)
    assert means["made"] == asdict(Figures(23.0, 1.0, 1.0, 0.0))
    assert errors["made"]["psnr"] == pytest.approx(np.std([20, 22, 24, 26], ddof=1) / 2) and errors["made"]["seam"] == 0


@pytest.mark.parametrize("known", [1, 4])
def test_a_model_must_be_given_something_and_have_something_to_make(options: ExtendOptions, known: int) -> None:
    with pytest.raises(ValueError, match=f"--known {known}: a window has 5 latent frames: use 2 to 3"):
        evaluate_extend(replace(options, known=known), lambda _: None)


def test_a_model_of_too_short_a_window(tiny_pipe: VideoPipeline, options: ExtendOptions) -> None:
    tiny_pipe.transformer.register_to_config(sample_latent_frames=3)
    tiny_pipe.save_pretrained(options.model)
    with pytest.raises(ValueError, match="makes 3 latent frames at a time: give a model of at least 4"):
        evaluate_extend(options, lambda _: None)


def test_a_cut_knows_how_many_frames_are_new() -> None:
    assert [Cut(direction, 9, 5, 2).num_new for direction in DIRECTIONS] == [4, 5]
