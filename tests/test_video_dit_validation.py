"""The loss on unseen clips and the samples of a run: the same on any number of ranks, left off when asked to end."""

from pathlib import Path

import numpy as np
import pytest
import tiny_denoiser
import torch
from PIL import Image

from data.video import read_video
from vae3d import LatentCodec, VideoVAE
from video_dit import VideoPipeline
from video_dit.config import DataConfig, ModelConfig, RunConfig
from video_dit.pack_factory import PackFactory
from video_dit.stopping import Stop, StoppedError
from video_dit.validation import validation_loss, write_clip, write_samples

CPU = torch.device("cpu")
PROMPTS = ["a ball", "a cube", "a cone"]


@pytest.fixture
def factory(tiny_vae: VideoVAE, tmp_path: Path) -> PackFactory:
    data = DataConfig(
        num_clips=4,
        num_frames=9,
        window_frames=9,
        sizes=[[16, 16], [16, 32]],
        token_budget=12,
        validation_packs=3,
        cache=str(tmp_path / "cache"),
    )
    config = RunConfig(data=data, model=ModelConfig(base_tokens=2))
    return PackFactory(config, LatentCodec(tiny_vae), "val", tiny_denoiser.denoiser().tokenizer)


def test_the_loss_is_that_of_each_element_of_all_packs(one_rank: None, factory: PackFactory) -> None:
    denoiser = tiny_denoiser.denoiser()
    packs = [factory.build(factory.packs[position], position).pack for position in range(3)]
    with torch.no_grad():
        errors = [float(denoiser(pack).sum()) for pack in packs]
    elements = [pack.loss_elements for pack in packs]
    assert len(set(elements)) > 1  # so that a mean of means would differ
    torch.manual_seed(5)
    found = validation_loss(denoiser, factory, 0, 1, CPU, Stop())
    assert found == pytest.approx(sum(errors) / sum(elements))
    ranks = [validation_loss(denoiser, factory, rank, 2, CPU, Stop()) for rank in range(2)]  # the sums of one alone
    assert ranks[0] == pytest.approx((errors[0] + errors[2]) / (elements[0] + elements[2]))
    assert ranks[1] == pytest.approx(errors[1] / elements[1])
    with pytest.raises(StoppedError):
        validation_loss(denoiser, factory, 0, 1, CPU, Stop(asked=True))


def test_samples_are_shared_out_and_always_the_same(one_rank: None, tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    write_samples(tiny_pipe, PROMPTS, tmp_path / "one", 7, 0, 1, Stop())
    names = [f"step-0000007-{number}{suffix}" for number in range(3) for suffix in (".mp4", ".png")]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    assert len({(tmp_path / "one" / name).read_bytes() for name in names}) == len(names)
    torch.manual_seed(5)
    for rank in range(2):
        write_samples(tiny_pipe, PROMPTS, tmp_path / f"{rank}", 7, rank, 2, Stop())
        mine = names[:2] + names[4:] if rank == 0 else names[2:4]
        assert sorted(path.name for path in (tmp_path / f"{rank}").iterdir()) == mine
        for name in mine:
            assert (tmp_path / f"{rank}" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_samples_are_left_off_at_the_next_step(
    one_rank: None, tiny_pipe: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, steps = Stop(), []
    forward = tiny_pipe.transformer.forward

    def counted(*args: object, **kwargs: object) -> object:
        steps.append(len(steps))
        stop.asked = len(steps) == 3
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny_pipe.transformer, "forward", counted)
    with pytest.raises(StoppedError):
        write_samples(tiny_pipe, PROMPTS, tmp_path / "samples", 7, 0, 1, stop)
    assert len(steps) == 3
    assert not (tmp_path / "samples").exists()


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
