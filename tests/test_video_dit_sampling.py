"""The sampler: known tokens stay, the others arrive at the data's distribution."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from packed import slices
from torch import Tensor

from video_dit import VideoDiT
from video_dit.noise import level_shift, sampling_levels
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.tokens import Segments, latent_times, patchify

SCHEDULER = FlowMatchEulerDiscreteScheduler()
FAST = SamplingConfig(num_inference_steps=3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def window(b: int = 2, known: tuple[int, ...] = (0, 3), size: tuple[int, int] = (4, 6), t: int = 4) -> Window:
    is_known = torch.zeros(t, dtype=torch.bool)
    is_known[list(known)] = True
    latents = torch.randn(b, 4, t, *size, generator=seeded(5))
    one_frame = torch.arange(t) == 0
    return Window(latents, is_known, latent_times(t, 8.0, 4, True), one_frame)


def prompts(b: int = 2, negative: bool = True) -> Prompts:
    """Prompts of 5, 2, 5, 2, … tokens; negative ones of 3."""
    g = seeded(6)
    embeds = [torch.randn((5, 2)[n % 2], 16, generator=g) for n in range(b)]
    positive = torch.cat(embeds), Segments.from_lengths([len(e) for e in embeds])
    if not negative:
        return Prompts(*positive)
    return Prompts(*positive, torch.randn(3 * b, 16, generator=g), Segments.from_lengths([3] * b))


class Toy:
    """The exact velocity of data of independent values, normal with ``mean`` and ``std``; records its calls.

    At level t a value is normal with mean (1 - t)·mean and variance V = (1 - t)²·std² + t²; given it,
    noise and data have means t / V and (1 - t)·std² / V times its distance from that mean, the latter plus
    ``mean``.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.std = mean, std
        self.config = SimpleNamespace(patch_size=2, base_tokens=4)
        self.calls: list[dict[str, Any]] = []

    def text_keys_values(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(prompt_embeds, prompt_embeds)]

    def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
        self.calls.append({"tokens": hidden_states.clone(), "levels": levels[level_index], **rest})
        t = levels[level_index][:, None]
        variance = (1 - t) ** 2 * self.std**2 + t**2
        return (t - (1 - t) * self.std**2) / variance * (hidden_states - (1 - t) * self.mean) - self.mean


@pytest.mark.parametrize(("mean", "std"), [(1.5, 0.5), (-0.3, 1.2)])
def test_the_distribution_of_the_data_is_reached(mean: float, std: float) -> None:
    toy, big = Toy(mean, std), window(b=8, known=(), size=(16, 16))
    toy.config.base_tokens = 256  # no shift
    errors = []
    for steps in (10, 50):
        config = SamplingConfig(steps, guidance_scale=1.0)
        made = sample_window(toy, SCHEDULER, big, prompts(8), config, seeded(0))
        assert float(made.mean()) == pytest.approx(mean, abs=0.03)
        errors.append(abs(float(made.std()) - std) / std)
    assert errors[1] < 0.03
    assert errors[1] < errors[0] / 3  # Euler is of first order


def test_the_first_velocity_at_pure_noise_leads_to_the_mean() -> None:
    """A single step from level 1: the best guess without any knowledge is the data's mean."""
    config = SamplingConfig(num_inference_steps=1, guidance_scale=1.0)
    made = sample_window(Toy(1.5, 0.5), SCHEDULER, window(known=()), prompts(), config, seeded(0))
    assert torch.allclose(made, torch.full_like(made, 1.5), atol=1e-5)


def test_known_latents_come_back_bit_for_bit(tiny_dit: VideoDiT) -> None:
    w = window()
    out = sample_window(tiny_dit, SCHEDULER, w, prompts(), FAST, seeded(0))
    assert out.shape == w.latents.shape
    assert out.dtype == torch.float32
    assert torch.equal(out[:, :, w.known], w.latents[:, :, w.known])
    assert not torch.allclose(out[:, :, ~w.known], w.latents[:, :, ~w.known], atol=0.1)
    assert out.isfinite().all()


