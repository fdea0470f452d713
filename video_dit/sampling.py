"""One window of latents from noise: tokens that are known stay, the others run from level 1 to 0."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from video_dit.model import VideoDiT
from video_dit.noise import NUM_TRAIN_TIMESTEPS, add_noise, level_shift, shift_level
from video_dit.schedulers import clipped_epsilon, fresh_scheduler, scheduler_alphas_cumprod
from video_dit.tokens import Segments, grid_coords, patchify, per_token, unpatchify

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[int, Tensor, Tensor], Tensor]
"""Called after each step with its number, the timestep and the made tokens; returns the tokens to go on with."""


@dataclass(frozen=True)
class Window:
    """Latent frames that are denoised together.

    latents: ``(b, c, t, h, w)``, normalised; read only where known. known: ``(t,)`` bool, latent frames that are
    given. times: ``(t,)`` seconds. one_frame: ``(t,)`` bool, latent frames that stand for one pixel frame. start: the
    number of the first made latent frame among all that windows make of a video.
    """

    latents: Tensor
    known: Tensor
    times: Tensor
    one_frame: Tensor
    start: int = 0


@dataclass(frozen=True)
class Prompts:
    """What guides the samples: embeddings ``(m, d_text)`` and segments, one a sample; the negative prompt likewise,
    or None where there is no guidance."""

    embeds: Tensor
    segments: Segments
    negative_embeds: Tensor | None = None
    negative_segments: Segments | None = None


@dataclass(frozen=True)
class SamplingConfig:
    """num_inference_steps: of the scheduler. guidance_scale: weight of classifier-free guidance (Ho and Salimans,
    2022, arXiv:2207.12598); 1 is none. context_level: noise level at which known latents are shown to the model.

    Raises:
        ValueError: a value is out of its range.
    """

    num_inference_steps: int = 30
    guidance_scale: float = 4.0
    context_level: float = 0.03
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    history_guidance: float = 1.0
    step_cache: float = 0.0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps={self.num_inference_steps} must be at least 1")
        if not 1 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale={self.guidance_scale} must be 1 (no guidance) or more")
        if not 0 <= self.context_level < 1:
            raise ValueError(f"context_level={self.context_level} must be in [0, 1): 0.03 is usual")


def sampling_levels(steps: int, shift: float) -> Tensor:
    """The levels ``(steps,)`` at which the model is asked: from 1 down, evenly spaced before the shift."""
    return shift_level(torch.linspace(1.0, 1.0 / steps, steps), shift)


@torch.no_grad()
def sample_window(
    model: VideoDiT,
    scheduler: Any,
    window: Window,
    prompts: Prompts,
    config: SamplingConfig,
    generator: Generators = None,
    on_step: StepCallback | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Make the unknown latents of a window.

    Args:
        scheduler: a diffusers scheduler of the model's path and prediction; a fresh copy steps the made tokens
            ``(b, n_made, d)`` only.
        generator: one for all samples, or one each.
        noise: ``(b, c, t_made, h, w)`` that the made latents begin from, instead of the generator's.
    Returns:
        ``(b, c, t, h, w)`` fp32: known latents exactly as given, the others made.
    """
    b, _, t, height, width = window.latents.shape
    p, device = model.config.patch_size, window.latents.device
    known = per_token(window.known, height, width, p).to(device)  # n
    clean = patchify(window.latents.float(), p)  # b n d
    n, d = clean.shape[1:]
    path = scheduler_alphas_cumprod(scheduler)  # None is the straight one
    path = path if path is None else path.to(device)
    context = clean[:, known]
    if config.context_level > 0 and bool(known.any()):
        own = randn_tensor(context.shape, generator=generator, device=device)
        context = add_noise(context, own, torch.tensor(config.context_level, device=device), path)
    if noise is None:
        made = randn_tensor((b, n - int(known.sum()), d), generator=generator, device=device)
    else:
        made = patchify(noise.to(clean), p)

    embeds, prompt_segments = _guided_prompts(prompts)
    rows = prompt_segments.count // b  # 2 with guidance, else 1
    static = {
        "level_index": (~known).long().repeat(rows * b),
        "coords": grid_coords(window.times, height, width, p).to(device).repeat(rows * b, 1),
        "one_frame": per_token(window.one_frame, height, width, p).to(device).repeat(rows * b),
        "segments": Segments.from_lengths([n] * (rows * b), device),
        "prompt_embeds": embeds,
        "prompt_segments": prompt_segments,
    }

    prediction, scheduler = scheduler.config.get("prediction_type"), fresh_scheduler(scheduler)
    if path is None:
        levels = sampling_levels(config.num_inference_steps, level_shift(n, model.config.base_tokens))
        scheduler.set_timesteps(sigmas=levels.tolist(), device=device)
    else:
        scheduler.set_timesteps(config.num_inference_steps, device=device)
        made = made * scheduler.init_noise_sigma
    draws = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    tokens = torch.empty_like(clean)
    tokens[:, known] = context
    for number, timestep in enumerate(scheduler.timesteps):
        shown = made if path is None else scheduler.scale_model_input(made, timestep)
        tokens[:, ~known] = shown
        level = timestep.float() / 1000 if path is None else (timestep.float() + 1) / NUM_TRAIN_TIMESTEPS
        level_pair = torch.stack([torch.tensor(config.context_level, device=device), level])
        packed = tokens.repeat(rows, 1, 1).flatten(0, 1)  # (rows b n) d
        output = model(packed, level_pair, **static).view(rows, b, n, d)[:, :, ~known].float()
        guided = output[0] if rows == 1 else output[1] + config.guidance_scale * (output[0] - output[1])
        if path is not None:
            guided = clipped_epsilon(prediction, guided, shown, level, path)
        made = scheduler.step(guided, timestep, made, return_dict=False, **draws)[0]
        if on_step is not None:
            made = on_step(number, timestep, made)
    tokens[:, known] = clean[:, known]
    tokens[:, ~known] = made
    return unpatchify(tokens, (t, height // p, width // p), p)


def _guided_prompts(prompts: Prompts) -> tuple[Tensor, Segments]:
    """All prompts, then all negative prompts, as one pack."""
    if prompts.negative_embeds is None or prompts.negative_segments is None:
        return prompts.embeds, prompts.segments
    both = prompts.segments, prompts.negative_segments
    lengths = [int(length) for segments in both for length in segments.cu_seqlens.diff().tolist()]
    return (
        torch.cat([prompts.embeds, prompts.negative_embeds]),
        Segments.from_lengths(lengths, prompts.embeds.device),
    )
