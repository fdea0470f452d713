"""Noise from which a video is made again: found by the sampler's own steps, the other way."""

from typing import Any

import pytest
import torch
from gaussian import Gaussian
from torch import Tensor

from video_dit import VideoPipeline
from video_dit.inversion import invert_clip, invert_window
from video_dit.noise import NoiseConfig
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.schedulers import model_scheduler, named_scheduler
from video_dit.tokens import Segments, latent_times

PROMPTS = Prompts(torch.zeros(1, 8), Segments.from_lengths([1]))
PATHS = [
    NoiseConfig(),
    NoiseConfig(path="vp", schedule="scaled_linear", prediction="epsilon"),
    NoiseConfig(path="vp", schedule="cosine", prediction="v_prediction"),
]

# diffusers' Euler schedulers hand a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def window(latents: Tensor, known: int = 1) -> Window:
    t = latents.shape[2]
    return Window(latents, torch.arange(t) < known, latent_times(t, 8.0, 4, True), torch.arange(t) == 0)


@pytest.mark.parametrize("noise", PATHS, ids=lambda noise: f"{noise.path} {noise.schedule}")
def test_the_noise_of_a_window_makes_it_again(noise: NoiseConfig) -> None:
    """On data whose flow is known; with its context shown by the same draws."""
    model, config = Gaussian(noise), SamplingConfig(30, 1.0)
    scheduler = model_scheduler(noise)
    drawn = torch.randn(1, 4, 4, 4, 4, generator=seeded(1))
    known = torch.randn(1, 4, 1, 4, 4, generator=seeded(2))
    whole = window(torch.cat([known, torch.zeros_like(drawn)], dim=2))
    made = sample_window(model, scheduler, whole, PROMPTS, config, seeded(0), noise=drawn)  # type: ignore[arg-type]
    steps: list[int] = []
    arguments: tuple[Any, ...] = (model, scheduler, window(made), PROMPTS, config, seeded(0), lambda: steps.append(1))
    found = invert_window(*arguments)
    assert len(steps) == 30
    assert float((found - drawn).abs().max()) < 0.05
    again = sample_window(model, scheduler, whole, PROMPTS, config, seeded(0), noise=found)  # type: ignore[arg-type]
    assert float((again - made).abs().max()) < 0.015


def test_one_guess_leads_less_far_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config, scheduler = Gaussian(NoiseConfig()), SamplingConfig(10, 1.0), model_scheduler(NoiseConfig())
    latents = 0.5 * torch.randn(1, 4, 3, 4, 4, generator=seeded(1))
    errors = []
    for guesses in (1, 4):
        monkeypatch.setattr("video_dit.inversion.GUESSES", guesses)
        nothing = window(latents, known=0)
        arguments: tuple[Any, ...] = (model, scheduler, nothing, PROMPTS, config, None, lambda: None)
        noise = invert_window(*arguments)
        again = sample_window(model, scheduler, nothing, PROMPTS, config, noise=noise)  # type: ignore[arg-type]
        errors.append(float((again - latents).square().mean()))
    assert errors[1] < errors[0] / 10


def test_a_clip_is_followed_window_after_window() -> None:
    latents = torch.randn(1, 4, 12, 2, 2, generator=seeded(0))
    seen: list[Window] = []

    def invert(asked: Window) -> Tensor:
        seen.append(asked)
        return 2 * asked.latents[:, :, ~asked.known]

    assert torch.equal(invert_clip(invert, latents, 5, 2, 8.0, 4), 2 * latents)
    for asked in seen[1:]:  # the context is the clip's own
        assert torch.equal(asked.latents[:, :, asked.known], latents[:, :, asked.start - 2 : asked.start])


def test_generators_are_left_as_they_are(tiny_pipe: VideoPipeline) -> None:
    frames = torch.randint(0, 256, (25, 32, 32, 3), generator=seeded(3), dtype=torch.uint8)
    for generator in (seeded(3), [seeded(3)]):
        tiny_pipe.invert(frames, generator=generator, num_inference_steps=2)
        one = generator[0] if isinstance(generator, list) else generator
        assert torch.equal(one.get_state(), seeded(3).get_state())


def test_a_video_is_made_again_from_its_noise(tiny_pipe: VideoPipeline) -> None:
    """Over several windows, by the pipeline's own arguments."""
    for parameter in tiny_pipe.transformer.parameters():
        parameter.data.mul_(1.5)  # so that its flow bends
    frames = torch.randint(0, 256, (32, 32, 32, 3), generator=seeded(3), dtype=torch.uint8)
    how: dict[str, Any] = {"prompt": "a ball", "num_inference_steps": 10}
    found = tiny_pipe.invert(frames, generator=seeded(0), **how)
    assert found.noise.shape == (1, 4, 8, 4, 4)  # 29 of the frames
    made = tiny_pipe(latents=found.noise, num_frames=29, generator=seeded(0), guidance_scale=1.0, **how).frames[0]
    given = tiny_pipe.edit(frames[:29], 0.0).frames[0]
    error = float(torch.as_tensor(made - given).square().mean())
    assert found.psnr == pytest.approx(-10 * torch.tensor(error).log10().item(), abs=0.2)
    assert 25 < found.psnr < 100


def test_schedulers_that_add_noise_cannot_be_followed_back(tiny_pipe: VideoPipeline) -> None:
    noise = NoiseConfig(path="vp", schedule="linear", prediction="epsilon")
    pipe = VideoPipeline(**(tiny_pipe.components | {"scheduler": model_scheduler(noise)}))
    frames = torch.zeros(9, 32, 32, 3, dtype=torch.uint8)
    for name in ("ddpm", "euler-ancestral"):
        pipe.scheduler = named_scheduler(name, pipe.scheduler)
        with pytest.raises(
            ValueError, match="adds noise at each step, and cannot be followed back: use the model's own"
        ):
            pipe.invert(frames, num_inference_steps=2)


def test_the_ends_of_an_interpolation_are_the_videos(tiny_pipe: VideoPipeline) -> None:
    for parameter in tiny_pipe.transformer.parameters():
        parameter.data.mul_(1.5)
    tiny_pipe.set_progress_bar_config(disable=True)
    pair = [torch.randint(0, 256, (17, 32, 32, 3), generator=seeded(n), dtype=torch.uint8) for n in (1, 2)]
    made = {}
    for fraction in (0.0, 0.5, 1.0):
        how: dict[str, Any] = {"generator": seeded(0), "num_inference_steps": 20}
        output: Any = tiny_pipe.interpolate(*pair, fraction, **how)
        made[fraction] = torch.as_tensor(output.frames[0])
    assert min(output.round_trips) > 25
    for fraction, video in zip((0.0, 1.0), pair, strict=True):
        own = torch.as_tensor(tiny_pipe.edit(video, 0.0).frames[0])
        assert float((made[fraction] - own).square().mean()) < 10**-2.5
        assert float((made[0.5] - own).square().mean()) > 4 * float((made[fraction] - own).square().mean())
