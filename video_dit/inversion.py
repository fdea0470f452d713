"""The noise from which the model makes a given video: the sampler's steps, followed the other way (DDIM inversion).

Song et al., 2021, arXiv:2010.02502, section 5.4. A step of the sampler asks the model where it begins; the other way,
that is where it ends, and not known yet: it is guessed from where it began, and guessed again from there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from video_dit.editing import filled_window
from video_dit.guidance import GuidedModel
from video_dit.model import VideoDiT
from video_dit.noise import flow_step, level_shift
from video_dit.pieces import CHUNK, Maker, breaks, decode, encode_video, text_begin, text_latents
from video_dit.request import VideoRequest
from video_dit.rollout import MakeWindow, roll_forward
from video_dit.sampling import (
    Generators,
    Prompts,
    SamplingConfig,
    Window,
    context_noise,
    window_layout,
    window_rows,
)
from video_dit.schedulers import clipped_epsilon, ready_scheduler, scheduler_alphas_cumprod
from video_dit.tokens import patchify, unpatchify

GUESSES = 4
"""Of where a step ends."""


@dataclass(frozen=True)
class Inversion:
    """noise: ``(1, c, 1 + k, h, w)``, for ``latents`` of `VideoPipeline`. psnr: of the video that is made of it, to the
    given one as the autoencoder has it, in dB."""

    noise: Tensor
    psnr: float


def request_from_noise(request: VideoRequest, r: int) -> VideoRequest:
    """The text to video that would make the first 1 + r·k frames of the first video that an "interpolate" request is
    about; without guidance, if none is asked for."""
    assert request.video is not None
    frames, height, width, _ = request.video.shape
    sampling, generator = request.sampling, request.generator
    scale = 1.0 if sampling.guidance_scale is None else sampling.guidance_scale
    return replace(
        request,
        mode="text",
        sampling=replace(sampling, guidance_scale=scale, step_cache=0.0),  # a step that is left out cannot be followed
        generator=torch.Generator().manual_seed(0) if generator is None else generator,
        num_frames=frames - (frames - 1) % r,
        height=height,
        width=width,
        video=None,
        second=None,
    )


def inverted(
    request: VideoRequest,
    video: Tensor,
    inverter_of: Callable[[VideoRequest], Callable[[Window, int], Tensor]],
    maker_of: Callable[[VideoRequest], Maker],
) -> Inversion:
    """The noise of a video, and how well it leads back there.

    Args:
        request: of `request_from_noise`; its generators are left as they are. video: uint8 ``(t, h, w, 3)``.
        inverter_of: gives the noise of a window of a request, told the number of the first frame that would be made.
        maker_of: what a request is made with.
    """
    maker, invert = maker_of(request), inverter_of(with_own_generators(request))
    begin = text_begin(0, maker.r)
    latents = encode_video(video[: request.num_frames], maker)
    at = breaks(request, latents.shape[2], begin)
    window, context, rate, r = maker.window, maker.context, maker.frame_rate, maker.r
    noise = invert_clip(lambda one: invert(one, begin(one.start)), latents, window, context, rate, r, at)
    again = replace(with_own_generators(request), latents=noise)  # contexts are shown with the same noise again
    made = torch.cat(list(text_latents(again, maker_of(again))), dim=2)
    pairs = zip(*(decode(maker.codec, iter(one.split(CHUNK, dim=2))) for one in (made, latents)), strict=True)
    errors = torch.stack([(one - other).float().square().sum() for one, other in pairs])
    error = float(errors.sum()) / (3 * request.num_frames * request.height * request.width)
    return Inversion(noise, 10 * math.log10(4 / max(error, 1e-12)))


def invert_clip(
    invert: MakeWindow,
    latents: Tensor,
    window: int,
    context: int,
    frame_rate: float,
    r: int,
    breaks: Sequence[int] = (),
) -> Tensor:
    """The noise ``(b, c, t, h, w)`` of all latents of a clip, window after window as they would be made.

    Args:
        invert: gives the noise of what a window makes.
        latents, window, context, frame_rate, r, breaks: as `video_dit.editing.remake` takes them.
    """
    noises: list[Tensor] = []

    def follow(asked: Window) -> Tensor:
        filled = filled_window(asked, latents)
        noises.append(invert(filled))
        return filled.latents

    for _ in roll_forward(
        follow, latents[:, :, :0], True, latents.shape[2], window, context, frame_rate, r, breaks=breaks
    ):
        pass
    return torch.cat(noises, dim=2)


@torch.no_grad()
def invert_window(
    model: VideoDiT,
    scheduler: Any,
    window: Window,
    prompts: Prompts,
    config: SamplingConfig,
    generator: Generators,
    on_step: Callable[[], None],
) -> Tensor:
    """The noise ``(b, c, t_made, h, w)`` from which `video_dit.sampling.sample_window` would make what a window holds.

    Args:
        window: all of its latents are read; what is known are whole latent frames.
        scheduler, prompts, config, generator: as `sample_window` takes them; the context is shown as it does.
        on_step: called after each step.
    """
    _, _, _, height, width = window.latents.shape
    p, device = model.config.patch_size, window.latents.device
    layout = window_layout(window, p)
    tokens = patchify(window.latents.float(), p)  # b n d
    path = scheduler_alphas_cumprod(scheduler)
    path = path if path is None else path.to(device)
    known = tokens[:, layout.known]
    rows = window_rows(model, prompts, config, known, context_noise(known, config, generator), path)
    guided = GuidedModel(model, rows, layout)
    prediction = scheduler.config.get("prediction_type", "velocity")
    shift = level_shift(tokens.shape[1], model.config.base_tokens)
    _, _, asked = ready_scheduler(scheduler, config.num_inference_steps, shift, device)
    levels = torch.cat([torch.zeros(1), asked.cpu().flip(0).unique_consecutive()]).to(device)
    made = tokens[:, layout.made]
    for level, above in pairwise(levels):
        end = made
        for _ in range(GUESSES):
            output = guided(end, above, guided.acting(float(above)))
            if path is not None:
                output = clipped_epsilon(prediction, output, end, above, path)
            end = flow_step("velocity" if path is None else "epsilon", output, made, level, above, path)
        made = end
        on_step()
    frames = int((~window.known).sum())
    return unpatchify(made, (frames, height // p, width // p), p)


def with_own_generators(request: VideoRequest) -> VideoRequest:
    """A request that draws the same, from copies of its generators."""
    of = request.generator
    copies = [one.clone_state() for one in of] if isinstance(of, list) else of and of.clone_state()
    return replace(request, generator=copies)
