"""Encode and decode a clip of any length chunk by chunk: the numbers of one pass, in constant memory."""

import torch
from torch import Tensor

from vae3d.model import VideoVAE
from vae3d.tiling import TiledState


class EncodeStream:
    """Encodes a clip as its frames come. Keeps frames only until their group of ``r`` is complete."""

    def __init__(self, vae: VideoVAE) -> None:
        self._vae = vae
        self._state: TiledState | None = None
        self._pending: Tensor | None = None

    @torch.no_grad()
    def push(self, frames: Tensor) -> Tensor:
        """Take the next frames ``(b, 3, n, h, w)`` in [-1, 1], n ≥ 0.

        Returns the means of the latent frames that are complete now, ``(b, c, k, h/s, w/s)``, k ≥ 0, not
        normalised.

        Raises:
            ValueError: wrong rank, channels or size.
        """
        self._vae.check_size(frames)
        r, s = self._vae.config.time_factor, self._vae.config.space_factor
        if self._pending is not None:
            frames = torch.cat([self._pending, frames], dim=2)
        ready = frames.shape[2] // r * r
        if self._state is None:
            ready = 0 if frames.shape[2] == 0 else 1 + (frames.shape[2] - 1) // r * r
        self._pending = frames[:, :, ready:].clone()  # the caller may write into its own
        if not ready:
            b, _, _, h, w = frames.shape
            return frames.new_zeros(b, self._vae.config.latent_channels, 0, h // s, w // s)
        moments, self._state = self._vae.encode_chunk(frames[:, :, :ready], self._state)
        return moments.chunk(2, dim=1)[0]

    def finish(self) -> None:
        """End the clip.

        Raises:
            ValueError: the frames were not 1 + r·k in all.
        """
        r = self._vae.config.time_factor
        if self._state is None or self._pending is None:
            raise ValueError(f"num_frames=0 must be 1 + {r}k: push at least one frame")
        if left := self._pending.shape[2]:
            raise ValueError(
                f"{left} frames stand beyond the last whole group: num_frames must be 1 + {r}k, "
                f"so push {r - left} more or {left} less"
            )


class DecodeStream:
    """Decodes a clip as its latent frames come."""

    def __init__(self, vae: VideoVAE) -> None:
        self._vae = vae
        self._state: TiledState | None = None

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Take the next latent frames ``(b, c, k, h, w)``, not normalised, k ≥ 0.

        Returns their fp32 frames ``(b, 3, n, s·h, s·w)``: n = 1 + r·(k − 1) at the start of the clip, later r·k.

        Raises:
            ValueError: wrong rank or channels.
        """
        self._vae.check_latents(latents)
        b, _, k, h, w = latents.shape
        s = self._vae.config.space_factor
        if k == 0:
            return latents.new_zeros(b, 3, 0, s * h, s * w, dtype=torch.float32)
        frames, self._state = self._vae.decode_chunk(latents, self._state)
        return frames

    def finish(self) -> None:
        """End the clip.

        Raises:
            ValueError: no latent frame was pushed.
        """
        if self._state is None:
            raise ValueError("no latents were pushed: a clip has at least one latent frame")