def test_the_window_is_left_as_it_is() -> None:
    """With patches of one its tokens are its latents, seen another way."""
    toy, w = Toy(), window()
    toy.config.patch_size = 1
    before = w.latents.clone()
    sample_window(toy, SCHEDULER, w, prompts(), FAST, seeded(0))
    assert torch.equal(w.latents, before)


def test_tokens_may_be_known_one_by_one(tiny_dit: VideoDiT) -> None:
    """Whole latent frames known are all of their tokens known; and of some only those stay."""
    w, by_token = window(), torch.zeros(4, 2, 3, dtype=torch.bool)
    by_token[[0, 3]] = True
    frames, tokens = (
        sample_window(tiny_dit, SCHEDULER, replace(w, known=known), prompts(), FAST, seeded(0))
        for known in (w.known, by_token)
    )
    assert torch.equal(frames, tokens)
    by_token[2, 1, 2] = True
    out = sample_window(tiny_dit, SCHEDULER, replace(w, known=by_token), prompts(), FAST, seeded(0))
    kept = by_token.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).expand_as(out)
    assert torch.equal(out[kept], w.latents[kept])
    assert float((out - w.latents)[~kept].abs().min()) > 0


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.95])
def test_what_is_made_begins_from_the_latents_with_noise(strength: float) -> None:
    toy, w = Toy(), window(known=())
    sample_window(toy, SCHEDULER, replace(w, strength=strength), prompts(), SamplingConfig(10, 1.0), seeded(0))
    levels = torch.stack([call["levels"].max() for call in toy.calls])
    expected = sampling_levels(10, level_shift(24, 4), strength)
    assert torch.allclose(levels, expected) and len(levels) == round(10 * strength)
    drawn = torch.randn(2, 24, 16, generator=seeded(0))
    began = (1 - expected[0]) * patchify(w.latents, 2) + expected[0] * drawn
    assert torch.allclose(toy.calls[0]["tokens"].view_as(began), began, atol=1e-5)


def test_a_strength_of_1_forgets_the_latents(tiny_dit: VideoDiT) -> None:
    w = window(known=())
    whole = sample_window(tiny_dit, SCHEDULER, replace(w, strength=1.0), prompts(), FAST, seeded(0))
    nothing = replace(w, latents=torch.zeros_like(w.latents))
    assert torch.equal(whole, sample_window(tiny_dit, SCHEDULER, nothing, prompts(), FAST, seeded(0)))


def test_latents_are_read_only_where_known(tiny_dit: VideoDiT) -> None:
    w = window()
    other = w.latents.clone()
    other[:, :, ~w.known] = float("nan")
    a, b = (
        sample_window(tiny_dit, SCHEDULER, Window(x, w.known, w.times, w.one_frame), prompts(), FAST, seeded(0))
        for x in (w.latents, other)
    )
    assert torch.equal(a, b)


def test_the_generator_decides_alone(tiny_dit: VideoDiT) -> None:
    outs = [sample_window(tiny_dit, SCHEDULER, window(), prompts(), FAST, seeded(s)) for s in (0, 0, 1)]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_guidance_scale_one_is_no_guidance(tiny_dit: VideoDiT) -> None:
    config = SamplingConfig(num_inference_steps=3, guidance_scale=1.0)
    guided, plain = (
        sample_window(tiny_dit, SCHEDULER, window(), prompts(negative=n), config, seeded(0)) for n in (True, False)
    )
    assert torch.allclose(guided, plain, atol=1e-4)
    strong = sample_window(tiny_dit, SCHEDULER, window(), prompts(), FAST, seeded(0))
    assert not torch.allclose(strong, plain, atol=1e-2)


@pytest.mark.parametrize(("known", "scale"), [((), 4.0), ((0,), 1.5), ((0, 3), 1.5)])
def test_what_is_known_is_gone_on_with_under_less_guidance(
    tiny_dit: VideoDiT, known: tuple[int, ...], scale: float
) -> None:
    by_default, told = (
        sample_window(tiny_dit, SCHEDULER, window(known=known), prompts(), SamplingConfig(3, asked), seeded(0))
        for asked in (None, scale)
    )
    assert torch.equal(by_default, told)


