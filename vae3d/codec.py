"""`LatentCodec`: what the rest of the code sees of the autoencoder. It owns mean and std of the latents."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from vae3d.model import VideoVAE
from vae3d.streaming import DecodeStream, EncodeStream


class LatentCodec:
    """Frames ``(b, 3, t, h, w)`` in [-1, 1] to normalised latents ``(b, c, t', h', w')`` and back.

    Latents have zero mean and unit variance per channel; encoding returns the mean of the posterior, not a sample.

    Raises:
        ValueError: the autoencoder's config holds no latent statistics.
    """

    def __init__(self, vae: VideoVAE) -> None:
        config = vae.config
        if config.latents_mean is None or config.latents_std is None:
            raise ValueError("the autoencoder has no latents_mean and latents_std: train it with tools/train_vae.py")
        self.vae = vae
        self._mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, subfolder: str | None = "vae", dtype: torch.dtype | None = None
    ) -> "LatentCodec":
        """Load the autoencoder in ``folder/subfolder`` of a diffusers checkpoint.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        root = Path(folder) / (subfolder or "")
        if not (root / "config.json").is_file():
            raise ValueError(f"{root} holds no autoencoder: give a folder that has {subfolder or '.'}/config.json")
        try:
            vae = VideoVAE.from_pretrained(folder, subfolder=subfolder, dtype=dtype or torch.float32)
        except OSError as error:
            raise ValueError(f"{root} holds no whole autoencoder: {' '.join(str(error).split())}") from None
        return cls(vae.eval())

    @property
    def frame_rule(self) -> tuple[int, int]:
        """``(r, 1)``: a clip has ``1 + r·k`` frames."""
        return self.vae.config.time_factor, 1

    @property
    def grid(self) -> int:
        """Pixels in a latent pixel along each space axis; height and width are multiples of it."""
        return self.vae.config.space_factor

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.latent_channels

    def fingerprint(self) -> str:
        """A hash of config and weights: latents of codecs that differ in it do not mix."""
        settings = sorted((key, value) for key, value in self.vae.config.items() if not key.startswith("_"))
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
        for name, tensor in sorted(self.vae.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

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

    def normalize(self, latents: Tensor) -> Tensor:
        """Raw latents of the autoencoder to zero mean and unit variance."""
        return (latents - self._mean.to(latents)) / self._std.to(latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`; raises ValueError for latents of a wrong rank or number of channels."""
        self.vae.check_latents(latents)
        return latents * self._std.to(latents) + self._mean.to(latents)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(b, 3, 1 + r·k, h, w)`` in [-1, 1] to normalised latents ``(b, c, 1 + k, h', w')``, fp32.

        Raises:
            ValueError: wrong rank, channels, frame count or size, or values that are not finite or out of range.
        """
        self._check_values(frames)
        posterior = self.vae.encode(frames.to(self.vae.device, self.vae.dtype)).latent_dist
        return self.normalize(posterior.mode().float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``(b, c, 1 + k, h', w')`` to frames ``(b, 3, 1 + r·k, h, w)``, fp32, in [-1, 1]."""
        latents = self.denormalize(latents.float()).to(self.vae.device, self.vae.dtype)
        return self.vae.decode(latents).sample.float().clamp(-1, 1)

    def encode_stream(self) -> "CodecEncodeStream":
        """A stream that gives the latents of `encode` as frames come."""
        return CodecEncodeStream(self)

    def decode_stream(self) -> "CodecDecodeStream":
        """A stream that gives the frames of `decode` as latents come."""
        return CodecDecodeStream(self)

    @staticmethod
    def _check_values(frames: Tensor) -> None:
        if frames.numel() == 0:
            return
        low, high = (float(v) for v in frames.aminmax())
        if not (low >= -1.001 and high <= 1.001):  # also false for NaN
            raise ValueError(
                f"frames hold values from {low} to {high} and must lie in [-1, 1]: scale uint8 by /127.5 - 1"
            )


class CodecEncodeStream:
    """`EncodeStream` with normalised latents."""

    def __init__(self, codec: LatentCodec) -> None:
        self._codec = codec
        self._stream = EncodeStream(codec.vae)

    def push(self, frames: Tensor) -> Tensor:
        """Next frames ``(b, 3, n, h, w)`` in [-1, 1], n ≥ 0, to the latent frames complete now (maybe none)."""
        vae = self._codec.vae
        self._codec._check_values(frames)
        latents = self._stream.push(frames.to(vae.device, vae.dtype))
        return self._codec.normalize(latents.float())

    def finish(self) -> None:
        """End the clip; ValueError when it had not 1 + r·k frames."""
        self._stream.finish()


class CodecDecodeStream:
    """`DecodeStream` of normalised latents."""

    def __init__(self, codec: LatentCodec) -> None:
        self._codec = codec
        self._stream = DecodeStream(codec.vae)

    def push(self, latents: Tensor) -> Tensor:
        """Next latent frames ``(b, c, k, h', w')``, k ≥ 0, to their frames in [-1, 1] (maybe none)."""
        vae = self._codec.vae
        raw = self._codec.denormalize(latents.float()).to(vae.device, vae.dtype)
        return self._stream.push(raw).float().clamp(-1, 1)

    def finish(self) -> None:
        """End the clip; ValueError when no latents were pushed."""
        self._stream.finish()
