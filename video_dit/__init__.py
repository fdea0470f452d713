"""Text-conditioned diffusion transformer over packed spacetime tokens, its training and its sampling."""

from video_dit.model import VideoDiT
from video_dit.pipeline import VideoPipeline

__all__ = ["VideoDiT", "VideoPipeline"]
