"""Losses of the autoencoder: pure functions of frames ``(b, 3, t, h, w)`` in [-1, 1]."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange
from torch import Tensor

from vae3d.layers import haar
from vae3d.lpips import LPIPS
from vae3d.metrics import SEEN


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term of the training loss; 0 leaves a term out.

    Raises:
        ValueError: a weight is out of its range, or ``lpips`` has no weights to load.
    """

    mse: float = 6.0
    l1: float = 0.3
    wavelet: float = 0.02
    gradient: float = 0.02
    border: float = 0.2
    temporal_blocking: float = 0.1
    kl: float = 1e-6
    equivariance: float = 0.0
    """Share of steps that decode transformed latents to transformed frames (see `Equivariance`)."""
    lpips: float = 0.0
    lpips_weights: str = ""
    """Folder of the files that `vae3d.lpips.LPIPS` loads."""

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if name != "lpips_weights" and not weight >= 0:
                raise ValueError(f"losses.{name}={weight} must be 0 or more")
        if not 0 <= self.equivariance <= 1:
            raise ValueError(f"losses.equivariance={self.equivariance} must be in [0, 1]: it is a share of steps")
        if self.lpips and not self.lpips_weights:
            raise ValueError(f"losses.lpips={self.lpips:g} needs losses.lpips_weights: give the folder of its files")


def wavelet_l1(prediction: Tensor, target: Tensor, r: int) -> Tensor:
    """Mean absolute difference of the bands of one Haar level. Frame 0 is repeated in front, as the autoencoder does
    it; with an odd ``r`` once more, since the wavelet takes frames by twos."""
    error = prediction - target
    error = torch.cat([error[:, :, :1].expand(-1, -1, r - 1 + (error.shape[2] + r - 1) % 2, -1, -1), error], dim=2)
    return haar(rearrange(error, "b c t h w -> b t h w c"), levels=1).abs().mean()


def gradient_l1(prediction: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of space and time gradients at ``scales`` sizes, each half of the one before.

    Time gradients keep errors from flickering, space gradients sharpen edges.
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


def border_l1(prediction: Tensor, target: Tensor, r: int, grid: int) -> Tensor:
    """Mean absolute error of the differences across the borders of latent groups and of patches.

    It is there that a decoder pulses, every ``r`` frames, and shows its grid, every ``grid`` pixels.
    """
    error = prediction - target
    loss = error.new_zeros(())
    if error.shape[2] > 1:
        loss = loss + (error[:, :, 1::r] - error[:, :, :-1:r]).abs().mean()
    if error.shape[3] > grid:
        loss = loss + (error[:, :, :, grid::grid] - error[:, :, :, grid - 1 : -1 : grid]).abs().mean()
    if error.shape[4] > grid:
        loss = loss + (error[..., grid::grid] - error[..., grid - 1 : -1 : grid]).abs().mean()
    return loss


def temporal_blocking(prediction: Tensor, target: Tensor, r: int) -> Tensor:
    """How unevenly a clip changes from frame to frame: more from one group of ``r`` frames to the next than inside.

    For each of the ``r`` places of a difference of neighbouring frames (the first crosses the border of groups), c is
    the logarithm of the mean change of the prediction over that of the target. All c should be equal; but one that is
    positive is not to grow, or noise inside groups would do as well. So the loss is the mean square of the distance of
    c from the interval [min(0, mean c), mean c]. The mean takes no gradient.
    """
    if target.shape[2] <= r:
        return target.new_zeros(())
    changes = torch.stack([x.diff(dim=2).abs().mean(dim=(1, 3, 4)) for x in (prediction, target)])  # 2 b (k r)
    changes = rearrange(changes, "n b (k r) -> n b r k", r=r).mean(dim=-1) + SEEN  # 2 b r
    c = (changes[0] / changes[1]).log()
    mean = c.detach().mean(dim=-1, keepdim=True)
    return (c - c.detach().clamp(mean.clamp_max(0), mean)).square().mean()


def kl_per_value(posterior: DiagonalGaussianDistribution, values: int) -> Tensor:
    """Kullback-Leibler divergence from the unit Gaussian, over the number of values in the frames encoded."""
    divergence = posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()
    return 0.5 * divergence.sum() / values


def reconstruction_loss(
    prediction: Tensor,
    target: Tensor,
    posterior: DiagonalGaussianDistribution,
    r: int,
    grid: int,
    weights: LossWeights,
    perceptual: LPIPS | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and each term by name (unweighted, detached). Computed in fp32; terms of weight 0 are not."""
    prediction, target = prediction.float(), target.float()
    compute: dict[str, Callable[[], Tensor]] = {
        "mse": lambda: (prediction - target).square().mean(),
        "l1": lambda: (prediction - target).abs().mean(),
        "wavelet": lambda: wavelet_l1(prediction, target, r),
        "gradient": lambda: gradient_l1(prediction, target),
        "border": lambda: border_l1(prediction, target, r, grid),
        "temporal_blocking": lambda: temporal_blocking(prediction, target, r),
        "kl": lambda: kl_per_value(posterior, posterior.mean[:, :1].numel() * 3 * r * grid**2),
    }
    if perceptual is not None:
        compute["lpips"] = lambda: perceptual(prediction, target)
    terms = {name: term() for name, term in compute.items() if getattr(weights, name)}
    total = sum((getattr(weights, name) * term for name, term in terms.items()), start=target.new_zeros(()))
    return total, {name: term.detach() for name, term in terms.items()}


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
