"""`LatentCodec`: what the rest of the code sees of the autoencoder. It owns mean and std of the latents."""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vae3d.interop import Autoencoder, decode_whole, encode_whole, latent_spec, load_autoencoder, set_tiling
from vae3d.model import VideoVAE
from vae3d.streaming import DecodeStream, EncodeStream

CHUNK_PIXELS = 16 * 256 * 256
"""Pixels of each clip that a `VideoVAE` takes at a time, so that memory for activations does not grow with duration.
With half as many, torch computes `vae_tiny` in fp32 by a convolution that is slower."""

DECODER = ("decoder", "post_quant_conv", "thin")
"""How the names of weights and settings begin that are the decoder's: all such weights, in `VideoVAE` and in diffusers'
autoencoders, and all such settings of `VideoVAE`."""


class LatentCodec:
    """Frames ``(b, 3, t, h, w)`` in [-1, 1] to normalised latents ``(b, c, t', h', w')`` and back.

    Latents have zero mean and unit variance per channel; encoding returns the mean of the posterior, not a sample.

    Args:
        vae: a `VideoVAE`, or diffusers' AutoencoderKLWan, -CogVideoX, -LTXVideo or -HunyuanVideo.
    Raises:
        ValueError: the autoencoder is of another class, or holds no latent statistics.
    """

    def __init__(self, vae: Autoencoder) -> None:
        self.vae: Any = vae  # to mypy, decorators hide the constructors and methods of diffusers' classes
        self._spec = latent_spec(vae)
        self._mean = rearrange(self._spec.mean, "c -> 1 c 1 1 1")
        self._std = rearrange(self._spec.std, "c -> 1 c 1 1 1")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, subfolder: str | None = "vae", dtype: torch.dtype | None = None
    ) -> "LatentCodec":
        """Load the autoencoder in ``folder/subfolder`` of a diffusers checkpoint, in fp32 by default.

        ``folder`` may be a repository on the Hugging Face Hub, as "Wan-AI/Wan2.1-T2V-1.3B-Diffusers".

        Raises:
            ValueError: there is none, it is damaged, or of a class that is not understood.
        """
        return cls(load_autoencoder(folder, subfolder, dtype or torch.float32))

    @property
    def frame_rule(self) -> tuple[int, int]:
        """``(r, 1)``: a clip has ``1 + r·k`` frames."""
        return self._spec.time_factor, 1

    @property
    def grid(self) -> int:
        """Pixels in a latent pixel along each space axis; height and width are multiples of it."""
        return self._spec.space_factor

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self._spec.channels

    def fingerprint(self, decoder: bool = False) -> str:
        """A hash of the config and weights that make latents: those of codecs that differ in it do not mix. A better
        decoder does not change it. decoder: count the decoder's as well, for what comes out of it."""
        others = ("_",) if decoder else ("_", *DECODER)
        settings = sorted(
            (key, list(value) if isinstance(value, tuple) else value)  # as it comes back from a file
            for key, value in self.vae.config.items()
            if not key.startswith(others)
        )
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
        for name, tensor in sorted(self.vae.state_dict().items()):
            if not name.startswith(others):
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def chunk_length(self, height: int, width: int) -> int:
        """Latent frames of ``height`` x ``width`` latent pixels that a `VideoVAE` takes at a time, at least one."""
        return max(1, CHUNK_PIXELS // (self.frame_rule[0] * self.grid**2 * height * width))

    def num_latent_frames(self, num_frames: int) -> int:
        """``1 + k`` for ``num_frames = 1 + r·k``.

        Raises:
            ValueError: ``num_frames`` breaks the rule.
        """
        r, rest = self.frame_rule
        if num_frames < 1 or (num_frames - rest) % r:
            lower = max(rest, rest + (num_frames - rest) // r * r)
            raise ValueError(f"num_frames={num_frames} must be {rest} + {r}k: use {lower} or {lower + r}")
        return 1 + (num_frames - rest) // r

    def check_size(self, frames: Tensor) -> None:
        """Raises ValueError unless ``frames`` is ``(b, 3, t, h, w)``, b not 0, h and w multiples of `grid`."""
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"frames of shape {tuple(frames.shape)} must be (b, 3, t, h, w): rearrange them")
        if not len(frames):
            raise ValueError(f"frames of shape {tuple(frames.shape)} hold no clip: give at least one")
        for name, size in (("height", frames.shape[3]), ("width", frames.shape[4])):
            if size < self.grid or size % self.grid:
                lower = max(self.grid, size // self.grid * self.grid)
                raise ValueError(f"{name}={size} must be a multiple of {self.grid}: use {lower} or {lower + self.grid}")

    def check_latents(self, latents: Tensor) -> None:
        """Raises ValueError unless ``latents`` is ``(b, latent_channels, t, h, w)``, b, h and w not 0, and finite."""
        shape = tuple(latents.shape)
        if len(shape) != 5 or shape[1] != self.latent_channels or not shape[0] * shape[3] * shape[4]:
            raise ValueError(
                f"latents of shape {shape} must be (b, {self.latent_channels}, t, h, w), b, h and w not 0: "
                "give latents of this autoencoder"
            )
        if not latents.isfinite().all():
            low, high = (float(v) for v in latents.aminmax())
            raise ValueError(
                f"latents hold values from {low} to {high} and must be finite: "
                "make them with a lower guidance_scale, or in float32"
            )

    def normalize(self, latents: Tensor) -> Tensor:
        """Raw latents of the autoencoder to zero mean and unit variance."""
        return (latents - self._mean.to(latents)) / self._std.to(latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`; raises ValueError as `check_latents` does."""
        self.check_latents(latents)
        return latents * self._std.to(latents) + self._mean.to(latents)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(b, 3, 1 + r·k, h, w)`` in [-1, 1] to normalised latents ``(b, c, 1 + k, h', w')``, fp32.

        Raises:
            ValueError: wrong rank, channels, frame count or size, or values that are not finite or out of range.
        """
        self.check_size(frames)
        self.num_latent_frames(frames.shape[2])
        stream = self.encode_stream()
        return torch.cat([stream.push(frames), stream.finish()], dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``(b, c, 1 + k, h', w')`` to frames ``(b, 3, 1 + r·k, h, w)``, fp32, in [-1, 1].

        Raises:
            ValueError: wrong rank or channels, no latent frame, or values that are not finite.
        """
        stream = self.decode_stream()
        return torch.cat([stream.push(latents), stream.finish()], dim=2)

    def encode_stream(self) -> "CodecEncodeStream":
        """A stream that gives the latents of `encode` as frames come."""
        return CodecEncodeStream(self)

    def decode_stream(self) -> "CodecDecodeStream":
        """A stream that gives the frames of `decode` as latents come."""
        return CodecDecodeStream(self)

    def enable_tiling(self, tile: int | None = 512) -> None:
        """Encode and decode large frames in overlapping tiles of ``tile`` pixels a side; None ends it.

        Raises:
            ValueError: ``tile`` breaks the autoencoder's rule, which the message tells.
        """
        set_tiling(self.vae, self.grid, tile)


class CodecEncodeStream:
    """Encodes a clip as its frames come.

    Memory does not grow with duration for a `VideoVAE` alone; the autoencoders of diffusers have no public stream, so
    that frames are kept until `finish`.
    """

    def __init__(self, codec: LatentCodec) -> None:
        self._codec = codec
        self._stream = EncodeStream(codec.vae) if isinstance(codec.vae, VideoVAE) else None
        self._kept: list[Tensor] = []
        self._first: Tensor | None = None  # no frames, in the shape of the first chunk

    @torch.no_grad()
    def push(self, frames: Tensor) -> Tensor:
        """Next frames ``(b, 3, n, h, w)`` in [-1, 1], n ≥ 0, to the latent frames complete now (maybe none).

        Raises:
            ValueError: wrong rank, channels or size, values not finite or out of range, another shape than before.
        """
        codec, vae = self._codec, self._codec.vae
        codec.check_size(frames)
        check_values(frames)
        self._first = none_like(frames, self._first)
        if self._stream is None:
            self._kept.append(frames.to(vae.device, vae.dtype, copy=True))  # the caller may write into its own
            return self._nothing()
        length = codec.chunk_length(frames.shape[3] // codec.grid, frames.shape[4] // codec.grid)
        parts = frames.split(length * codec.frame_rule[0], dim=2)
        latents = [self._stream.push(part.to(vae.device, vae.dtype)) for part in parts]
        return codec.normalize(torch.cat(latents, dim=2).float())

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the clip and return the latent frames that are left, for a `VideoVAE` none.

        Raises:
            ValueError: the clip had not 1 + r·k frames.
        """
        if self._stream is not None:
            self._stream.finish()
            return self._nothing()
        if not (total := sum(part.shape[2] for part in self._kept)):
            raise ValueError(f"num_frames=0 must be 1 + {self._codec.frame_rule[0]}k: push at least one frame")
        self._codec.num_latent_frames(total)
        latents = encode_whole(self._codec.vae, torch.cat(self._kept, dim=2))
        return self._codec.normalize(latents.float())

    def _nothing(self) -> Tensor:
        assert self._first is not None
        b, _, _, h, w = self._first.shape
        grid, device = self._codec.grid, self._codec.vae.device
        return torch.zeros(b, self._codec.latent_channels, 0, h // grid, w // grid, device=device)


class CodecDecodeStream:
    """Decodes a clip as its latent frames come; memory is as in `CodecEncodeStream`."""

    def __init__(self, codec: LatentCodec) -> None:
        self._codec = codec
        self._stream = DecodeStream(codec.vae) if isinstance(codec.vae, VideoVAE) else None
        self._kept: list[Tensor] = []
        self._first: Tensor | None = None  # no latents, in the shape of the first chunk

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Next latent frames ``(b, c, k, h', w')``, k ≥ 0, to their frames in [-1, 1] (maybe none).

        Raises:
            ValueError: wrong rank or channels, values that are not finite, another shape than before.
        """
        raw = self._codec.denormalize(latents.float()).to(self._codec.vae.device, self._codec.vae.dtype)
        self._first = none_like(latents, self._first)
        if self._stream is None:
            self._kept.append(raw)
            return self._nothing()
        parts = raw.split(self._codec.chunk_length(*raw.shape[3:]), dim=2)
        frames = [self._stream.push(part).clamp(-1, 1) for part in parts]
        return torch.cat(frames, dim=2)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the clip and return the frames that are left, for a `VideoVAE` none.

        Raises:
            ValueError: no latents were pushed.
        """
        if self._stream is not None:
            self._stream.finish()
            return self._nothing()
        if not any(part.shape[2] for part in self._kept):
            raise ValueError("no latents were pushed: a clip has at least one latent frame")
        return decode_whole(self._codec.vae, torch.cat(self._kept, dim=2)).float().clamp(-1, 1)

    def _nothing(self) -> Tensor:
        assert self._first is not None
        b, _, _, h, w = self._first.shape
        grid, device = self._codec.grid, self._codec.vae.device
        return torch.zeros(b, 3, 0, grid * h, grid * w, device=device)


def check_values(frames: Tensor) -> None:
    """Raises ValueError unless all values are finite and lie in [-1, 1]."""
    if not frames.is_floating_point():
        raise ValueError(f"frames of {frames.dtype} must be float in [-1, 1]: scale uint8 by /127.5 - 1")
    if frames.numel() == 0:
        return
    low, high = (float(v) for v in frames.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"frames hold values from {low} to {high} and must be finite: look for the step that made them"
        )
    if low < -1.001 or high > 1.001:
        raise ValueError(f"frames hold values from {low} to {high} and must lie in [-1, 1]: scale uint8 by /127.5 - 1")


def none_like(chunk: Tensor, first: Tensor | None) -> Tensor:
    """A chunk ``(b, c, t, h, w)`` without its frames; ValueError where it does not go on ``first``."""
    empty = chunk[:, :, :0]
    if first is not None and first.shape != empty.shape:
        (b, c, _, h, w) = first.shape
        raise ValueError(
            f"a chunk of shape {tuple(chunk.shape)} must be ({b}, {c}, t, {h}, {w}) as those before: "
            "start a new stream for a clip of another size"
        )
    return empty.clone()
