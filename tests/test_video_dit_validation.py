"""Loss on unseen clips and sample videos, shared out over ranks: two make what one does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoiser
import torch
from PIL import Image
from tiny_engine import launch

from data.video import read_video
from video_dit.pack_factory import BuiltPack
from video_dit.pipeline import VideoPipeline
from video_dit.stopping import Stop, StoppedError
from video_dit.validation import validation_loss, write_clip, write_samples

PROMPTS = ["a red ball", "a blue cube", "a green cone"]

PROGRAM = """
import json
from pathlib import Path

import tiny_denoiser
import torch
from deepspeed import comm as dist
from test_video_dit_validation import PROMPTS, Fixed, pipeline

from video_dit.engine import process_group
from video_dit.stopping import Stop, StoppedError
from video_dit.validation import validation_loss, write_samples

with process_group():
    rank, cpu = dist.get_rank(), torch.device("cpu")
    loss = validation_loss(tiny_denoiser.denoiser(), Fixed(3), rank, 2, cpu, Stop())
    write_samples(pipeline(), PROMPTS, Path("samples"), 7, rank, 2, Stop())
    asked = Stop(asked=rank == 1)  # one alone: all leave off
    left_off = 0
    try:
        validation_loss(tiny_denoiser.denoiser(), Fixed(3), rank, 2, cpu, asked)
    except StoppedError:
        left_off += 1
    try:
        write_samples(pipeline(), PROMPTS, Path("stopped"), 7, rank, 2, asked)
    except StoppedError:
        left_off += 1
    Path(f"rank-{rank}.json").write_text(json.dumps([loss, left_off]))
"""


class Fixed:
    """The packs of `tiny_denoiser` in place of a data set's."""

    def __init__(self, count: int) -> None:
        data = type("Data", (), {"validation_packs": count})
        self.config: Any = type("Config", (), {"data": data})
        self.packs = range(count)
        self.built: list[int] = []

    def build(self, read: int, position: int) -> BuiltPack:
        assert read == position
        self.built.append(position)
        return BuiltPack(tiny_denoiser.pack(position), (), 0)


def pipeline() -> VideoPipeline:
    from diffusers import FlowMatchEulerDiscreteScheduler

    module = tiny_denoiser.denoiser().eval()
    scheduler = FlowMatchEulerDiscreteScheduler()
    vae = tiny_denoiser.codec().vae
    return VideoPipeline(module.transformer, vae, module.text_encoder, module.tokenizer, scheduler)


CPU = torch.device("cpu")


def test_the_loss_is_the_mean_over_all_elements(one_rank: None) -> None:
    module, packs = tiny_denoiser.denoiser(), Fixed(3)
    found = validation_loss(module, packs, 0, 1, CPU, Stop())  # type: ignore[arg-type]
    assert packs.built == [0, 1, 2]
    errors = [module(tiny_denoiser.pack(position)).sum().item() for position in range(3)]
    assert found == pytest.approx(sum(errors) / sum(tiny_denoiser.pack(n).loss_elements for n in range(3)), rel=1e-6)


def test_samples_are_the_same_again(one_rank: None, tmp_path: Path) -> None:
    for name in ("first", "again"):
        write_samples(pipeline(), PROMPTS[:2], tmp_path / name, 12, 0, 1, Stop())
    names = [f"step-0000012-{number}.{suffix}" for number in range(2) for suffix in ("mp4", "png")]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    pictures = [(tmp_path / "first" / f"step-0000012-{number}.png").read_bytes() for number in range(2)]
    assert pictures[0] != pictures[1]


def test_a_sample_that_fails_costs_no_other_and_not_the_run(
    one_rank: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "step-0000012-0.png").mkdir()
    write_samples(pipeline(), PROMPTS[:2], tmp_path, 12, 0, 1, Stop())
    assert (tmp_path / "step-0000012-1.png").is_file()
    assert "step-0000012-0.png: not made: " in caplog.text


def test_who_is_asked_to_stop_makes_nothing(one_rank: None, tmp_path: Path) -> None:
    packs = Fixed(2)
    with pytest.raises(StoppedError):
        validation_loss(tiny_denoiser.denoiser(), packs, 0, 1, CPU, Stop(asked=True))  # type: ignore[arg-type]
    assert packs.built == []
    with pytest.raises(StoppedError):
        write_samples(pipeline(), PROMPTS, tmp_path, 1, 0, 1, Stop(asked=True))
    assert list(tmp_path.iterdir()) == []


def test_a_video_is_left_off_between_two_steps(one_rank: None, tmp_path: Path) -> None:
    pipe, stop = pipeline(), Stop()
    calls: list[int] = []

    def ask(module: object, given: object) -> None:
        calls.append(1)
        stop.asked = len(calls) >= 3

    pipe.transformer.register_forward_pre_hook(ask)
    with pytest.raises(StoppedError):
        write_samples(pipe, PROMPTS, tmp_path, 1, 0, 1, stop)
    assert 3 <= len(calls) <= 6  # of 30 steps
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_ranks_make_what_one_does(one_rank: None, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    launch(PROGRAM, tmp_path / "two", 2)
    loss = validation_loss(tiny_denoiser.denoiser(), Fixed(3), 0, 1, CPU, Stop())  # type: ignore[arg-type]
    for rank in range(2):
        theirs, left_off = json.loads((tmp_path / f"two/rank-{rank}.json").read_text())
        assert theirs == pytest.approx(loss, rel=1e-5)
        assert left_off == 2
    write_samples(pipeline(), PROMPTS, tmp_path / "one", 7, 0, 1, Stop())
    sheets = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    assert len(sheets) == 3
    for sheet in sheets:
        assert (tmp_path / "one" / sheet).read_bytes() == (tmp_path / "two/samples" / sheet).read_bytes()


def test_of_a_single_frame_there_is_no_video(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    write_clip(tmp_path / "a" / "one.png", frames[:1], 8.0)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one.png"]
    write_clip(tmp_path / "b" / "five.png", frames, 8.0)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["five.mp4", "five.png"]
    assert len(read_video(tmp_path / "b" / "five.mp4").frames) == 5


def test_given_frames_are_marked(tmp_path: Path) -> None:
    frames = np.full((5, 32, 32, 3), 128, dtype=np.uint8)
    write_clip(tmp_path / "plain.png", frames, 8.0)
    write_clip(tmp_path / "marked.png", frames, 8.0, np.arange(5) < 2)
    plain, marked = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "marked.png"))
    assert plain.shape != marked.shape or (plain != marked).any()
