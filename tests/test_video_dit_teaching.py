"""The pictures that explain the path of DDPM: a way to noise that forgets the picture, and ways back from the seeds."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image

from data.dataset import Clip, WorldClips
from vae3d import LatentCodec
from video_dit import VideoPipeline, teaching
from video_dit.noise import NoiseConfig
from video_dit.schedulers import model_scheduler
from video_dit.stopping import Stop, StoppedError
from video_dit.teaching import LEVELS, SEEDS, forward_process, samples, write_explanation

NOISE = NoiseConfig(path="vp", prediction="epsilon", pictures=True)


@pytest.fixture
def pipe(tiny_pipe: VideoPipeline) -> VideoPipeline:
    """One whose model is of the path."""
    return VideoPipeline(**(tiny_pipe.components | {"scheduler": model_scheduler(NOISE)}))


def test_the_way_to_noise_begins_at_the_picture_and_forgets_it(tiny_pipe: VideoPipeline) -> None:
    source = WorldClips("val", 2, 1, [[32, 32]], [8.0])
    frames = [source.load(index).frames for index in range(2)]
    codec: LatentCodec = tiny_pipe.codec
    ways = [forward_process(codec, one, NOISE).int() for one in frames]
    assert [way.shape for way in ways] == [(LEVELS, 32, 32, 3)] * 2
    decoded = codec.decode(codec.encode(frames[0].movedim(3, 0)[None] / 127.5 - 1))[0, :, 0].movedim(0, 2)
    assert (ways[0][0] - (decoded + 1) * 127.5).abs().max() < 2
    apart = [float((a - b).abs().float().mean()) for a, b in zip(*ways, strict=True)]
    assert apart[-1] < apart[0] / 10  # both end at the same noise
    assert all(later <= earlier + 1 for earlier, later in pairwise(apart))


def test_samples_of_a_prompt_are_those_of_the_seeds(pipe: VideoPipeline) -> None:
    one, two = samples(pipe, DDIMScheduler, 2, ["a", "b"], Stop())
    assert one.shape == two.shape == (SEEDS, 32, 32, 3)
    assert torch.equal(samples(pipe, DDIMScheduler, 2, ["b"], Stop())[0], two)
    assert len({picture.numpy().tobytes() for picture in one}) == SEEDS
    assert not torch.equal(samples(pipe, DDPMScheduler, 2, ["b"], Stop())[0], two)
    assert isinstance(pipe.scheduler, DDIMScheduler)


def test_the_pictures_are_written(pipe: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "WAYS_BACK", ((DDPMScheduler, 3), (DDIMScheduler, 2)))
    source = WorldClips("val", 2, 5, [[32, 32]], [8.0])
    write_explanation(pipe, source, ["a ball", "a cube"], NOISE, tmp_path, 40, Stop())
    for name, columns in (("forward.png", LEVELS), ("samples/step-0000040-ddpm.png", 2 * SEEDS)):
        with Image.open(tmp_path / name) as image:
            assert image.width == columns * (96 + 4) + 4
            assert image.height > 2 * 96
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    write_explanation(pipe, source, [], NOISE, tmp_path, 40, Stop())
    assert [path.name for path in tmp_path.rglob("*.png")] == ["forward.png"]


def test_a_stop_is_heeded_at_the_next_step(pipe: VideoPipeline, tmp_path: Path) -> None:
    source = WorldClips("val", 1, 5, [[32, 32]], [8.0])
    with pytest.raises(StoppedError):
        write_explanation(pipe, source, ["a ball"], NOISE, tmp_path, 40, Stop(asked=True))
    assert [path.name for path in tmp_path.rglob("*.png")] == ["forward.png"]


class Damaged(WorldClips):
    """Of which the second clip alone can be read."""

    def load(self, index: int) -> Clip:
        if index != 1:
            raise ValueError("damaged")
        return super().load(index)


def test_damaged_clips_are_passed_over(pipe: VideoPipeline, tmp_path: Path) -> None:
    write_explanation(pipe, Damaged("val", 3, 5, [[32, 32]], [8.0]), [], NOISE, tmp_path, 40, Stop())
    with Image.open(tmp_path / "forward.png") as image:
        assert image.height < 2 * 96 + 50
    (tmp_path / "forward.png").unlink()
    write_explanation(pipe, Damaged("val", 1, 5, [[32, 32]], [8.0]), [], NOISE, tmp_path, 40, Stop())
    assert list(tmp_path.rglob("*.png")) == []
