"""LPIPS, the perceptual distance of Zhang et al. (2018), from weights that are on disk already.

Neither torchvision nor lpips is needed: the network is the thirteen convolutions of VGG-16, and what was learnt on top
of them is one weight for each channel of five of its layers.
"""

from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

VGG_FILE, HEADS_FILE = "vgg16-397923af.pth", "vgg.pth"

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the convolutions in VGG-16's ``features``; each stage but the first begins by halving the picture."""

WIDTHS = (3, 64, 128, 256, 512, 512)


class LPIPS(nn.Module):
    """Perceptual distance of pictures. Its weights are frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                str(number): nn.Conv2d(before if number == stage[0] else width, width, 3, padding=1)
                for (before, width), stage in zip(pairwise(WIDTHS), STAGES, strict=True)
                for number in stage
            }
        )
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in WIDTHS[1:])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "LPIPS":
        """The weights of torchvision's VGG-16 (``vgg16-397923af.pth``) and of the lpips package (``vgg.pth``).

        Raises:
            ValueError: a file is not there, or is not what it should be.
        """
        weights: dict[str, Tensor] = {}
        for name in (VGG_FILE, HEADS_FILE):
            path = Path(folder) / name
            if not path.is_file():
                raise ValueError(
                    f"losses.lpips_weights={folder} must hold {VGG_FILE} and {HEADS_FILE}: {name} is missing"
                )
            try:
                weights |= torch.load(path, map_location="cpu", weights_only=True)
            except (UnpicklingError, RuntimeError, EOFError, TypeError):
                raise ValueError(f"losses.lpips_weights={folder}: {name} is damaged: download it anew") from None
        network = cls()
        try:
            features = network.features.state_dict()
            network.features.load_state_dict({name: weights[f"features.{name}"] for name in features})
            for number, head in enumerate(network.heads):
                head.copy_(weights[f"lin{number}.model.1.weight"].flatten())
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"losses.lpips_weights={folder} holds other weights: {reason}") from None
        return network

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean distance of frames ``(b, 3, t, h, w)`` in [-1, 1], each side at least 16 pixels."""
        pictures = rearrange(torch.stack([prediction, target]), "pair b c t h w -> (pair b t) c h w")
        x = (pictures - self.shift) / self.scale
        distance = x.new_zeros(())
        for number, (stage, head) in enumerate(zip(STAGES, self.heads, strict=True)):
            if number:
                x = F.max_pool2d(x, 2)
            for name in stage:
                x = F.relu(self.features[str(name)](x))
            ours, theirs = F.normalize(x, dim=1, eps=1e-10).chunk(2)
            distance = distance + torch.einsum("n c h w, c -> n h w", (ours - theirs).square(), head).mean()
        return distance
