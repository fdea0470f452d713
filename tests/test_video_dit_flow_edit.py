"""What is edited by the difference of two prompts: it goes where they differ, and nowhere else."""

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor

from video_dit import VideoPipeline
from video_dit.flow_edit import edit_window
from video_dit.given import given_request
from video_dit.noise import NoiseConfig, alpha, path_alphas_cumprod, prediction_target, sigma
from video_dit.pieces import check_starts
from video_dit.request import PromptSchedule, VideoRequest
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.schedulers import model_scheduler, named_scheduler, ready_scheduler
from video_dit.tokens import Segments, latent_times

PATHS = [
    NoiseConfig(),
    NoiseConfig(path="vp", schedule="scaled_linear", prediction="epsilon"),
    NoiseConfig(path="vp", schedule="cosine", prediction="v_prediction"),
]
# diffusers' solvers hand a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

OLD, NEW, NONE = (torch.tensor([[value, 0.0, -value, 1.0]]) for value in (-0.5, 1.0, 0.25))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OnePoint:
    """Knows data of one token, the embedding of its prompt, whatever it is shown; records what that is."""

    def __init__(self, noise: NoiseConfig) -> None:
        self.noise, self.path = noise, path_alphas_cumprod(noise)
        self.config = SimpleNamespace(patch_size=1, base_tokens=16)
        self.shown: list[tuple[float, Tensor]] = []

    def text_keys_values(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(prompt_embeds, prompt_embeds)]

    def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
        texts = rest["prompt_embeds"][0][0]  # a token each
        self.shown += [
            (float(text[0]), part) for text, part in zip(texts, hidden_states.chunk(len(texts)), strict=True)
        ]
        latents = texts.repeat_interleave(len(hidden_states) // len(texts), dim=0)
        level = levels[level_index][:, None].clamp_min(1e-6)
        epsilon = (hidden_states - alpha(level, self.path) * latents) / sigma(level, self.path)
        return prediction_target(self.noise.prediction, latents, epsilon, level, self.path)


def prompts() -> Prompts:
    one = Segments.from_lengths([1])
    return Prompts(NEW, one, NONE, one, source=Prompts(OLD, one))


def window(known: int = 2, strength: float = 0.7) -> Window:
    latents = torch.randn(1, 4, 5, 4, 4, generator=seeded(1))
    source = torch.randn(1, 4, 5, 4, 4, generator=seeded(2))
    given = torch.arange(5) < known
    return Window(latents, given, latent_times(5, 8.0, 4, True), torch.arange(5) == 0, 0, strength, source)


def edited(model: OnePoint, asked: Window, config: SamplingConfig, scheduler: str | None = None) -> Tensor:
    own = model_scheduler(model.noise)
    stepping = named_scheduler(scheduler, own) if scheduler else own
    return edit_window(model, stepping, asked, prompts(), config, seeded(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 3.0, None])
@pytest.mark.parametrize("noise", PATHS, ids=lambda noise: f"{noise.path} {noise.schedule}")
def test_what_is_given_moves_by_what_the_prompts_differ_in(noise: NoiseConfig, scale: float | None) -> None:
    """Wherever it is, and in however many steps: the flow of one point is straight. What is known stays, and weakens
    no guidance."""
    asked = window()
    assert asked.source is not None
    guided = NEW + ((4.0 if scale is None else scale) - 1) * (NEW - NONE)
    for steps in (3, 10):
        out = edited(OnePoint(noise), asked, SamplingConfig(steps, scale))
        assert torch.equal(out[:, :, :2], asked.latents[:, :, :2])
        wanted = asked.source[:, :, 2:] + (guided - OLD).view(1, 4, 1, 1, 1)
        assert torch.allclose(out[:, :, 2:], wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("noise", "scheduler"),
    [
        *((PATHS[0], name) for name in ("heun", "unipc", "dpm++")),
        *((PATHS[1], name) for name in ("ddpm", "pndm", "euler-ancestral", "unipc", "dpm++")),
    ],
    ids=str,
)
def test_it_takes_the_levels_of_any_scheduler(noise: NoiseConfig, scheduler: str) -> None:
    model, own = OnePoint(noise), OnePoint(noise)
    out = edited(model, window(), SamplingConfig(5, 1.0), scheduler)
    assert torch.allclose(out, edited(own, window(), SamplingConfig(5, 1.0)), atol=1e-4)
    assert abs(len(model.shown) - len(own.shown)) <= 2  # of the vp path each has timesteps of its own
    assert noise.path == "vp" or len(model.shown) == len(own.shown)


def test_each_prompt_sees_its_own_context_and_both_the_same_noise() -> None:
    asked, model = window(), OnePoint(NoiseConfig())
    assert asked.source is not None
    edited(model, asked, SamplingConfig(4, 2.0, context_level=0.0))
    of = {float(text[0, 0]): [part for value, part in model.shown if value == float(text[0, 0])] for text in (OLD, NEW)}
    contexts = [latents[:, :, :2].flatten(2)[0].T for latents in (asked.source, asked.latents)]
    for shown, context in zip(of.values(), contexts, strict=True):
        assert len(shown) == 3  # 0.7 of 4 steps
        assert all(torch.equal(part[:32], context) for part in shown)
    old, new = (torch.stack(parts)[:, 32:] for parts in of.values())
    assert torch.equal(old[0], new[0])  # nothing is changed before the first step
    assert not torch.allclose(old[1:], new[1:])
    hidden = edited(OnePoint(NoiseConfig()), replace(asked, latents=asked.source), SamplingConfig(4, 2.0))
    assert torch.equal(hidden[:, :, :2], asked.source[:, :, :2])


def test_contexts_that_are_the_same_are_shown_the_same() -> None:
    model, asked = OnePoint(NoiseConfig()), window()
    assert asked.source is not None
    edited(model, replace(asked, latents=asked.source), SamplingConfig(4, 1.0, context_level=0.3))
    contexts = torch.stack([part[:32] for _, part in model.shown])
    assert torch.equal(contexts, contexts[:1].expand_as(contexts))


def test_the_noise_is_new_at_each_step() -> None:
    model, asked = OnePoint(NoiseConfig()), window(known=0)
    assert asked.source is not None
    edited(model, asked, SamplingConfig(4, 1.0))
    given = asked.source.flatten(2)[0].T
    (_, _, asked_levels) = ready_scheduler(model_scheduler(model.noise), 4, 80**0.5 / 4, torch.device("cpu"), 0.7)
    old = [part for value, part in model.shown if value == float(OLD[0, 0])]
    draws = [(part - (1 - level) * given) / level for part, level in zip(old, asked_levels, strict=True)]
    for number, draw in enumerate(draws):
        assert abs(float(draw.std()) - 1) < 0.2
        assert not any(torch.allclose(draw, other, atol=0.1) for other in draws[:number])


@pytest.mark.parametrize("noise", PATHS, ids=lambda noise: f"{noise.path} {noise.schedule}")
def test_callbacks_see_each_step_as_other_edits_do_and_may_change_what_is_made(noise: NoiseConfig) -> None:
    seen: list[tuple[int, float]] = []

    def on_step(number: int, timestep: Tensor, tokens: Tensor) -> Tensor:
        seen.append((number, float(timestep)))
        return torch.zeros_like(tokens)

    parts: Any = (OnePoint(noise), model_scheduler(noise), window(), prompts(), SamplingConfig(10, 1.0), seeded(0))
    out = edit_window(*parts, on_step)
    assert not out[:, :, 2:].any()
    own, seen = seen, []
    sample_window(*parts, on_step)
    assert own == seen and len(own) >= 7


def video(frames: int = 30) -> Tensor:
    """Of several windows of `tiny_pipe`."""
    return torch.randint(0, 256, (frames, 32, 32, 3), generator=seeded(3), dtype=torch.uint8)


def test_a_video_stays_where_its_own_prompt_is_the_new_one(tiny_pipe: VideoPipeline) -> None:
    how: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 1.0}
    same = tiny_pipe.edit(video(), 0.8, prompt="a ball", source_prompt="a ball", generator=seeded(0), **how).frames[0]
    codec = tiny_pipe.edit(video(), 0.0).frames[0]
    assert abs(same - codec).max() < 1e-5
    other = tiny_pipe.edit(video(), 0.8, prompt="a cube", source_prompt="a ball", generator=seeded(0), **how).frames[0]
    assert abs(other - codec).max() > 0.01


