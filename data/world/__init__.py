"""A procedural 3D world with exact captions and exact ground truth."""

from data.world.caption import is_held_out
from data.world.scene import sample_scene

__all__ = ["is_held_out", "sample_scene"]