def test_guidance_leads_from_the_negative_to_the_prompt_and_beyond() -> None:
    """A model whose velocity is the mean of the prompt: one step gives noise minus the guided mean."""

    class Mean(Toy):
        def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
            means = [rest["prompt_embeds"][0][0][part].mean() for part in slices(rest["prompt_segments"])]
            lengths = rest["segments"].cu_seqlens.diff()
            return torch.stack(means).repeat_interleave(lengths)[:, None].expand(-1, 16)

    p = prompts()
    config = SamplingConfig(num_inference_steps=1, guidance_scale=3.0)
    out = sample_window(Mean(), SCHEDULER, window(known=()), p, config, seeded(0))
    noise = sample_window(Mean(), SCHEDULER, window(known=()), prompts_of_zeros(p), config, seeded(0))
    for n in range(2):
        positive = p.embeds[slices(p.segments)[n]].mean()
        negative = p.negative_embeds[slices(p.negative_segments)[n]].mean()
        expected = negative + 3 * (positive - negative)
        assert torch.allclose(noise[n] - out[n], expected.expand_as(out[n]), atol=1e-5)


def prompts_of_zeros(p: Prompts) -> Prompts:
    assert p.negative_embeds is not None
    zeros = torch.zeros_like(p.embeds), torch.zeros_like(p.negative_embeds)
    return Prompts(zeros[0], p.segments, zeros[1], p.negative_segments)


@pytest.mark.parametrize("known", [(), (0, 3)])
def test_a_batch_equals_each_sample_alone(tiny_dit: VideoDiT, known: tuple[int, ...]) -> None:
    w, p = window(known=known), prompts()
    both = sample_window(tiny_dit, SCHEDULER, w, p, FAST, [seeded(0), seeded(1)])
    for n in range(2):
        alone = sample_window(
            tiny_dit,
            SCHEDULER,
            Window(w.latents[n : n + 1], w.known, w.times, w.one_frame),
            Prompts(
                p.embeds[slices(p.segments)[n]],
                Segments.from_lengths([(5, 2)[n]]),
                p.negative_embeds[3 * n : 3 * n + 3],
                Segments.from_lengths([3]),
            ),
            FAST,
            [seeded(n)],
        )
        assert torch.allclose(both[n], alone[0], atol=1e-4 * float(alone.abs().max()))


def test_what_the_model_is_shown() -> None:
    """Context at its level, the same at every step; the others on their way down from pure noise."""
    toy, w = Toy(), window()
    config = SamplingConfig(num_inference_steps=4, guidance_scale=2.0, context_level=0.2)
    sample_window(toy, SCHEDULER, w, prompts(), config, seeded(0))
    known = w.known.repeat_interleave(6).repeat(4)  # 2 samples, 2 rows of guidance
    clean = patchify(w.latents, 2).repeat(2, 1, 1).flatten(0, 1)
    assert len(toy.calls) == 4
    first = toy.calls[0]["tokens"]
    noise = (first[known] - 0.8 * clean[known]) / 0.2
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert abs(float(noise.mean())) < 0.1
    assert abs(float((noise * clean[known]).mean())) < 0.15  # and it is not the latents themselves
    expected = sampling_levels(4, level_shift(24, 4))
    for call, level in zip(toy.calls, expected, strict=True):
        assert torch.equal(call["tokens"][known], first[known])
        assert torch.allclose(call["levels"], torch.where(known, 0.2, level), atol=1e-5)
        assert torch.equal(call["tokens"][:48], call["tokens"][48:])  # the rows of guidance see the same
        assert call["segments"].cu_seqlens.diff().tolist() == [24] * 4
        assert call["prompt_segments"].cu_seqlens.diff().tolist() == [5, 2, 3, 3]
        assert call["one_frame"].tolist() == ([True] * 6 + [False] * 18) * 4
        assert torch.equal(call["coords"][::6][:, 0], w.times.repeat(4))


def test_context_level_zero_shows_the_latents_themselves() -> None:
    toy, w = Toy(), window()
    sample_window(toy, SCHEDULER, w, prompts(), SamplingConfig(2, 1.0, 0.0), seeded(0))
    shown = toy.calls[0]["tokens"].view(2, 24, 16)
    assert torch.equal(shown[:, w.known.repeat_interleave(6)], patchify(w.latents[:, :, w.known], 2))