def test_only_what_is_masked_changes(tiny_pipe: VideoPipeline) -> None:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:, 16:] = True
    how: dict[str, Any] = {"num_inference_steps": 2, "generator": seeded(0), "mask": mask, "source_prompt": "a ball"}
    made = torch.as_tensor(tiny_pipe.edit(video(9), 0.8, prompt="a cube", **how).frames[0])
    assert torch.equal(made[:, :, :16].mul(255).round().to(torch.uint8), video(9)[:, :, :16])


def test_a_source_prompt_that_changes_begins_a_window(tiny_pipe: VideoPipeline) -> None:
    """17 frames are one window; a prompt that takes over at 1 s, told of either, makes two."""
    steps: dict[str, int] = {}
    for old, new in (("a ball", "a cube"), ("0: a ball | 1: a cone", "a cube"), ("a ball", "0: a cube | 1: a cone")):
        seen: list[int] = []

        def count(pipe: Any, number: int, timestep: Tensor, tensors: dict, seen: list[int] = seen) -> dict:
            seen.append(number)
            return tensors

        how: dict[str, Any] = {"num_inference_steps": 2, "callback_on_step_end": count}
        tiny_pipe.edit(video(17), 1.0, prompt=new, source_prompt=old, **how)
        steps[f"{old}, {new}"] = len(seen)
    assert list(steps.values()) == [2, 4, 4]


