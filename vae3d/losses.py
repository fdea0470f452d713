"""Losses of the autoencoder: pure functions of frames ``(b, 3, t, h, w)`` in [-1, 1]."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange
from torch import Tensor

from vae3d.layers import haar


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term of the training loss; 0 leaves a term out."""

    mse: float = 6.0
    l1: float = 0.3
    wavelet: float = 0.02
    gradient: float = 0.02
    kl: float = 1e-6


def wavelet_l1(prediction: Tensor, target: Tensor, r: int) -> Tensor:
    """Mean absolute difference of the Haar bands. Frame 0 is repeated in front, as the autoencoder does it."""
    error = prediction - target
    error = torch.cat([error[:, :, :1].expand(-1, -1, r - 1, -1, -1), error], dim=2)
    return haar(rearrange(error, "b c t h w -> b t h w c"), levels=1).abs().mean()


def gradient_l1(prediction: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of space and time gradients at ``scales`` sizes, each half of the one before.

    Time gradients keep the decoder from pulsing at the borders of latent groups, space gradients sharpen edges.
    """
    error = prediction - target
    loss = error.new_zeros(())
    if error.shape[2] > 1:
        loss = loss + error.diff(dim=2).abs().mean()
    for scale in range(scales):
        if scale:
            error = F.avg_pool3d(error, (1, 2, 2))
        if min(error.shape[3:]) < 2:
            break
        loss = loss + error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean()
    return loss


def kl_per_value(posterior: DiagonalGaussianDistribution, frames: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the unit Gaussian, over the number of values in the frames."""
    divergence = posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()
    return 0.5 * divergence.sum() / frames.numel()


def reconstruction_loss(
    prediction: Tensor, target: Tensor, posterior: DiagonalGaussianDistribution, r: int, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and each term by name (unweighted, detached). Computed in fp32."""
    prediction, target = prediction.float(), target.float()
    terms = {
        "mse": (prediction - target).square().mean(),
        "l1": (prediction - target).abs().mean(),
        "wavelet": wavelet_l1(prediction, target, r),
        "gradient": gradient_l1(prediction, target),
        "kl": kl_per_value(posterior, target),
    }
    total = sum((getattr(weights, name) * term for name, term in terms.items()), start=target.new_zeros(()))
    return total, {name: term.detach() for name, term in terms.items()}


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip ``(b,)``, over all its values; frames in [-1, 1]."""
    error = (prediction.float() - target.float()).square().flatten(1).mean(dim=1) / 4
    return -10 * error.clamp_min(1e-10).log10()


@dataclass(frozen=True)
class Equivariance:
    """A transform done alike to latents and frames: the latents of a flipped or smaller clip should be the
    flipped or smaller latents (EQ-VAE, Kouzelis et al., 2025, arXiv:2502.09509)."""

    flip_height: bool = False
    flip_width: bool = False
    scale: float = 1.0

    @classmethod
    def draw(cls, generator: torch.Generator) -> "Equivariance":
        """A random transform: each flip with one half, a scale of 1, 3/4 or 1/2."""
        flips = torch.rand(2, generator=generator) < 0.5
        scale = (1.0, 0.75, 0.5)[int(torch.randint(3, (), generator=generator))]
        return cls(bool(flips[0]), bool(flips[1]), scale)

    def latents(self, z: Tensor) -> Tensor:
        """Transform latents ``(b, c, t, h, w)``; sizes are rounded to whole latent pixels."""
        h, w = self._size(z.shape[3]), self._size(z.shape[4])
        return self._flip(self._resize(z, h, w))

    def frames(self, x: Tensor, grid: int) -> Tensor:
        """Transform frames ``(b, 3, t, h, w)`` as `latents` does theirs; ``grid`` is pixels in a latent pixel."""
        h, w = self._size(x.shape[3] // grid) * grid, self._size(x.shape[4] // grid) * grid
        return self._flip(self._resize(x, h, w))

    def _size(self, size: int) -> int:
        return max(1, round(size * self.scale))

    def _flip(self, x: Tensor) -> Tensor:
        axes = [axis for axis, on in ((3, self.flip_height), (4, self.flip_width)) if on]
        return x.flip(axes) if axes else x

    @staticmethod
    def _resize(x: Tensor, h: int, w: int) -> Tensor:
        if (h, w) == tuple(x.shape[3:]):
            return x
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        frames = F.interpolate(frames.float(), (h, w), mode="bilinear", antialias=True).to(x.dtype)
        return rearrange(frames, "(b t) c h w -> b c t h w", b=x.shape[0])
