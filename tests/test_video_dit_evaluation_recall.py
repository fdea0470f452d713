"""Recall: a model that gives back its clips is told from one that mixes them up, whatever their sizes and lengths."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.video import write_video
from video_dit import VideoPipeline
from video_dit.evaluation.recall import RecallOptions, clip_latents, distance, evaluate_recall
from video_dit.request import PromptSchedule

SHAPES = {"one": (9, 32, 32), "two": (9, 32, 32), "long": (36, 32, 32), "short": (5, 32, 32), "wide": (9, 32, 48)}


@pytest.fixture
def options(tiny_pipe: VideoPipeline, tmp_path: Path) -> RecallOptions:
    """A model of two sizes, and clips of several shapes with a caption each."""
    tiny_pipe.transformer.register_to_config(sample_sizes=[[32, 32], [32, 48]])
    tiny_pipe.save_pretrained(tmp_path / "model")
    lines = ["path,text"]
    for number, (name, (frames, height, width)) in enumerate(SHAPES.items()):
        generator = torch.Generator().manual_seed(number)
        picture = torch.randint(0, 256, (1, height, width, 3), generator=generator, dtype=torch.uint8)
        write_video(tmp_path / f"{name}.mp4", picture.expand(frames, -1, -1, -1), tiny_pipe.frame_rate, crf=5)
        lines.append(f"{name}.mp4,what {name} shows")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    return RecallOptions(tmp_path / "model", tmp_path / "clips.csv", 1, 4.0, 0, tmp_path / "pairs.png", "cpu")


@pytest.mark.parametrize("shift", [0, 1])
def test_who_gives_back_its_clips_and_who_mixes_them_up(
    options: RecallOptions, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler is replaced by one that knows the clips; with a shift it takes each caption for the next one's."""
    names = list(SHAPES)

    def sampled(pipe: VideoPipeline, prompt: PromptSchedule, height: int, width: int, **_: object) -> SimpleNamespace:
        clips = clip_latents(pipe, options.manifest, (height, width))
        firsts = dict(zip(["one", "two", "long", "long", "short", "wide"], clips, strict=True))
        if shift == 0:
            firsts |= {"long": clips[3]}  # the second of its two clips is as good as the first
        name = names[(names.index(prompt.at(0.0).split()[1]) + shift) % len(names)]
        return SimpleNamespace(frames=[firsts[name] + 0.01])

    monkeypatch.setattr(VideoPipeline, "__call__", sampled)
    said: list[str] = []
    results = evaluate_recall(options, said.append)
    assert results["nearest_to_its_own"] == (5 if shift == 0 else 0)
    assert said[-1] == f"nearest to its own clip: {5 if shift == 0 else 0} of 5"
    for number, one in enumerate(results["captions"]):
        assert one["text"] == f"what {names[number]} shows"
        assert one["nearest"] == f"what {names[(number + shift) % 5]} shows"
        assert (one["own"] < 1e-3) == (shift == 0)
    assert options.picture is not None
    assert options.picture.is_file()


def test_an_untrained_model_is_measured_as_well(options: RecallOptions) -> None:
    results = evaluate_recall(options, lambda _: None)
    assert all(one["own"] > 0.1 for one in results["captions"])


def test_distance_is_over_the_frames_that_both_have() -> None:
    clip = torch.randn(4, 3, 2, 2)
    longer = torch.cat([clip + 1, torch.full((4, 2, 2, 2), 9.0)], dim=1)
    assert distance(longer, clip) == pytest.approx(1)
    assert distance(clip, longer) == pytest.approx(1)


def test_one_caption_for_all_tells_nothing(options: RecallOptions) -> None:
    options.manifest.write_text("path,text\none.mp4,same\ntwo.mp4,same\n")
    with pytest.raises(ValueError, match="all clips have one caption"):
        evaluate_recall(options, lambda _: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(options: RecallOptions) -> None:
    with pytest.raises(ValueError, match="--device cuda: "):
        evaluate_recall(replace(options, device="cuda"), lambda _: None)