def test_a_cache_of_diffusers_keeps_the_prompts_apart(tiny_pipe: VideoPipeline) -> None:
    """In one step there is nothing to remember of either, and what is made of one does not serve the other."""
    how: dict[str, Any] = {
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "source_prompt": "a ball",
        "prompt": "a cube",
    }
    made = []
    for cached in (False, True):
        if cached:
            tiny_pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
        made.append(torch.as_tensor(tiny_pipe.edit(video(9), 1.0, generator=seeded(0), **how).frames[0]))
    assert torch.allclose(*made, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_the_bar_has_as_many_steps_as_are_taken(tiny_pipe: VideoPipeline, scheduler: str) -> None:
    bars: list[Any] = []
    bar = tiny_pipe.progress_bar
    tiny_pipe.scheduler = named_scheduler(scheduler, tiny_pipe.scheduler)
    tiny_pipe.progress_bar = lambda **named: bars.append(bar(**named)) or bars[-1]  # type: ignore[method-assign]
    tiny_pipe.set_progress_bar_config(disable=False, file=io.StringIO())
    tiny_pipe.edit(video(9), 0.8, prompt="a cube", source_prompt="a ball", num_inference_steps=5)
    assert [(one.n, one.total) for one in bars] == [(4, 4)]


def test_what_does_not_go_with_it_is_refused(tiny_pipe: VideoPipeline) -> None:
    with pytest.raises(ValueError, match="step_cache does not go with source_prompt"):
        tiny_pipe.edit(video(9), 0.8, prompt="a", source_prompt="b", step_cache=0.1)
    with pytest.raises(ValueError, match="source_prompt does not go with mode=text"):
        told = PromptSchedule.plain("a"), PromptSchedule.plain("b")
        VideoRequest("text", told[:1], ("",), 8.0, SamplingConfig(), num_frames=9, source_prompt=told[1])
    late = replace(
        given_request("edit", video(9), 8.0, {"prompt": "a"}, source_prompt="0: b | 2: c"), height=32, width=32
    )
    with pytest.raises(ValueError, match=r"the prompt 'c' begins at 2 s: the video goes from 0 to 1\.125 s"):
        check_starts(late, 4)