def test_levels_fall_from_one() -> None:
    for steps, shift in ((1, 1.0), (7, 1.0), (30, 3.0)):
        levels = sampling_levels(steps, shift)
        assert levels.shape == (steps,)
        assert levels[0] == 1
        assert (levels.diff() < 0).all()
        assert levels[-1] > 0
    assert torch.allclose(sampling_levels(4, 1.0), torch.tensor([1, 0.75, 0.5, 0.25]))
    tops = [sampling_levels(4, level_shift(n, 36)).max() for n in range(16, 1400)]
    assert max(tops) == 1  # rounding to more would be the logarithm of a negative number in DPM++


def test_the_callback_sees_each_step_and_may_change_the_tokens() -> None:
    seen: list[tuple[int, float]] = []

    def on_step(number: int, timestep: Tensor, tokens: Tensor) -> Tensor:
        seen.append((number, float(timestep)))
        assert tokens.shape == (2, 12, 16)
        return torch.zeros_like(tokens) if number == 2 else tokens

    w = window()
    out = sample_window(Toy(), SCHEDULER, w, prompts(), FAST, seeded(0), on_step)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert seen[0][1] == pytest.approx(1000)
    assert not out[:, :, ~w.known].any()
    assert torch.equal(out[:, :, w.known], w.latents[:, :, w.known])


def test_the_scheduler_given_stays_as_it_was(tiny_dit: VideoDiT) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    before = scheduler.timesteps.clone()
    sample_window(tiny_dit, scheduler, window(), prompts(), FAST, seeded(0))
    assert torch.equal(scheduler.timesteps, before)


def test_steps_follow_the_straight_path() -> None:
    """Where the velocity is that of one known clip, steps stay on its straight path and end there."""
    target = torch.randn(48, 16, generator=seeded(9))

    class One(Toy):
        def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
            level = levels[level_index][:, None]
            velocity = (hidden_states - target) / level
            assert torch.allclose(hidden_states - level * velocity, target, atol=1e-4)
            return velocity

    config = SamplingConfig(num_inference_steps=5, guidance_scale=1.0)
    out = sample_window(One(), SCHEDULER, window(known=()), prompts(negative=False), config, seeded(0))
    assert torch.allclose(patchify(out, 2).flatten(0, 1), target, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be at least 1"),
        ({"history_guidance": 0.5}, r"history_guidance=0.5 must be 1 \(no guidance\) or more"),
        ({"guidance_scale": 0.5}, r"guidance_scale=0.5 must be 1 \(no guidance\) or more"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be 1"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf must be 1"),
        ({"context_level": -0.1}, r"context_level=-0.1 must be in \[0, 1\)"),
        ({"context_level": 1.0}, r"context_level=1.0 must be in \[0, 1\)"),
        ({"context_level": float("nan")}, r"context_level=nan must be in \[0, 1\)"),
        ({"history_guidance": 0.5}, r"history_guidance=0.5 must be 1 \(no guidance\) or more"),
        ({"history_guidance": float("inf")}, "history_guidance=inf must be 1"),
        (
            {"guidance_interval": (0.5, 0.5)},
            r"guidance_interval=\(0.5, 0.5\) must be two levels, low and high, with",
        ),
        ({"guidance_interval": (-0.1, 0.5)}, r"guidance_interval=\(-0.1, 0.5\) must be two levels"),
        ({"guidance_interval": (0.2, 1.5)}, r"guidance_interval=\(0.2, 1.5\) must be two levels"),
        ({"guidance_interval": (float("nan"), 1.0)}, r"guidance_interval=\(nan, 1.0\) must be two levels"),
        ({"guidance_interval": (0.1, 0.2, 0.3)}, "must be two levels"),
        ({"step_cache": -0.1}, r"step_cache=-0.1 must be in \[0, 1\): 0 is off"),
        ({"step_cache": 1.0}, r"step_cache=1.0 must be in \[0, 1\)"),
        ({"step_cache": float("nan")}, "step_cache=nan must be in"),
    ],
)
def test_settings_out_of_range_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**option)
