"""The same model made to continue clips in three ways: ours, and two that are usual elsewhere.

All take the same steps, guidance, window and context, and noise from the same seed.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from data.transforms import to_float, to_uint8
from video_dit.evaluation.cuts import Cut, Given, assembled
from video_dit.noise import add_noise, level_shift
from video_dit.pipeline import VideoPipeline
from video_dit.request import PromptSchedule
from video_dit.rollout import MakeWindow, make_between, roll_backward, roll_between, roll_forward
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.schedulers import ready_scheduler, scheduler_alphas_cumprod
from video_dit.seam import fade_seams
from video_dit.text import encode_prompts
from video_dit.tokens import patchify, unpatchify

RENOISE_SEED = 2**32  # added to the seed: noise for given latents, beside that from which others are made


@dataclass(frozen=True)
class Setting:
    """How continuations are made. context: latent frames that each window sees. sampling: of the sampler. seed: of the
    noise."""

    sampling: SamplingConfig
    context: int
    seed: int


def ours(pipe: VideoPipeline, given: Given, cut: Cut, prompt: str, setting: Setting) -> Tensor:
    """The whole clip as the pipeline makes it, uint8 ``(t, h, w, 3)``."""
    options: dict[str, Any] = {
        "seconds": cut.num_made / pipe.frame_rate,
        "prompt": PromptSchedule.plain(prompt),
        "num_inference_steps": setting.sampling.num_inference_steps,
        "guidance_scale": setting.sampling.guidance_scale,
        "generator": torch.Generator().manual_seed(setting.seed),
        "context_seconds": setting.context * pipe.codec.frame_rule[0] / pipe.frame_rate,
        "context_level": setting.sampling.context_level,
    }
    before, after = given.before, given.after
    if cut.direction == "connect" and before is not None and after is not None:
        output: Any = pipe.connect(before, after, **options)
    elif cut.direction == "loop" and before is not None:
        output = pipe.loop(before, **options)
    else:
        frames = after if before is None else before
        assert frames is not None
        output = pipe.extend(frames, cut.direction, **options)
    clip = torch.as_tensor(output.frames[0]).mul(255).round().to(torch.uint8)
    assert len(clip) == cut.num_frames, f"{len(clip)} frames and not {cut.num_frames}"
    return clip


def replacement(pipe: VideoPipeline, given: Given, cut: Cut, prompt: str, setting: Setting) -> Tensor:
    """The whole clip, made as by a model that was never shown what is given, uint8 ``(t, h, w, 3)``.

    As `ours`, but for `replaced_window`: latents are kept and not encoded again, decoded as one stream, and the fade
    at the seam is the same.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    renoise = torch.Generator().manual_seed(setting.seed + RENOISE_SEED)
    prompts = guided_prompts(pipe, prompt, setting.sampling.guidance_scale)

    def make(window: Window) -> Tensor:
        return replaced_window(pipe, window, prompts, setting.sampling, generator, renoise)

    r, _ = pipe.codec.frame_rule
    before = None if given.before is None else encoded(pipe, given.before[(len(given.before) - 1) % r :])
    after = None
    if given.after is not None:
        after = encoded(pipe, given.after[: len(given.after) - (len(given.after) - 1) % r])[:, :, 1:]
    count, rolling = -(-cut.num_made // r), (pipe.window, setting.context, pipe.frame_rate, r)
    if before is None:
        assert after is not None
        latents, skipped = roll_backward(make, after, 1 + count, *rolling), 0
    else:
        others = (
            roll_forward(make, before, True, count, *rolling)
            if after is None
            else roll_between(make, before, True, after, count, *rolling)
        )
        latents, skipped = torch.cat([before, *others], dim=2), 1 + r * (before.shape[2] - 1)
    decoded = pipe.codec.decode(latents).float().cpu()  # b 3 t h w
    known = {}
    if given.before is not None:
        known[skipped - 1] = to_float(given.before[-1:])[None, :, 0]
    if given.after is not None:
        known[skipped + cut.num_made] = to_float(given.after[:1])[None, :, 0]
    faded = torch.cat(list(fade_seams(iter([decoded]), known, pipe.frame_rate)), dim=2)
    made = faded[:, :, skipped : skipped + cut.num_made]
    return assembled(given, to_uint8(made[0]), cut)


def reencode(pipe: VideoPipeline, given: Given, cut: Cut, prompt: str, setting: Setting) -> Tensor:
    """The whole clip, made as users of models without a roll-out do: each window is decoded, and its last frames (or
    first, going backward) are encoded again, as a clip of their own, to be the context of the next. uint8
    ``(t, h, w, 3)``.

    The model is told the level of the context, as by `ours`; nothing is done about the seam.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    prompts = guided_prompts(pipe, prompt, setting.sampling.guidance_scale)

    def make(window: Window) -> Tensor:
        return sample_window(pipe.transformer, pipe.scheduler, window, prompts, setting.sampling, generator)

    if given.before is None:
        assert given.after is not None
        made = windows_before(pipe, make, given.after, cut.num_made, setting.context)
    else:
        made = windows_after(pipe, make, given.before, given.after, cut.num_made, setting.context)
    return assembled(given, made, cut)


METHODS = {"ours": ours, "replacement": replacement, "reencode": reencode}


def guided_prompts(pipe: VideoPipeline, prompt: str, guidance_scale: float | None) -> Prompts:
    """The prompt, and the empty one where there is guidance."""
    positive = encode_prompts(pipe.tokenizer, pipe.text_encoder, [prompt])
    if guidance_scale == 1:
        return Prompts(*positive)
    return Prompts(*positive, *encode_prompts(pipe.tokenizer, pipe.text_encoder, [""]))


def encoded(pipe: VideoPipeline, frames: Tensor) -> Tensor:
    """Latents ``(1, c, 1 + k, h, w)`` of uint8 frames ``(1 + r·k, h, w, 3)``."""
    return pipe.codec.encode(to_float(frames)[None].to(pipe.transformer.device))


def between(
    pipe: VideoPipeline, make: MakeWindow, before: Tensor, size: int, after: Tensor, starts_clip: bool
) -> Tensor:
    """All latents of a window of ``size`` made ones between those ``before`` and ``after`` them ``(b, c, t, h, w)``.
    starts_clip: whether its first latent frame, made or not, stands for one frame."""
    r, _ = pipe.codec.frame_rule
    made = make_between(make, before, after, size, starts_clip, pipe.frame_rate, r)
    return torch.cat([before, made, after], dim=2)


def next_window(left: int, window: int, context: int, so_far: int, late: int) -> tuple[int, int, bool]:
    """The next of several windows that lead to ``late`` given latent frames: how many it sees before what it makes, how
    many it makes, and whether it is the last, which sees the ``late`` ones too. One that is not leaves it some.

    Args:
        left: to make in all. context: seen by a window. so_far: latent frames before those that are left.
    """
    early = min(max(1, context - late), so_far)
    if left <= window - early - late:
        return early, left, True
    early = min(context, so_far)
    return early, min(window - early, left - 1 if late else left), False


def windows_after(
    pipe: VideoPipeline, make: MakeWindow, before: Tensor, after: Tensor | None, count: int, context: int
) -> Tensor:
    """``count`` frames after uint8 frames ``(t, h, w, 3)``, and up to those ``after`` them if there are any, each
    window decoded and its last frames encoded again."""
    r, _ = pipe.codec.frame_rule
    frames, given = before, len(before)
    late = 0 if after is None else min((len(after) - 1) // r, max(1, context // 2))
    near = None if after is None else encoded(pipe, after[: 1 + r * late])[:, :, 1:]
    while (missing := count - (len(frames) - given)) > 0:
        so_far = 1 + (len(frames) - 1) // r
        early, size, last = next_window(-(-missing // r), pipe.window, context, so_far, late)
        seen = 1 + r * (early - 1)
        known = encoded(pipe, frames[-seen:])
        latents = between(pipe, make, known, size, near if last and near is not None else known[:, :, :0], True)
        decoded = to_uint8(pipe.codec.decode(latents)[0].cpu())
        frames = torch.cat([frames, decoded[seen : seen + min(r * size, missing)]])
    return frames[given:]


def windows_before(pipe: VideoPipeline, make: MakeWindow, after: Tensor, count: int, context: int) -> Tensor:
    """``count`` frames before uint8 frames ``(t, h, w, 3)``, each window decoded and its first frames encoded again.

    The latent of the first frame stands for it alone, as none within a longer clip does: it is left out, and each
    window makes one of its own, of which all that is decoded counts but the frame that was given.
    """
    r, _ = pipe.codec.frame_rule
    frames, given = after, len(after)
    while (missing := count - (len(frames) - given)) > 0:
        late = min(context, (len(frames) - 1) // r, pipe.window - 2)
        size = min(-(-missing // r), pipe.window - 1 - late)  # beside the one-frame latent
        near = encoded(pipe, frames[: 1 + r * late])[:, :, 1:]
        latents = between(pipe, make, near[:, :, :0], 1 + size, near, True)
        decoded = to_uint8(pipe.codec.decode(latents)[0].cpu())
        frames = torch.cat([decoded[: r * size], frames])
    return frames[: len(frames) - given]


@torch.no_grad()
def replaced_window(
    pipe: VideoPipeline,
    window: Window,
    prompts: Prompts,
    config: SamplingConfig,
    generator: torch.Generator,
    renoise: torch.Generator,
) -> Tensor:
    """The latents of a window where, after every step, given tokens are replaced by the given latents with new noise of
    the level that the others have by then; the model sees one level for all (Lugmayr et al., 2022, "RePaint", without
    resampling). For schedulers that do not scale what they step.

    Args:
        generator: of the noise from which others are made, drawn as `sample_window` does. renoise: of the given ones'.
    Returns:
        ``(b, c, t, h, w)`` fp32: given latents exactly as given, the others made.
    """
    model, scheduler = pipe.transformer, pipe.scheduler
    b, _, t, height, width = window.latents.shape
    p, device = model.config.patch_size, window.latents.device
    known = window.known_tokens(p).to(device)  # n
    clean = patchify(window.latents.float(), p)  # b n d
    n, d = clean.shape[1:]
    path = scheduler_alphas_cumprod(scheduler)
    if bool(known.any()):
        randn_tensor(clean[:, known].shape, generator=generator, device=device)  # as `sample_window` draws it
    noise = torch.empty_like(clean)
    noise[:, ~known] = randn_tensor((b, n - int(known.sum()), d), generator=generator, device=device)
    noise[:, known] = randn_tensor(clean[:, known].shape, generator=renoise, device=device)
    shift = level_shift(n, model.config.base_tokens)
    _, _, asked = ready_scheduler(scheduler, config.num_inference_steps, shift, device)

    def replace_given(number: int, _: Tensor, tokens: Tensor) -> Tensor:
        tokens, given = tokens.clone(), clean[:, known]
        if number + 1 < len(asked):
            new = randn_tensor(given.shape, generator=renoise, device=device)
            given = add_noise(given, new, asked[number + 1].to(device), path)
        tokens[:, known] = given
        return tokens

    config = replace(config, guidance_scale=config.guidance(bool(window.known.any())))  # as of all methods
    all_made = replace(window, known=torch.zeros_like(window.known))
    noise = unpatchify(noise, (t, height // p, width // p), p)
    return sample_window(model, scheduler, all_made, prompts, config, generator, replace_given, noise)
