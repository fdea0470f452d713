"""`VideoVAE`: Haar wavelet, patches, residual blocks at one scale, and the mirror image on the way out.

The single-scale wavelet design follows LeanVAE (Cheng et al., 2025, arXiv:2503.14325), here made causal and
streaming. No convolution runs at full resolution.
"""

import math
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from torch import Tensor, nn

from vae3d.layers import Block, InverseHaarLinear, State, ThinBlock, haar, rms_norm, run_blocks
from vae3d.tiling import TiledState, run_tiled

Patch = tuple[int, int, int]
"""Wavelet pixels in a latent pixel along time, height and width."""


class Encoder(nn.Module):
    """Groups of ``r`` frames to the mean and log variance of one latent frame each."""

    def __init__(self, patch: Patch, levels: int, width: int, depth: int, ratio: float, z: int) -> None:
        super().__init__()
        self.patch, self.levels = patch, levels
        self.patch_in = nn.Linear(3 * 8**levels * math.prod(patch), width)
        self.blocks = nn.ModuleList(Block(width, ratio) for _ in range(depth))
        self.to_moments = nn.Linear(width, 2 * z)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """``(b, 3, r·t, s·h, s·w)`` to moments ``(b, 2z, t, h, w)`` and the state after them."""
        pt, ph, pw = self.patch
        x = haar(rearrange(x, "b c t h w -> b t h w c"), self.levels)
        x = rearrange(x, "b (t pt) (h ph) (w pw) c -> b t h w (pt ph pw c)", pt=pt, ph=ph, pw=pw)
        x, state = run_blocks(self.blocks, self.patch_in(x), state)
        x = self.to_moments(rms_norm(x))
        return rearrange(x, "b t h w c -> b c t h w"), state

    @property
    def reach(self) -> int:
        """Latent pixels that a latent pixel sees on each side."""
        return len(self.blocks)


