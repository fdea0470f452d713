"""A training pack: views of encoded clips, noised by random patterns, as the inputs of `VideoDiT`.

All randomness is a function of (seed, position of the pack, clip, purpose), so it does not depend on rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.dataset import Clip
from data.packing import View
from data.seeding import draw_integer, keyed_generator
from data.transforms import to_float
from vae3d import LatentCodec
from video_dit.context import ContextConfig, Pattern, draw_pattern, known_keyframe_level, with_suffix
from video_dit.noise import NoiseConfig, add_noise, level_shift, loss_weight, path_alphas_cumprod, prediction_target
from video_dit.text import MAX_GROUPS, PromptTokens, tokenize
from video_dit.tokens import Segments, grid_coords, latent_times, patchify, per_token

LEVELS_MULTIPLE = 32


@dataclass(frozen=True)
class Lesson:
    """What a student learns on a pack (see `video_dit.distillation`).

    ends: the level to which it steps from each of the pack's, ``(l,)`` fp32; of known tokens the same. guidance: weight
    of the classifier-free guidance that it learns, ``(l,)``. teacher_steps: of the model, for one of its own.
    """

    ends: Tensor
    guidance: Tensor
    teacher_steps: int

    def to(self, device: torch.device | str) -> "Lesson":
        """The same on another device, which is not waited for where this one is pinned."""
        ends, guidance = (tensor.to(device, non_blocking=True) for tensor in (self.ends, self.guidance))
        return Lesson(ends, guidance, self.teacher_steps)

    def pin_memory(self) -> "Lesson":
        """The same in memory that a GPU reads by itself."""
        return Lesson(self.ends.pin_memory(), self.guidance.pin_memory(), self.teacher_steps)


@dataclass(frozen=True)
class Pack:
    """Inputs and targets, all samples end to end.

    hidden_states, target: ``(n, c·p·p)`` fp32. levels: ``(l,)`` fp32, padded to a multiple of 32. level_index:
    ``(n,)``. coords: ``(n, 3)``. one_frame, made: ``(n,)`` bool; loss is taken where made. weight: ``(n,)`` fp32, of
    the squared error. loss_elements: elements of ``target`` that bear loss. prompts: of the samples. clips: the index
    of each. lesson: for a student, whose target the model itself is yet to give.
    """

    hidden_states: Tensor
    target: Tensor
    levels: Tensor
    level_index: Tensor
    coords: Tensor
    one_frame: Tensor
    made: Tensor
    weight: Tensor
    segments: Segments
    prompts: PromptTokens
    clips: tuple[int, ...]
    loss_elements: int
    lesson: Lesson | None = None

    def to(self, device: torch.device | str) -> "Pack":
        """The same on another device, which is not waited for where this one is pinned."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device, non_blocking=True)
            elif hasattr(value, "to"):
                moved[name] = value.to(device)
        return replace(self, **moved)

    def pin_memory(self) -> "Pack":
        """The same in memory that a GPU reads by itself, while the host goes on."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if hasattr(value, "pin_memory")
        }
        return replace(self, **pinned)


@torch.no_grad()
def encode_clip(codec: LatentCodec, clip: Clip, generator: torch.Generator) -> dict[str, Tensor]:
    """What training needs of a clip, for the cache: on the CPU, in bf16 where it is large.

    latents: ``(c, t, h, w)`` of the whole clip. keyframe: ``(c, 1, h, w)`` of one random frame alone, whose number
    is ``keyframe_frame``. cold: ``(c, t', h, w)`` encoded from latent frame ``cold_start`` on as if the clip began
    with that latent's last frame; its latents 1… stand for the same frames as ``latents[cold_start + 1:]``.
    """
    r, _ = codec.frame_rule
    frames = to_float(clip.frames)[None]  # 1 c t h w
    latents = codec.encode(frames)[0]
    keyframe_frame = draw_integer(frames.shape[2], generator)
    cold_start = draw_integer(max(1, latents.shape[1] - 1), generator)
    keyframe = codec.encode(frames[:, :, keyframe_frame : keyframe_frame + 1])[0]
    cold = codec.encode(frames[:, :, r * cold_start :])[0]
    return {
        "latents": latents.bfloat16().cpu(),
        "keyframe": keyframe.bfloat16().cpu(),
        "keyframe_frame": torch.tensor(keyframe_frame),
        "cold": cold.bfloat16().cpu(),
        "cold_start": torch.tensor(cold_start),
        "frame_rate": torch.tensor(clip.frame_rate),
    }


@dataclass(frozen=True)
class _Sample:
    noisy: Tensor
    target: Tensor
    levels: Tensor
    level_index: Tensor
    coords: Tensor
    one_frame: Tensor
    made: Tensor
    weight: Tensor
    prompt: str
    prompt_embeds: Tensor | None


def build_pack(
    views: Sequence[tuple[View, dict[str, Tensor], str]],
    position: int,
    seed: int,
    r: int,
    patch_size: int,
    base_tokens: int,
    context: ContextConfig,
    noise: NoiseConfig,
    tokenizer: PreTrainedTokenizerBase,
    text_groups: int = MAX_GROUPS,
) -> Pack:
    """Noise the views of pack ``position`` and put them end to end.

    Args:
        views: view, tensors of `encode_clip`, and caption of each sample.
        r: the codec's time factor. base_tokens: see `level_shift`. text_groups: calls of the text encoder.
    """
    samples = [
        _sample(view, encoded, text, (seed, position), r, patch_size, base_tokens, context, noise)
        for view, encoded, text in views
    ]
    levels = torch.cat([sample.levels for sample in samples])
    levels = torch.nn.functional.pad(levels, (0, -len(levels) % LEVELS_MULTIPLE))
    index: list[Tensor] = []
    before = 0
    for sample in samples:
        index.append(sample.level_index + before)
        before += len(sample.levels)
    target, made = torch.cat([sample.target for sample in samples]), torch.cat([sample.made for sample in samples])
    return Pack(
        hidden_states=torch.cat([sample.noisy for sample in samples]),
        target=target,
        levels=levels,
        level_index=torch.cat(index),
        coords=torch.cat([sample.coords for sample in samples]),
        one_frame=torch.cat([sample.one_frame for sample in samples]),
        made=made,
        weight=torch.cat([sample.weight for sample in samples]),
        segments=Segments.from_lengths([len(sample.noisy) for sample in samples]),
        prompts=tokenize(tokenizer, [s.prompt for s in samples], [s.prompt_embeds for s in samples], text_groups),
        clips=tuple(view.index for view, _, _ in views),
        loss_elements=int(made.sum()) * target.shape[1],
    )


def _sample(
    view: View,
    encoded: dict[str, Tensor],
    text: str,
    key: tuple[int, int],
    r: int,
    patch_size: int,
    base_tokens: int,
    context: ContextConfig,
    noise: NoiseConfig,
) -> _Sample:
    latents = encoded["latents"][:, view.start : view.start + view.length].float()  # c t h w
    _, t, height, width = latents.shape
    grid = t, height // patch_size, width // patch_size
    pattern_generator = keyed_generator(*key, view.index, "pattern")
    pattern = draw_pattern(grid, context, noise, level_shift(view.tokens, base_tokens), pattern_generator)
    if float(torch.rand((), generator=pattern_generator)) < context.cold_suffix:
        latents, pattern = _with_cold_suffix(latents, view.start, encoded, pattern)

    frame_rate = float(encoded["frame_rate"])
    start_time = (1 + (view.start - 1) * r) / frame_rate if view.start else 0.0
    times = latent_times(t, frame_rate, r, starts_clip=view.start == 0)
    one_frame = torch.zeros(t, dtype=torch.bool)
    one_frame[0] = view.start == 0
    token_levels, made = pattern.levels.flatten(), pattern.made.flatten()
    if view.keyframe:
        latents = torch.cat([latents, encoded["keyframe"].float()], dim=1)
        times = torch.cat([times, (encoded["keyframe_frame"] / frame_rate - start_time).view(1)])
        one_frame = torch.cat([one_frame, torch.ones(1, dtype=torch.bool)])
        count = grid[1] * grid[2]
        token_levels = torch.cat([token_levels, known_keyframe_level(pattern_generator).expand(count)])
        made = torch.cat([made, torch.zeros(count, dtype=torch.bool)])

    clean = patchify(latents[None], patch_size)[0]  # n p
    noise_tokens = torch.randn(clean.shape, generator=keyed_generator(*key, view.index, "noise"))
    path, level = path_alphas_cumprod(noise), token_levels[:, None]  # n 1
    distinct, level_index = token_levels.unique(return_inverse=True)
    dropped = float(torch.rand((), generator=keyed_generator(*key, view.index, "text"))) < context.text_dropout
    return _Sample(
        noisy=add_noise(clean, noise_tokens, level, path),
        target=prediction_target(noise.prediction, clean, noise_tokens, level, path),
        levels=distinct,
        level_index=level_index,
        coords=grid_coords(times, height, width, patch_size),
        one_frame=per_token(one_frame, height, width, patch_size),
        made=made,
        weight=loss_weight(noise, token_levels, path),
        prompt="" if dropped else text,
        prompt_embeds=None if dropped else stored_embeds(encoded, view.epoch),
    )


def stored_embeds(encoded: dict[str, Tensor], epoch: int) -> Tensor | None:
    """The embedding of the caption that a clip has in this epoch, if tools/encode.py stored those of its captions as
    ``prompt_embeds.0``, …"""
    count = sum(name.startswith("prompt_embeds.") for name in encoded)
    return encoded[f"prompt_embeds.{epoch % count}"] if count else None


def _with_cold_suffix(
    latents: Tensor, start: int, encoded: dict[str, Tensor], pattern: Pattern
) -> tuple[Tensor, Pattern]:
    """Let a known suffix begin where the clip's cold encoding does, and take it from there.

    So the model meets known latents as `VideoPipeline.extend` has them backward: encoded without what came before.
    Other patterns, and views that do not hold that place, are left as they are.
    """
    made = int(encoded["cold_start"]) + 1 - start  # latent frames of the view before the cold ones
    count = latents.shape[1] - made
    if pattern.known_suffix == 0 or made < 1 or count < 1:
        return latents, pattern
    cold = encoded["cold"][:, 1 : 1 + count].float()
    return torch.cat([latents[:, :made], cold], dim=1), with_suffix(pattern, count)
