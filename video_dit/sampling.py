"""One window of latents from noise: tokens that are known stay, the others run from level 1 to 0."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange, repeat
from torch import Tensor

from video_dit.guidance import GuidedModel, Layout, Row
from video_dit.model import VideoDiT
from video_dit.noise import add_noise, level_shift
from video_dit.schedulers import clipped_epsilon, noised, ready_scheduler, scheduler_alphas_cumprod
from video_dit.step_cache import LastCall, next_call
from video_dit.tokens import Segments, grid_coords, patchify, per_token, unpatchify

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[int, Tensor, Tensor], Tensor]
"""Called after each step with its number, the timestep and the made tokens; returns the tokens to go on with."""


@dataclass(frozen=True)
class Window:
    """Latent frames that are denoised together.

    latents: ``(b, c, t, h, w)``, normalised; read where known, and everywhere where ``strength`` is below 1.
    known: bool, what is given: latent frames ``(t,)``, or tokens ``(t, h / p, w / p)``. times: ``(t,)`` seconds.
    one_frame: ``(t,)`` bool, latent frames that stand for one pixel frame. start: the number of the first made latent
    frame among all that windows make of a video. strength: how far up the levels what is made begins, as a share before
    the shift, so that it changes as much in pictures of any size; below 1 it begins as the latents with that much noise
    (SDEdit, Meng et al., 2021, arXiv:2108.01073). source: what a given video that is edited has in all of these places,
    for `video_dit.flow_edit`.
    """

    latents: Tensor
    known: Tensor
    times: Tensor
    one_frame: Tensor
    start: int = 0
    strength: float = 1.0
    source: Tensor | None = None

    def known_tokens(self, patch_size: int) -> Tensor:
        """Which tokens are given, ``(n,)``."""
        height, width = (side // patch_size for side in self.latents.shape[3:])
        known = self.known if self.known.ndim == 3 else repeat(self.known, "t -> t h w", h=height, w=width)
        return rearrange(known, "t h w -> (t h w)")


@dataclass(frozen=True)
class Prompts:
    """What guides the samples: embeddings ``(m, d_text)`` and segments, one a sample; the negative prompt likewise,
    or None where there is no guidance. source: of what a given video shows before it is changed, or None."""

    embeds: Tensor
    segments: Segments
    negative_embeds: Tensor | None = None
    negative_segments: Segments | None = None
    source: "Prompts | None" = None


@dataclass(frozen=True)
class SamplingConfig:
    """How a window is sampled.

    num_inference_steps: of the scheduler; the model is asked as often, or as `num_calls` says.
    guidance_scale: weight of classifier-free guidance (Ho and Salimans, 2022, arXiv:2207.12598); 1 is none. None is 4
        in a window of which nothing is known or that changes what was there, and 1.5 in one that goes on from what is
        known: guided by 4, objects change and move too much there (docs/sampling.md).
    context_level: noise level at which known latents are shown to the model.
    guidance_interval: levels, from low to high, within which classifier-free guidance acts (Kynkäänniemi et al., 2024,
        arXiv:2404.07724); at others the negative prompt costs nothing.
    history_guidance: weight of guidance by the known latents (Song et al., 2025, arXiv:2502.06764), away from what the
        model would make without them; 1 is none.
    step_cache: the model is not asked at a step where its output is expected to change by less than this share (see
        `video_dit.step_cache`); 0 asks it at each.

    Raises:
        ValueError: a value is out of its range.
    """

    num_inference_steps: int = 30
    guidance_scale: float | None = None
    context_level: float = 0.03
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    history_guidance: float = 1.0
    step_cache: float = 0.0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps={self.num_inference_steps} must be at least 1")
        scales = {"guidance_scale": self.guidance(anything_known=True), "history_guidance": self.history_guidance}
        for name, scale in scales.items():
            if not 1 <= scale < float("inf"):
                raise ValueError(f"{name}={scale} must be 1 (no guidance) or more")
        if not 0 <= self.context_level < 1:
            raise ValueError(f"context_level={self.context_level} must be in [0, 1): 0.03 is usual")
        interval = self.guidance_interval
        if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise ValueError(
                f"guidance_interval={interval} must be two levels, low and high, with 0 <= low < high <= 1: "
                "(0.0, 1.0) guides at all"
            )
        if not 0 <= self.step_cache < 1:
            raise ValueError(f"step_cache={self.step_cache} must be in [0, 1): 0 is off, 0.1 is usual")

    def guidance(self, anything_known: bool, usual: float | None = None) -> float:
        """The weight of classifier-free guidance in a window; ``usual`` is what a published model is used with."""
        if self.guidance_scale is not None:
            return self.guidance_scale
        return usual or (1.5 if anything_known else 4.0)


def num_calls(scheduler: Any, steps: int, strength: float = 1.0, is_euler: bool = False) -> int:
    """How often `sample_window` calls ``on_step``, twice in a step of some schedulers; or what takes Euler's steps at
    its levels does."""
    levels = ready_scheduler(scheduler, steps, 1.0, torch.device("cpu"), strength)[2]
    return len(levels.unique_consecutive() if is_euler else levels)


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
        noise: ``(b, c, t_made, h, w)`` that the made latents begin from, instead of the generator's; of a window whose
            known side is whole latent frames.
    Returns:
        ``(b, c, t, h, w)`` fp32: known latents exactly as given, the others made.
    """
    b, _, t, height, width = window.latents.shape
    p, device = model.config.patch_size, window.latents.device
    layout = window_layout(window, p)
    tokens = patchify(window.latents.float(), p)  # b n d
    n, d = tokens.shape[1:]
    path = scheduler_alphas_cumprod(scheduler)  # None is the straight one
    path = path if path is None else path.to(device)
    known = tokens[:, layout.known]
    hidden = context_noise(known, config, generator)
    rows = window_rows(model, prompts, config, known, hidden, path, edits=window.strength < 1)
    guided = GuidedModel(model, rows, layout)
    if noise is None:
        made = randn_tensor((b, len(layout.made), d), generator=generator, device=device)
    else:
        made = patchify(noise.to(tokens), p)

    prediction = scheduler.config.get("prediction_type")
    shift, steps = level_shift(n, model.config.base_tokens), config.num_inference_steps
    scheduler, timesteps, levels = ready_scheduler(scheduler, steps, shift, device, window.strength)
    if window.strength < 1:
        made = noised(scheduler, tokens[:, layout.made], made, timesteps[0], levels[0].to(device), path)
    elif path is not None:
        made = made * scheduler.init_noise_sigma
    draws = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    last: LastCall | None = None
    for number, (timestep, level_now) in enumerate(zip(timesteps, levels.tolist(), strict=True)):
        level = levels[number].to(device)
        shown = made if path is None else scheduler.scale_model_input(made, timestep)
        acting = guided.acting(level_now)
        is_end = number == len(levels) - 1
        if last is not None and not is_end and last.serves(shown, acting, config.step_cache):
            output = last.output if path is None else clipped_epsilon("epsilon", last.output, shown, level, path)
            last = last.once_more()
        else:
            output = guided(shown, level, acting)
            if path is not None:
                output = clipped_epsilon(prediction, output, shown, level, path)
            last = next_call(last, shown, output, acting) if config.step_cache else None
        made = scheduler.step(output, timestep, made, return_dict=False, **draws)[0]
        if on_step is not None:
            made = on_step(number, timestep, made)
    tokens = tokens.index_copy(1, layout.made, made)  # a new one: with patches of one it is the window's own
    return unpatchify(tokens, (t, height // p, width // p), p)


def window_layout(window: Window, patch_size: int) -> Layout:
    """Where its tokens stand, on the device of its latents."""
    height, width = window.latents.shape[3:]
    device, known = window.latents.device, window.known_tokens(patch_size)
    return Layout(
        known=known.nonzero()[:, 0].to(device),
        made=(~known).nonzero()[:, 0].to(device),
        coords=grid_coords(window.times, height, width, patch_size).to(device),
        one_frame=per_token(window.one_frame, height, width, patch_size).to(device),
    )


def context_noise(known: Tensor, config: SamplingConfig, generator: Generators) -> Tensor | None:
    """The noise with which known tokens ``(b, n_known, d)`` are shown in a window; None where none is needed."""
    if known.shape[1] and (config.context_level > 0 or config.history_guidance != 1):
        return randn_tensor(known.shape, generator=generator, device=known.device)
    return None


def window_rows(
    model: VideoDiT,
    prompts: Prompts,
    config: SamplingConfig,
    known: Tensor,
    noise: Tensor | None,
    path: Tensor | None,
    edits: bool = False,
) -> list[Row]:
    """What the model is asked about, the prompts first; tokens that are ``known``, ``(b, n_known, d)``, are shown with
    the ``noise`` of `context_noise`. Edits, which begin from what was there, are guided alike in all windows, so that
    none is weaker than the first."""
    context = known
    if noise is not None:
        context = add_noise(known, noise, torch.tensor(config.context_level, device=known.device), path)
    text = model.text_keys_values(prompts.embeds)
    rows = [Row(text, prompts.segments, context, config.context_level)]
    scale = config.guidance(known.shape[1] > 0 and not edits, getattr(model.config, "guidance_scale", None))
    if prompts.negative_embeds is not None and prompts.negative_segments is not None and scale != 1:
        negative = model.text_keys_values(prompts.negative_embeds), prompts.negative_segments
        rows.append(Row(*negative, context, config.context_level, scale, config.guidance_interval))
    if config.history_guidance != 1 and noise is not None:
        unknown = add_noise(known, noise, torch.tensor(1.0, device=known.device), path)
        rows.append(Row(text, prompts.segments, unknown, 1.0, config.history_guidance))
    return rows
