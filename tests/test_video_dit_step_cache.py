"""Steps without a call of the model: only where its output would hardly change, and never the first or the last."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gaussian import Gaussian
from torch import Tensor

from video_dit.noise import NoiseConfig
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.schedulers import model_scheduler, named_scheduler
from video_dit.step_cache import next_call
from video_dit.tokens import Segments, latent_times

CONFIG = SamplingConfig(num_inference_steps=30, guidance_scale=1.0)
EPSILON = NoiseConfig(path="vp", prediction="epsilon")


def sampled(model: Any, config: SamplingConfig, noise: NoiseConfig | None = None, name: str = "") -> Tensor:
    latents = torch.zeros(2, 4, 3, 4, 4)
    window = Window(latents, torch.arange(3) == 0, latent_times(3, 8.0, 4, True), torch.arange(3) == 0)
    text = torch.zeros(2, 8), Segments.from_lengths([1, 1])
    own = model_scheduler(noise or NoiseConfig())
    scheduler = named_scheduler(name, own) if name else own
    return sample_window(model, scheduler, window, Prompts(*text, *text), config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("noise", "name"), [(NoiseConfig(), "euler"), (NoiseConfig(), "heun"), (EPSILON, "ddim"), (EPSILON, "unipc")]
)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # of diffusers
def test_fewer_calls_for_a_larger_threshold_and_a_larger_error(noise: NoiseConfig, name: str) -> None:
    counts, errors = [], []
    exact = sampled(Gaussian(noise), CONFIG, noise, name)
    for threshold in (0.0, 1e-9, 0.05, 0.3):
        model = Gaussian(noise)
        out = sampled(model, replace(CONFIG, step_cache=threshold), noise, name)
        counts.append(len(model.calls))
        errors.append(float((out - exact).square().mean().sqrt()))
        assert torch.equal(out[:, :, 0], exact[:, :, 0])
    assert counts[0] == counts[1] > counts[2] > counts[3] >= 12
    assert errors[:2] == [0, 0]
    assert 0 < errors[2] < errors[3]
    assert errors[2] < 0.04
    assert errors[3] < 0.1


class Constant:
    """One velocity everywhere: nothing is lost where it is not asked."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(patch_size=1, base_tokens=48)
        self.rows: list[int] = []
        self.levels: list[float] = []

    def text_keys_values(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(prompt_embeds, prompt_embeds)]

    def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
        self.rows.append(len(hidden_states) // 96)
        self.levels.append(float(levels[0]))
        return torch.ones_like(hidden_states)


def level_numbers(model: Constant) -> list[int]:
    """At which of 30 steps it was asked."""
    return [round(30 * (1 - level)) for level in model.levels]


def test_the_first_two_and_the_last_step_and_each_third_are_always_computed() -> None:
    model = Constant()
    plain = sampled(Constant(), CONFIG)
    assert torch.equal(sampled(model, replace(CONFIG, step_cache=0.01)), plain)
    assert level_numbers(model) == [0, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 29]
    few = Constant()
    sampled(few, replace(CONFIG, num_inference_steps=2, step_cache=0.9))
    assert len(few.levels) == 2


def test_other_rows_are_asked_anew() -> None:
    model = Constant()
    sampled(model, replace(CONFIG, guidance_scale=2.0, guidance_interval=(0.31, 0.71), step_cache=0.01))
    assert model.rows == [1] * 4 + [2] * 5 + [1] * 5
    assert level_numbers(model) == [0, 1, 4, 7, 9, 10, 13, 16, 19, 21, 22, 25, 28, 29]


def test_nothing_stays_from_one_window_to_the_next() -> None:
    model, config = Gaussian(NoiseConfig()), replace(CONFIG, step_cache=0.1)
    first = sampled(model, config)
    asked = len(model.calls)
    assert torch.equal(sampled(model, config), first)
    assert len(model.calls) == 2 * asked


def test_the_sample_that_changes_most_decides() -> None:
    """With a slope of 1, a change of what is seen is one of the output."""
    seen = torch.ones(2, 5, 3)
    last = next_call(next_call(None, seen, seen, (0,)), 2 * seen, 2 * seen, (0,))
    assert last.slope.tolist() == [1, 1]
    moved = 2 * seen
    moved[1] += 0.2  # a tenth of the output
    assert last.serves(moved, (0,), 0.11)
    assert not last.serves(moved, (0,), 0.09)
    assert not last.serves(moved, (0, 1), 0.11)
    assert not next_call(None, seen, seen, (0,)).serves(seen + 1, (0,), 0.9)
