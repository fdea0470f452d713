"""Guidance: what each row is shown, when it acts, and what the rows make together."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from video_dit import VideoDiT, VideoPipeline, guidance
from video_dit.noise import sampling_levels
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.tokens import Segments, latent_times, patchify

SCHEDULER = FlowMatchEulerDiscreteScheduler()
CONFIG = SamplingConfig(num_inference_steps=4, guidance_scale=3.0, context_level=0.1)


def window(known: tuple[int, ...] = (0, 3)) -> Window:
    """4 latent frames of 6 tokens, of 2 samples."""
    is_known = torch.zeros(4, dtype=torch.bool)
    is_known[list(known)] = True
    latents = torch.randn(2, 4, 4, 4, 6, generator=torch.Generator().manual_seed(5))
    return Window(latents, is_known, latent_times(4, 8.0, 4, True), torch.arange(4) == 0)


def prompts() -> Prompts:
    """Of 2 and 3 tokens, negative ones of 1 and 4."""
    embeds = torch.randn(10, 16, generator=torch.Generator().manual_seed(6))
    return Prompts(embeds[:5], Segments.from_lengths([2, 3]), embeds[5:], Segments.from_lengths([1, 4]))


def made(model: Any, config: SamplingConfig, known: tuple[int, ...] = (0, 3), scheduler: Any = SCHEDULER) -> Tensor:
    return sample_window(model, scheduler, window(known), prompts(), config, torch.Generator().manual_seed(0))


class Telling:
    """Its velocity is the mean of a sample's text, plus 100 where the context is shown at level 1."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(patch_size=2, base_tokens=24)
        self.calls: list[dict[str, Any]] = []
        self.projected = 0

    def text_keys_values(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        self.projected += 1
        return [(prompt_embeds, 2 * prompt_embeds)]

    def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
        shown = {"tokens": hidden_states.unflatten(0, (-1, 24)), "levels": levels[level_index].unflatten(0, (-1, 24))}
        self.calls.append(shown | rest)
        ((keys, values),) = rest["prompt_embeds"]
        assert torch.equal(values, 2 * keys)
        texts = keys.split(rest["prompt_segments"].lengths)
        lost = shown["levels"][:, 0] == 1
        means = torch.stack([text.mean() for text in texts]) + 100 * lost
        return means.repeat_interleave(24)[:, None].expand(-1, 16)


def velocities(model: Telling, config: SamplingConfig, known: tuple[int, ...] = (0, 3)) -> Tensor:
    """The guided velocity of each sample in one step from level 1, ``(b,)``."""
    config = replace(config, num_inference_steps=1)
    noise = torch.Generator().manual_seed(0)
    if known:
        torch.randn(2, 6 * len(known), 16, generator=noise)
    start = torch.randn(2, 24 - 6 * len(known), 16, generator=noise)
    free = ~window(known).known
    change = start - patchify(made(model, config, known)[:, :, free], 2)
    assert torch.allclose(change, change[:, :1, :1].expand_as(change), atol=1e-3)
    return change[:, 0, 0]


def test_rows_lead_away_from_what_they_stand_for() -> None:
    p = prompts()
    assert p.negative_embeds is not None
    positive = torch.stack([p.embeds[:2].mean(), p.embeds[2:].mean()])
    negative = torch.stack([p.negative_embeds[:1].mean(), p.negative_embeds[1:].mean()])
    by_text = positive + 2 * (positive - negative)
    assert torch.allclose(velocities(Telling(), CONFIG), by_text, atol=1e-4)
    both = replace(CONFIG, history_guidance=1.5)
    assert torch.allclose(velocities(Telling(), both), by_text - 0.5 * 100, atol=1e-3)
    history = replace(both, guidance_scale=1.0)
    assert torch.allclose(velocities(Telling(), history), positive - 0.5 * 100, atol=1e-3)


@pytest.mark.parametrize("context_level", [0.1, 0.0])
def test_history_guidance_adds_a_row_whose_context_is_noise(context_level: float) -> None:
    model, config = Telling(), replace(CONFIG, history_guidance=2.0, context_level=context_level)
    made(model, config)
    known = window().known.repeat_interleave(6)
    clean = patchify(window().latents, 2)[:, known]
    for call in model.calls:
        tokens, levels = call["tokens"].unflatten(0, (3, 2)), call["levels"].unflatten(0, (3, 2))
        assert torch.equal(tokens[0], tokens[1])
        assert torch.equal(tokens[2][:, ~known], tokens[0][:, ~known])
        assert (levels[:2, :, known] == torch.tensor(context_level)).all()
        assert (levels[2, :, known] == 1).all()
        noise = tokens[2][:, known]
        assert float(noise.std()) == pytest.approx(1, abs=0.1)
        assert abs(float((noise * clean).mean())) < 0.15
        shown = (1 - context_level) * clean + context_level * noise
        assert torch.allclose(tokens[0][:, known], shown, atol=1e-5)
        assert call["prompt_segments"].lengths == [2, 3, 1, 4, 2, 3]


def test_the_noise_of_history_is_that_of_the_path() -> None:
    model = Telling()
    made(model, replace(CONFIG, history_guidance=2.0), scheduler=DDIMScheduler(clip_sample=False))
    known = window().known.repeat_interleave(6)
    shown = model.calls[0]["tokens"].unflatten(0, (3, 2))[2][:, known]
    clean = patchify(window().latents, 2)[:, known]
    left = DDIMScheduler().alphas_cumprod[-1].sqrt()
    drawn = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(shown, left * clean + (1 - left**2).sqrt() * drawn, atol=1e-5)


def test_guidance_of_a_model_whose_blocks_wait_on_disk(tiny_dit: VideoDiT, tmp_path: Path) -> None:
    """Their weights are there for their own forward alone, so nothing is made of the text before."""
    config, cpu = replace(CONFIG, guidance_scale=3.0), torch.device("cpu")
    expected = made(tiny_dit, config)
    tiny_dit.enable_group_offload(cpu, cpu, "block_level", num_blocks_per_group=1, offload_to_disk_path=str(tmp_path))
    assert torch.equal(made(tiny_dit, config), expected)


def test_no_row_of_history_without_context() -> None:
    model, plain = Telling(), Telling()
    with_history = made(model, replace(CONFIG, history_guidance=2.0), known=())
    assert torch.equal(with_history, made(plain, CONFIG, known=()))
    assert all(len(call["tokens"]) == 4 for call in model.calls)


def test_outside_of_the_interval_the_prompt_alone_is_asked() -> None:
    levels = sampling_levels(4, 1.0)  # 1, 0.75, 0.5, 0.25
    for interval, guided in (
        ((0.4, 0.8), [False, True, True, False]),
        ((0.0, 1.0), [True] * 4),
        ((0.9, 1.0), [True, *[False] * 3]),
    ):
        model = Telling()
        made(model, replace(CONFIG, guidance_interval=interval))
        assert [len(call["tokens"]) == 4 for call in model.calls] == guided
        assert model.projected == 2
        for call, level in zip(model.calls, levels, strict=True):
            assert call["prompt_segments"].lengths[:2] == [2, 3]
            assert torch.allclose(call["levels"][:, 6], level)


def test_the_interval_decides_when_guidance_acts(tiny_dit: VideoDiT) -> None:
    """Within a lower interval the first steps are those without guidance; over no step at all, all of them."""
    plain = made(tiny_dit, replace(CONFIG, guidance_scale=1.0))
    never = made(tiny_dit, replace(CONFIG, guidance_interval=(0.0, 0.01)))
    late = made(tiny_dit, replace(CONFIG, guidance_interval=(0.0, 0.6)))
    throughout = made(tiny_dit, CONFIG)
    assert torch.equal(never, plain)
    assert not torch.allclose(late, plain, atol=1e-2)
    assert not torch.allclose(late, throughout, atol=1e-2)


@pytest.mark.parametrize("history", [1.0, 1.5])
def test_rows_apart_are_rows_packed(tiny_dit: VideoDiT, monkeypatch: pytest.MonkeyPatch, history: float) -> None:
    lengths: list[int] = []
    tiny_dit.register_forward_pre_hook(lambda module, given: lengths.append(len(given[0])))
    config, outs = replace(CONFIG, history_guidance=history), []
    for most in (1 << 20, 0):
        monkeypatch.setattr(guidance, "PACKED_TOKENS", most)
        outs.append(made(tiny_dit, config))
    rows = 2 if history == 1 else 3
    assert lengths == [48 * rows] * 4 + [48] * (4 * rows)
    assert torch.allclose(outs[0], outs[1], atol=1e-4 * float(outs[0].abs().max()))


def test_the_text_is_projected_once_a_window(tiny_dit: VideoDiT) -> None:
    calls: list[int] = []
    tiny_dit.blocks[0].cross_attn.to_k.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))  # type: ignore[union-attr]
    for steps in (2, 6):
        calls.clear()
        made(tiny_dit, replace(CONFIG, num_inference_steps=steps, history_guidance=2.0))
        assert calls == [5, 5]
    made(tiny_dit, replace(CONFIG, guidance_scale=1.0))
    assert calls == [5, 5, 5]


def test_a_cache_of_diffusers_leaves_blocks_out_and_is_told_of_each_window(tiny_pipe: VideoPipeline) -> None:
    """Windows of other numbers of tokens follow one another, with two rows each."""

    def video() -> Tensor:
        options: dict[str, Any] = {
            "num_inference_steps": 6,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(0),
        }
        return tiny_pipe("0: a ball | 1: a cube", num_frames=33, height=32, width=32, **options).frames

    ran: list[int] = []
    plain = video()
    tiny_pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert torch.equal(video(), plain)
    tiny_pipe.transformer.disable_cache()
    tiny_pipe.transformer.blocks[1].cross_attn.to_q.register_forward_hook(lambda *_: ran.append(1))
    video()
    always = len(ran)
    tiny_pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    first, second = video(), video()
    assert len(ran) < 2 * always and torch.equal(first, second) and not torch.equal(first, plain)
    tiny_pipe.transformer.disable_cache()
    assert torch.equal(video(), plain)
