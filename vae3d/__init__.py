"""3D causal video autoencoder: clips to spacetime latents and back."""

from vae3d.codec import LatentCodec
from vae3d.model import VideoVAE

__all__ = ["LatentCodec", "VideoVAE"]
