"""Which prompts and which noise a window of a request has."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from video_dit import VideoDiT, VideoPipeline
from video_dit.denoising import prompts_at, window_denoiser
from video_dit.request import PromptSchedule, VideoRequest
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.text import encode_prompts
from video_dit.tokens import latent_times


def request(*prompts: str, guidance_scale: float = 2.0, **changed: Any) -> VideoRequest:
    schedules = tuple(PromptSchedule.parse(text) for text in prompts)
    sampling = SamplingConfig(2, guidance_scale)
    size = {"num_frames": 81, "height": 32, "width": 32}
    return VideoRequest("text", schedules, ("",) * len(prompts), 8.0, sampling, **(size | changed))


@pytest.fixture
def calls(tiny_pipe: VideoPipeline) -> list[int]:
    """Prompts in each call of the text encoder."""
    seen: list[int] = []
    tiny_pipe.text_encoder.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(len(out.last_hidden_state)), with_kwargs=True
    )
    return seen


@torch.no_grad()
def test_each_text_is_encoded_once_and_holds_from_its_start(tiny_pipe: VideoPipeline, calls: list[int]) -> None:
    at = prompts_at(request("0: a | 2: b", "c"), tiny_pipe.tokenizer, tiny_pipe.text_encoder)
    early, late = at(0.0), at(2.0)
    assert at(1.9).embeds is early.embeds
    assert at(50.0).embeds is late.embeds
    assert early.negative_embeds is late.negative_embeds
    assert calls == [2, 2, 2]  # of each time, and the negative ones
    for found, texts in ((early, ["a", "c"]), (late, ["b", "c"])):
        expected, segments = encode_prompts(tiny_pipe.tokenizer, tiny_pipe.text_encoder, texts)
        assert torch.equal(found.embeds, expected)
        assert found.segments.lengths == segments.lengths
        assert found.negative_segments is not None
        assert found.negative_segments.count == 2


@torch.no_grad()
def test_without_guidance_there_is_no_negative_text(tiny_pipe: VideoPipeline) -> None:
    at = prompts_at(request("a", guidance_scale=1.0), tiny_pipe.tokenizer, tiny_pipe.text_encoder)
    assert at(0.0).negative_embeds is None


@torch.no_grad()
def test_what_is_encoded_already_is_taken_as_it_is(tiny_pipe: VideoPipeline, calls: list[int]) -> None:
    whole = prompts_at(request("a"), tiny_pipe.tokenizer, tiny_pipe.text_encoder)(0.0)
    calls.clear()
    for given in (whole, Prompts(whole.embeds, whole.segments)):
        found = prompts_at(request("", encoded=given), tiny_pipe.tokenizer, tiny_pipe.text_encoder)(0.0)
        assert found.embeds is whole.embeds
        assert found.negative_embeds is not None
        assert whole.negative_embeds is not None
        assert torch.equal(found.negative_embeds, whole.negative_embeds)
    assert calls == [1]  # the negative one that was not given


def keep(number: int, timestep: Tensor, tokens: Tensor) -> Tensor:
    return tokens


@pytest.mark.parametrize(("frame", "start"), [(0, 0), (1, 1), (5, 2), (33, 9)])
@torch.no_grad()
def test_a_window_begins_from_its_part_of_the_noise(
    tiny_pipe: VideoPipeline, tiny_dit: VideoDiT, frame: int, start: int
) -> None:
    noise = torch.randn(1, 4, 21, 4, 4, generator=torch.Generator().manual_seed(0))
    asked = request("a", latents=noise)
    at = prompts_at(asked, tiny_pipe.tokenizer, tiny_pipe.text_encoder)
    known = torch.tensor([True, True, False, False, False])
    window = Window(torch.zeros(1, 4, 5, 4, 4), known, latent_times(5, 8.0, 4, False), torch.zeros(5, dtype=torch.bool))
    denoise: Callable[[Window, int], Tensor] = window_denoiser(asked, tiny_dit, tiny_pipe.scheduler, at, 4, keep)
    torch.manual_seed(0)
    made = denoise(window, frame)
    torch.manual_seed(0)
    part = noise[:, :, start : start + 3]
    expected = sample_window(tiny_dit, tiny_pipe.scheduler, window, at(0), asked.sampling, None, keep, part)
    assert torch.equal(made, expected)
    assert not torch.allclose(sample_window(tiny_dit, tiny_pipe.scheduler, window, at(0), asked.sampling), made)
