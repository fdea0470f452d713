"""The text-to-video transformers of Wan (Wan team, 2025, arXiv:2503.20314), as diffusers has them, for our sampler.

They are told one level a sample. So known tokens, which the sampler shows at the context level, are noised on to the
level of the made ones: the weaker method, which needs no training (docs/sampling.md).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin, WanTransformer3DModel
from diffusers.configuration_utils import ConfigMixin
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange, repeat
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from video_dit.text import pad_embeds
from video_dit.tokens import Segments, patchify, unpatchify

TEXT_LENGTH = 512  # tokens of a prompt, with zeros after its own
NOISE_SEED = 2**61 + 1  # of known tokens; none that anybody takes for what is made


class WanDenoiser(ModelMixin, ConfigMixin):
    """What `VideoDiT` is to the sampler, made of one of diffusers' transformers, or two.

    Args:
        high: the transformer. low: that for levels below ``boundary``, if there are two (Wan 2.2 of 14B).
        per_token: they are told a level a token (Wan 2.2 of 5B), so that known ones are shown as they are.
    """

    config: Any
    _keep_in_fp32_modules = WanTransformer3DModel._keep_in_fp32_modules  # so that `dtype` is that of the others

    def __init__(self, high: Any, low: Any, boundary: float, per_token: bool) -> None:
        super().__init__()
        self.high, self.low = high, low
        height, width, latent_frames, rate = (704, 1280, 31, 24.0) if per_token else (480, 832, 21, 16.0)
        self.register_to_config(
            boundary=boundary,
            per_token=per_token,
            patch_size=high.config.patch_size[1],
            text_dim=high.config.text_dim,
            sample_sizes=[[height, width], [width, height]],
            sample_latent_frames=latent_frames,
            frame_rate=rate,
            base_tokens=math.inf,  # its scheduler shifts the levels
            guidance_scale=5.0,  # that of diffusers' pipeline
            keyframes=False,
        )

    def text_keys_values(self, prompt_embeds: Tensor) -> Tensor:
        """The text itself, since the transformers take nothing else."""
        return prompt_embeds

    def forward(
        self,
        hidden_states: Tensor,
        levels: Tensor,
        level_index: Tensor,
        coords: Tensor,
        one_frame: Tensor,
        segments: Segments,
        prompt_embeds: Tensor,
        prompt_segments: Segments,
    ) -> Tensor:
        """As `VideoDiT.forward`, of whole grids of one shape; ``levels[0]`` is that of made tokens.

        The noise of known tokens is always the same: over the steps of a window they go a straight path, as the others
        do, and all rows of guidance see them alike.
        """
        s, p, per_token = segments.count, self.config.patch_size, self.config.per_token
        h, w = (1 - 2 * coords[0, 1:] / p).round().int().tolist()  # the first patch, counted from the centre
        assert not bool(one_frame.view(s, -1)[:, h * w :].any()), "one-frame latents have no place within the grid"
        x = rearrange(hidden_states, "(s n) d -> s n d", s=s)
        level, own = levels[0], rearrange(levels[level_index], "(s n) -> s n", s=s)
        if not per_token:
            generator = torch.Generator().manual_seed(NOISE_SEED)
            x = noised_on(x, randn_tensor(x.shape[1:], generator, x.device), own[..., None], level)
        text, _ = pad_embeds(prompt_embeds, prompt_segments)  # s m d
        text = F.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1]))
        wan = self.high if level >= self.config.boundary else self.low
        velocity = wan(
            unpatchify(x, (x.shape[1] // (h * w), h, w), p).to(wan.dtype),
            1000 * (own if per_token else repeat(level, "-> s", s=s)),
            text.to(wan.dtype),
            return_dict=False,
        )[0]
        return rearrange(patchify(velocity, p), "s n d -> (s n) d").to(hidden_states)


def noised_on(noisy: Tensor, noise: Tensor, own: Tensor, level: Tensor) -> Tensor:
    """Tokens at their ``own`` levels of the straight path; with as much more noise, where these are below ``level``, as
    is missing there."""
    scale = (1 - level) / (1 - own)
    missing = (level**2 - (scale * own) ** 2).clamp_min(0).sqrt()
    return torch.where(own < level, scale * noisy + missing * noise, noisy)


class WanTokenizer:
    """A tokenizer whose prompts are cleaned and cut as in diffusers' pipeline."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str], padding: bool, truncation: bool, return_tensors: str) -> BatchEncoding:
        """As the tokenizer's own."""
        cleaned = [prompt_clean(text) for text in texts]
        return self._tokenizer(
            cleaned, padding=padding, truncation=truncation, max_length=TEXT_LENGTH, return_tensors=return_tensors
        )
