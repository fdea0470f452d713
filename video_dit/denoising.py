"""What denoises the windows of a request, each under the prompts of its time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from video_dit.flow_edit import edit_window
from video_dit.inversion import invert_window
from video_dit.model import VideoDiT
from video_dit.request import PromptSchedule, VideoRequest
from video_dit.sampling import Prompts, StepCallback, Window, sample_window
from video_dit.text import encode_prompts, pack_embeds
from video_dit.tokens import Segments


def window_denoiser(
    request: VideoRequest,
    transformer: VideoDiT,
    scheduler: Any,
    prompts: Callable[[float], Prompts],
    r: int,
    on_step: StepCallback,
) -> Callable[[Window, int], Tensor]:
    """Makes a window and returns all its latents; told the number of the first frame that it makes in the whole
    video."""

    def denoise(window: Window, frame: int) -> Tensor:
        noise = None
        if request.latents is not None:
            start = 0 if frame == 0 else 1 + (frame - 1) // r
            noise = request.latents[:, :, start : start + int((~window.known).sum())]
        guided = prompts(frame / request.frame_rate)
        parts = transformer, scheduler, window, guided, request.sampling, request.generator, on_step
        return sample_window(*parts, noise) if guided.source is None else edit_window(*parts)

    return denoise


def window_inverter(
    request: VideoRequest,
    transformer: VideoDiT,
    scheduler: Any,
    prompts: Callable[[float], Prompts],
    on_step: Callable[[], None],
) -> Callable[[Window, int], Tensor]:
    """Finds the noise of a window, told the number of its first made frame in the whole video."""
    return lambda window, frame: invert_window(
        transformer,
        scheduler,
        window,
        prompts(frame / request.frame_rate),
        request.sampling,
        request.generator,
        on_step,
    )


def prompts_at(
    request: VideoRequest, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel
) -> Callable[[float], Prompts]:
    """A function of seconds in the whole video; each text is encoded once."""
    known: dict[tuple[str, ...], tuple[Tensor, Segments]] = {}

    def encoded(texts: tuple[str, ...]) -> tuple[Tensor, Segments]:
        if texts not in known:
            known[texts] = encode_prompts(tokenizer, encoder, texts)
        return known[texts]

    def at(seconds: float) -> Prompts:
        texts = tuple(schedule.at(seconds) for schedule in request.prompts)
        found = request.encoded or Prompts(*encoded(texts))
        if request.source_prompt is not None:
            found = replace(found, source=Prompts(*encoded((request.source_prompt.at(seconds),))))
        if request.sampling.guidance_scale == 1:
            return replace(found, negative_embeds=None, negative_segments=None)
        if found.negative_embeds is None:
            embeds, segments = encoded(tuple(request.negative_prompts))
            return replace(found, negative_embeds=embeds, negative_segments=segments)
        return found

    return at


def given_prompts(
    embeds: Tensor, mask: Tensor | None, negative: Tensor | None, negative_mask: Tensor | None, width: int, copies: int
) -> Prompts:
    """Padded embeddings ``(b, m, d_text)`` with their masks ``(b, m)``, and negative ones, as `Prompts`, ``copies`` of
    each.

    Raises:
        ValueError: the shapes do not fit one another, or the text that the model was trained with, ``width`` wide.
    """
    for name, one in (("prompt_embeds", embeds), ("negative_prompt_embeds", negative)):
        if one is not None and (one.ndim != 3 or one.shape[2] != width or len(one) != len(embeds)):
            raise ValueError(f"{name} of {tuple(one.shape)} must be ({len(embeds)}, m, {width})")
    positive = pack_embeds(embeds, mask, copies)
    return Prompts(*positive) if negative is None else Prompts(*positive, *pack_embeds(negative, negative_mask, copies))


def listed_prompts(
    prompt: str | PromptSchedule | Sequence[str | PromptSchedule] | None,
    negative_prompt: str | list[str],
    embeds: Tensor | None,
    mask: Tensor | None,
    negative: Tensor | None,
    negative_mask: Tensor | None,
    width: int,
    copies: int,
) -> tuple[list[str | PromptSchedule], list[str], Prompts | None]:
    """A prompt and a negative one for each video, ``copies`` of each, and what they are encoded as if that is given, as
    `given_prompts` takes it.

    Raises:
        ValueError: there is no copy, no prompt, or one in both forms; or the negative ones are not as many.
    """
    if copies < 1:
        raise ValueError(f"num_videos_per_prompt={copies} must be at least 1")
    if (prompt is None) == (embeds is None):
        raise ValueError("prompt and prompt_embeds exclude each other: give one")
    texts = [prompt] if isinstance(prompt, str | PromptSchedule) else list(prompt or [])
    encoded = None
    if embeds is not None:
        texts = [""] * len(embeds)
        encoded = given_prompts(embeds, mask, negative, negative_mask, width, copies)
    elif negative is not None:
        raise ValueError("negative_prompt_embeds go with prompt_embeds: give these as well, or negative_prompt")
    negatives = [negative_prompt] * len(texts) if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != len(texts):
        raise ValueError(f"negative_prompt has {len(negatives)} texts: give one text, or a list of {len(texts)}")
    return [one for one in texts for _ in range(copies)], [one for one in negatives for _ in range(copies)], encoded


def check_latents(latents: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless noise to begin from, if there is any, is finite and of this shape."""
    if latents is not None and latents.shape != shape:
        raise ValueError(f"latents of {tuple(latents.shape)} must be of {shape}")
    if latents is not None and not bool(latents.isfinite().all()):
        raise ValueError("latents hold values that are not finite: give normal noise")