class Decoder(nn.Module):
    """Latent frames to groups of ``r`` frames each; the mirror image of `Encoder`, with the borders mended."""

    def __init__(
        self,
        patch: Patch,
        levels: int,
        width: int,
        depth: int,
        ratio: float,
        z: int,
        thin_width: int,
        thin_depth: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.from_latents = nn.Linear(z, width)
        self.blocks = nn.ModuleList(Block(width, ratio) for _ in range(depth))
        self.patch_out = nn.Linear(width, thin_width * math.prod(patch))
        self.thin_blocks = nn.ModuleList(ThinBlock(thin_width) for _ in range(thin_depth))
        self.to_bands = InverseHaarLinear(thin_width, levels)  # and from there to frames

    def forward(self, z: Tensor, state: State | None) -> tuple[Tensor, State]:
        """``(b, z, t, h, w)`` to frames ``(b, 3, r·t, s·h, s·w)`` and the state after them."""
        pt, ph, pw = self.patch
        depth = len(self.blocks)
        x = self.from_latents(rearrange(z, "b c t h w -> b t h w c"))
        x, wide = run_blocks(self.blocks, x, state[:depth] if state is not None else None)
        x = self.patch_out(rms_norm(x))
        x = rearrange(x, "b t h w (pt ph pw c) -> b (t pt) (h ph) (w pw) c", pt=pt, ph=ph, pw=pw)
        x, thin = run_blocks(self.thin_blocks, x, state[depth:] if state is not None else None)
        return self.to_bands(x), wide + thin

    @property
    def reach(self) -> int:
        """Latent pixels that a pixel sees on each side."""
        return len(self.blocks) + -(-len(self.thin_blocks) // min(self.patch[1:]))


class VideoVAE(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Causal 3D autoencoder of clips with ``1 + r·k`` frames.

    Frame 0 is repeated ``r − 1`` times in front, so that every group of ``r`` frames is complete; the decoder
    drops those frames again. A latent frame depends on no later frame. An image is a clip of one frame.

    Args:
        latent_channels: channels of a latent frame.
        time_factor: ``r``, frames in a latent frame.
        space_factor: pixels in a latent pixel, along each axis.
        wavelet_levels: Haar levels in front of the patches.
        encoder_width, decoder_width: channels of the residual blocks.
        encoder_depth, decoder_depth: residual blocks.
        ratio: hidden width of the feed-forward layers over ``width``.
        thin_width, thin_depth: channels and number of the convolutions at the wavelet's scale in the decoder.
        latents_mean, latents_std: statistics per channel, with which `LatentCodec` normalises.
    Raises:
        ValueError: a size is out of its range, the factors are no multiples of ``2**wavelet_levels``, or the
            statistics do not fit.
    """

    config: Any  # a dict whose entries are attributes as well

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        time_factor: int = 4,
        space_factor: int = 8,
        wavelet_levels: int = 1,
        encoder_width: int = 256,
        encoder_depth: int = 2,
        decoder_width: int = 256,
        decoder_depth: int = 4,
        ratio: float = 3.0,
        thin_width: int = 32,
        thin_depth: int = 2,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "latent_channels": latent_channels,
            "encoder_width": encoder_width,
            "decoder_width": decoder_width,
            "thin_width": thin_width,
        }
        depths = {"wavelet_levels": wavelet_levels, "encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        for least, values in ((1, sizes), (0, depths | {"thin_depth": thin_depth})):
            for name, value in values.items():
                if value < least:
                    raise ValueError(f"{name}={value} must be at least {least}")
        if not 1 <= ratio * min(encoder_width, decoder_width) < math.inf:
            raise ValueError(f"ratio={ratio} must give the feed-forward layers at least one hidden channel: use 2 to 4")
        step = 2**wavelet_levels
        for name, factor in (("time_factor", time_factor), ("space_factor", space_factor)):
            if factor < step or factor % step:
                lower = max(step, factor // step * step)
                raise ValueError(f"{name}={factor} must be a multiple of 2**wavelet_levels={step}: use {lower}")
        for name, statistics in (("latents_mean", latents_mean), ("latents_std", latents_std)):
            if statistics is not None and len(statistics) != latent_channels:
                raise ValueError(f"{name} has {len(statistics)} values and must have latent_channels={latent_channels}")
        patch = (time_factor // step, space_factor // step, space_factor // step)
        self.encoder = Encoder(patch, wavelet_levels, encoder_width, encoder_depth, ratio, latent_channels)
        self.decoder = Decoder(
            patch, wavelet_levels, decoder_width, decoder_depth, ratio, latent_channels, thin_width, thin_depth
        )
        self.tile: int | None = None  # latent pixels

    def enable_tiling(self, tile_size: int = 512) -> None:
        """Encode and decode frames in tiles: the same numbers, less memory. Not within a clip that is being streamed.

        Args:
            tile_size: most pixels along each axis that a tile gives; it is computed with its surroundings.

        Raises:
            ValueError: ``tile_size`` is not a multiple of ``space_factor``.
        """
        s = self.config.space_factor
        if tile_size < s or tile_size % s:
            raise ValueError(f"tile_size={tile_size} must be a multiple of {s}: use {max(s, tile_size // s * s)}")
        self.tile = tile_size // s

    def disable_tiling(self) -> None:
        """Encode and decode frames in one piece."""
        self.tile = None

    def encode_chunk(self, x: Tensor, state: TiledState | None) -> tuple[Tensor, TiledState]:
        """Encode the next frames of a clip.

        Args:
            x: ``(b, 3, n, h, w)`` in [-1, 1]; n = 1 + r·k at the start of a clip (``state`` None), later r·k.
            state: what the chunk before returned.
        Returns:
            Moments ``(b, 2·latent_channels, k', h / s, w / s)`` and the state after them.
        """
        if state is None:
            first = x[:, :, :1].expand(-1, -1, self.config.time_factor - 1, -1, -1)
            x = torch.cat([first, x], dim=2)
        return run_tiled(self.encoder, x, state, self.tile, self.encoder.reach, self.config.space_factor, 1)

    def decode_chunk(self, z: Tensor, state: TiledState | None) -> tuple[Tensor, TiledState]:
        """Decode the next latent frames ``(b, c, k, h, w)`` of a clip; the start of one (``state`` None) gives
        ``1 + r·(k − 1)`` frames, a later chunk ``r·k``. Returns frames and the state after them."""
        frames, new_state = run_tiled(
            self.decoder, z, state, self.tile, self.decoder.reach, 1, self.config.space_factor
        )
        return frames if state is not None else frames[:, :, self.config.time_factor - 1 :], new_state

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | Any:
        """Encode a whole clip ``(b, 3, 1 + r·k, h, w)`` in [-1, 1] to a Gaussian over ``(b, c, 1 + k, h/s, w/s)``."""
        self.check_size(x)
        if (x.shape[2] - 1) % (r := self.config.time_factor):
            lower = max(1, 1 + (x.shape[2] - 1) // r * r)
            raise ValueError(f"num_frames={x.shape[2]} must be 1 + {r}k: use {lower} or {lower + r}")
        posterior = DiagonalGaussianDistribution(self.encode_chunk(x, None)[0])
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | Any:
        """Decode a whole clip's latents ``(b, c, 1 + k, h, w)`` to fp32 frames ``(b, 3, 1 + r·k, s·h, s·w)``."""
        self.check_latents(z)
        if min(z.shape) < 1:
            raise ValueError(f"latents of shape {tuple(z.shape)} are empty: give at least one latent frame")
        frames = self.decode_chunk(z, None)[0]
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | Any:
        """Reconstruct a clip ``(b, 3, 1 + r·k, h, w)`` through the mean of its latents."""
        return self.decode(self.encode(sample).latent_dist.mode(), return_dict=return_dict)

    def check_size(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is ``(b, 3, t, h, w)``, h and w multiples of ``space_factor``."""
        s = self.config.space_factor
        if x.ndim != 5 or x.shape[1] != 3:
            raise ValueError(f"frames of shape {tuple(x.shape)} must be (b, 3, t, h, w): rearrange them")
        for name, size in (("height", x.shape[3]), ("width", x.shape[4])):
            if size < s or size % s:
                lower = max(s, size // s * s)
                raise ValueError(f"{name}={size} must be a multiple of {s}: use {lower} or {lower + s}")

    def check_latents(self, z: Tensor) -> None:
        """Raise ValueError unless ``z`` is ``(b, latent_channels, t, h, w)``."""
        channels = self.config.latent_channels
        if z.ndim != 5 or z.shape[1] != channels:
            raise ValueError(
                f"latents of shape {tuple(z.shape)} must be (b, {channels}, t, h, w): give latents of this autoencoder"
            )
