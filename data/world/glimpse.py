"""Crops that follow each object, scaled by its distance (glimpses, as arXiv:1406.6247 calls them).

Neither the object's own way nor the camera's moves or resizes it there: what is left is how it turns, rolls or grows,
and what passes before it. Places and distances are the judge's own and get no gradient from here.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from data.world.camera import half_view
from data.world.layers import TIME_STRIDE, TimeShiftBlock

SIDE = 24  # pixels of a crop
REACH = 0.95  # units from a crop's centre to its sides: the whole of a large object


def glimpses(frames: Tensor, centres: Tensor, depths: Tensor) -> Tensor:
    """Crops of frames (b, c, t, h, w) around objects at centres (b, k, t, 2), x and y in [0, 1] of the picture, and
    depths (b, k, t), units ahead of the camera: (b, k, t, c, `SIDE`, `SIDE`). Each spans 2 × `REACH` units at the
    object's depth; outside the picture its border pixels are repeated."""
    b, k = depths.shape[:2]
    half_x, half_y = half_view(frames.shape[-1] / frames.shape[-2])
    along = REACH * (2.0 * (torch.arange(SIDE, device=frames.device) + 0.5) / SIDE - 1.0)
    around = torch.stack(torch.meshgrid(along / half_x, along / half_y, indexing="xy"), dim=-1)  # y x 2
    points = rearrange(2.0 * centres - 1.0, "b k t c -> b k t 1 1 c") + around / depths[..., None, None, None]
    found = F.grid_sample(
        rearrange(frames, "b c t h w -> (b t) c h w"),
        rearrange(points, "b k t y x c -> (b t) (k y) x c"),
        padding_mode="border",
        align_corners=False,
    )
    return rearrange(found, "(b t) c (k y) x -> b k t c y x", b=b, k=k)


class Glimpse(nn.Module):
    """What objects look like from close by, at each step."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.out_width = out_width
        self.down1 = nn.Conv2d(3 * TIME_STRIDE, width, 5, 2, 2)
        self.block1 = TimeShiftBlock(width)
        self.down2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.block2 = TimeShiftBlock(2 * width)
        self.norm = nn.BatchNorm2d(2 * width)
        self.down3 = nn.Conv2d(2 * width, 2 * width, 3, 2, 1)
        self.out = nn.Linear(2 * width * (SIDE // 8) ** 2, out_width)

    def forward(self, frames: Tensor, centres: Tensor, depths: Tensor, present: Tensor) -> Tensor:
        """As `glimpses` takes them, t = 2s; present: (b, k), which to look at. (b, k, s, d), zeros for the others."""
        crops = glimpses(frames, centres, depths)[present]  # n t c h w
        steps = crops.shape[1] // TIME_STRIDE
        x = rearrange(crops, "n (s f) c h w -> (n s) (f c) h w", f=TIME_STRIDE)
        x = self.block1(self.down1(x.contiguous(memory_format=torch.channels_last)), steps)
        x = self.block2(self.down2(F.relu(x)), steps)
        x = F.relu(self.down3(F.relu(self.norm(x))))
        found = self.out(rearrange(x, "(n s) c i j -> n s (c i j)", s=steps))
        everything = found.new_zeros(*present.shape, steps, self.out_width)
        everything[present] = found
        return everything
