"""`VideoDiT`: a diffusion transformer over packed spacetime tokens, each with its own noise level.

After DiT (Peebles and Xie, 2022, arXiv:2212.09748); levels per token after Diffusion Forcing (Chen et al., 2024,
arXiv:2407.01392). Any aspect ratio and duration: samples are segments of one sequence and are told apart by
coordinates alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn

from video_dit.layers import Block, KeysValues, LevelEmbedding, modulate
from video_dit.level_table import LevelIndex
from video_dit.linear import Linear
from video_dit.rope import rope_angles
from video_dit.tokens import Segments


class VideoDiT(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):  # type: ignore[misc]
    """Predicts, for each token, the velocity at the token's noise level.

    Args:
        in_channels: channels of the latents. patch_size: latent pixels in a token along height and width.
        hidden_size, num_layers, num_heads, ratio: width, depth, heads, feed-forward width over ``hidden_size``.
        text_dim: channels of the text encoder's output.
        rope_theta: the slowest rotation (see `video_dit.rope`).
        sample_sizes: (height, width) in pixels of the clips it was trained on, the usual first.
        sample_latent_frames: the longest window it was trained on.
        frame_rate: frames a second it was trained on most.
        base_tokens: tokens at which the level shift is 1 (see `video_dit.noise`).
    Raises:
        ValueError: the sizes do not fit each other.
    """

    config: Any  # a dict whose entries are attributes as well
    _supports_gradient_checkpointing = True
    _repeated_blocks = ["Block"]  # noqa: RUF012  # what `compile_repeated_blocks` of diffusers compiles

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        patch_size: int = 2,
        hidden_size: int = 256,
        num_layers: int = 10,
        num_heads: int = 4,
        ratio: float = 4.0,
        text_dim: int = 192,
        rope_theta: float = 1000.0,
        sample_sizes: list[list[int]] | None = None,
        sample_latent_frames: int = 9,
        frame_rate: float = 8.0,
        base_tokens: int = 36,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # see `enable_gradient_checkpointing` of diffusers
        if hidden_size % num_heads or hidden_size // num_heads % 2:
            raise ValueError(f"model.hidden_size={hidden_size} must be an even multiple of model.num_heads={num_heads}")
        patch_dim = in_channels * patch_size**2
        self.patch_embed = Linear(patch_dim, hidden_size)
        self.one_frame_embed = nn.Parameter(torch.zeros(hidden_size))
        self.level_embed = LevelEmbedding(hidden_size)
        self.modulation = Linear(hidden_size, 6 * hidden_size)
        self.norm_text = nn.RMSNorm(text_dim, eps=1e-6)
        self.blocks = nn.ModuleList(Block(hidden_size, text_dim, num_heads, ratio) for _ in range(num_layers))
        self.modulation_out = Linear(hidden_size, 2 * hidden_size)
        self.proj_out = Linear(hidden_size, patch_dim)
        self._initialize()

    def _initialize(self) -> None:
        """Xavier for matrices; zero for all that begins a residual branch or the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        zero = [self.modulation, self.modulation_out, self.proj_out]
        zero += [block.cross_attn.to_out for block in self.blocks]  # type: ignore[union-attr, misc]
        for module in zero:
            nn.init.zeros_(module.weight)

    def forward(
        self,
        hidden_states: Tensor,
        levels: Tensor,
        level_index: Tensor,
        coords: Tensor,
        one_frame: Tensor,
        segments: Segments,
        prompt_embeds: Tensor | list[KeysValues],
        prompt_segments: Segments,
    ) -> Tensor:
        """Velocity of each token.

        Args:
            hidden_states: noisy tokens ``(n, c·p·p)``, the samples of a pack end to end.
            levels: the distinct noise levels ``(l,)`` in [0, 1], fp32; may be padded.
            level_index: which of them each token has, ``(n,)`` int64.
            coords: ``(n, 3)`` fp32: seconds, height and width in latent pixels from the grid's centre.
            one_frame: ``(n,)`` bool: the token's latent frame stands for one pixel frame.
            segments: the samples. prompt_segments: their prompts, as many.
            prompt_embeds: text ``(m, text_dim)``, end to end, or what `text_keys_values` made of it.
        Returns:
            ``(n, c·p·p)``, of the dtype of ``hidden_states``.
        """
        dtype = self.patch_embed.weight.dtype
        head_dim = self.config.hidden_size // self.config.num_heads
        x = self.patch_embed(hidden_states.to(dtype))  # n d
        x = x + one_frame[:, None].to(dtype) * self.one_frame_embed
        embedding = F.silu(self.level_embed(levels))  # l d
        modulation = rearrange(self.modulation(embedding), "l (six d) -> l six d", six=6)
        index = LevelIndex.of(level_index, levels.shape[0])
        rope = rope_angles(coords, head_dim, self.config.rope_theta)
        texts: list[Any] = prompt_embeds if isinstance(prompt_embeds, list) else self._texts(prompt_embeds)
        for block, text in zip(self.blocks, texts, strict=True):
            arguments = (x, modulation, index, rope, segments, text, prompt_segments)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, *arguments)  # type: ignore[misc]
            else:
                x = block(*arguments)
        shift, scale = self.modulation_out(embedding).chunk(2, dim=1)
        return self.proj_out(modulate(x, shift, scale, index)).to(hidden_states.dtype)

    def enable_cache(self, config: Any) -> None:
        """Have one of diffusers' caches, such as ``FirstBlockCacheConfig``, leave blocks out in sampling; ``config`` is
        its."""
        TransformerBlockRegistry.register(Block, TransformerBlockMetadata(return_hidden_states_index=0))
        super().enable_cache(config)

    def _texts(self, prompt_embeds: Tensor) -> list[Tensor]:
        """What each block sees of the text: the same."""
        return [self.norm_text(prompt_embeds.to(self.patch_embed.weight.dtype))] * len(self.blocks)  # m d_text

    @apply_forward_hook  # where weights are moved to the device by `forward`, they are for this as well
    def text_keys_values(self, prompt_embeds: Tensor) -> Tensor | list[KeysValues]:
        """Keys and values of the text ``(m, text_dim)`` in each block, each ``(m, heads, head_dim)``: they depend on
        nothing else, so that all steps of sampling can share them, in place of ``prompt_embeds`` of `forward`. The text
        itself where weights are offloaded in groups, as those of a block are then brought by its own forward alone."""
        if _is_group_offload_enabled(self):
            return prompt_embeds
        return [
            block.cross_attn.keys_values(text)  # type: ignore[union-attr, operator]
            for block, text in zip(self.blocks, self._texts(prompt_embeds), strict=True)
        ]
