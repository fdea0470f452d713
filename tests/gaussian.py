"""A model that knows exactly what Gaussian data look like, and what a perfect sampler makes of it."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from video_dit.noise import NoiseConfig, alpha, path_alphas_cumprod, prediction_target, sigma
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.tokens import Segments, latent_times

MEAN = torch.tensor([0.8, -0.5, 0.0, 0.3])
MIX = torch.tensor([[1.2, 0.0, 0.0, 0.0], [0.7, 0.6, 0.0, 0.0], [-0.4, 0.3, 0.9, 0.0], [0.2, -0.5, 0.4, 0.3]])
COVARIANCE = MIX @ MIX.T  # of the four channels; the strongest correlation is 0.76


class Gaussian:
    """Predicts the mean of what is asked for, given the noisy token: data of `MEAN` and `COVARIANCE`, by token.

    At a level they are normal with mean a·m and covariance a²·S + s²·1, so that the mean of the data, given x, is
    m + a·S·(a²·S + s²·1)⁻¹·(x − a·m).
    """

    def __init__(self, noise: NoiseConfig, base_tokens: int = 1 << 30) -> None:
        self.noise, self.path = noise, path_alphas_cumprod(noise)
        self.config = SimpleNamespace(patch_size=1, base_tokens=base_tokens)
        self.variances, self.axes = torch.linalg.eigh(COVARIANCE)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def text_keys_values(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(prompt_embeds, prompt_embeds)]

    def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
        level = levels[level_index][:, None]
        self.calls.append((hidden_states, level))
        a, s = alpha(level, self.path), sigma(level, self.path)
        along = (hidden_states - a * MEAN) @ self.axes * a * self.variances / (a**2 * self.variances + s**2)
        latents = MEAN + along @ self.axes.T
        epsilon = (hidden_states - a * latents) / s
        return prediction_target(self.noise.prediction, latents, epsilon, level, self.path)

    def end(self, start: Tensor, level: Tensor) -> Tensor:
        """Where the probability flow leads from tokens ``start`` at ``level``: all covariances on the way have the
        same axes, so each is only scaled."""
        a, s = alpha(level, self.path), sigma(level, self.path)
        scale = (self.variances / (a**2 * self.variances + s**2)).sqrt()
        return MEAN + (start - a * MEAN) @ self.axes * scale @ self.axes.T


def sample_gaussian(model: Gaussian, scheduler: Any, steps: int, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a window of 5 latent frames of ``size``², the second of which is known: all latents ``(1, 4, t, h, w)``,
    the made tokens ``(n, 4)`` and the noise that they began as."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 5, size, size, generator=generator)
    known = torch.arange(5) == 1
    window = Window(latents, known, latent_times(5, 8.0, 4, True), torch.arange(5) == 0)
    prompts = Prompts(torch.zeros(1, 8), Segments.from_lengths([1]))
    out = sample_window(model, scheduler, window, prompts, SamplingConfig(steps, 1.0), generator)  # type: ignore[arg-type]
    assert torch.equal(out[:, :, known], latents[:, :, known])
    made = out[:, :, ~known].flatten(2)[0].T
    return out, made, model.calls[0][0][(~known).repeat_interleave(size**2)]
