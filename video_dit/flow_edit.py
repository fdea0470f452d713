"""A window of a given video changed by what the model makes of its new prompt and does not of its old one (FlowEdit).

Kulikov et al., 2024, arXiv:2412.08629, with one draw of noise a step. At each level the given latents are shown with
fresh noise under the prompt that tells what they are, and the edited ones with the same noise under the new prompt; the
edited ones go along the difference of the two velocities. What both prompts say alike cancels, but for what guidance
adds to it under the new one.
"""

from itertools import pairwise
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from video_dit.guidance import GuidedModel
from video_dit.model import VideoDiT
from video_dit.noise import add_noise, alpha, flow_step, level_shift, sigma
from video_dit.sampling import (
    Generators,
    Prompts,
    SamplingConfig,
    StepCallback,
    Window,
    context_noise,
    window_layout,
    window_rows,
)
from video_dit.schedulers import clipped_epsilon, ready_scheduler, scheduler_alphas_cumprod
from video_dit.tokens import patchify, unpatchify


@torch.no_grad()
def edit_window(
    model: VideoDiT,
    scheduler: Any,
    window: Window,
    prompts: Prompts,
    config: SamplingConfig,
    generator: Generators = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Change the unknown latents of a window from what its ``source`` holds.

    Args:
        window: its known latents are the context of what is made; ``source`` has the given ones there as well.
        scheduler: says which levels there are; the steps are Euler's.
        prompts: the new ones, guided as in other edits; of ``source``, of what is given, there is no guidance by text.
    Returns:
        ``(b, c, t, h, w)`` fp32: known latents exactly as given, the others changed.
    """
    assert window.source is not None and prompts.source is not None
    _, _, t, height, width = window.latents.shape
    p, device = model.config.patch_size, window.latents.device
    layout = window_layout(window, p)
    tokens, given = patchify(window.latents.float(), p), patchify(window.source.float(), p)  # b n d
    known, given_known = tokens[:, layout.known], given[:, layout.known]
    path = scheduler_alphas_cumprod(scheduler)
    path = path if path is None else path.to(device)
    noise = context_noise(known, config, generator)
    new, old = (
        GuidedModel(model, window_rows(model, said, config, context, noise, path, edits=True), layout, name)
        for name, said, context in (("new", prompts, known), ("old", prompts.source, given_known))
    )
    prediction = scheduler.config.get("prediction_type", "velocity")
    shift = level_shift(tokens.shape[1], model.config.base_tokens)
    _, timesteps, asked = ready_scheduler(scheduler, config.num_inference_steps, shift, device, window.strength)
    timesteps = timesteps.unique_consecutive()
    levels = torch.cat([asked.cpu().unique_consecutive(), torch.zeros(1)]).to(device)
    begin = edited = given[:, layout.made]
    for number, (level, below) in enumerate(pairwise(levels)):
        noisy = add_noise(begin, randn_tensor(begin.shape, generator=generator, device=device), level, path)
        ends = []
        for guided, shown in ((new, noisy + weight(level, path) * (edited - begin)), (old, noisy)):
            output = guided(shown, level, guided.acting(float(level)))
            if path is not None:
                output = clipped_epsilon(prediction, output, shown, level, path)
            ends.append(flow_step("velocity" if path is None else "epsilon", output, shown, level, below, path))
        edited = begin + (ends[0] - ends[1]) / weight(below, path)
        if on_step is not None:
            edited = on_step(number, timesteps[number], edited)
    tokens = tokens.index_copy(1, layout.made, edited)
    return unpatchify(tokens, (t, height // p, width // p), p)


def weight(level: Tensor, alphas_cumprod: Tensor | None) -> Tensor:
    """``alpha + sigma``, 1 on the straight path: what is noisy there, over it, is so on the straight path."""
    return alpha(level, alphas_cumprod) + sigma(level, alphas_cumprod)
