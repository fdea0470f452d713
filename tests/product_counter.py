"""PyTorch's counter of FLOPs, which also knows the products that oneDNN computes for `video_dit.linear`."""

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def product_counter() -> FlopCounterMode:
    """Counts what runs while it is entered."""
    mapping: Any = {torch.ops.mkldnn._linear_pointwise: _linear_flops}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _linear_flops(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Of their shapes; a multiplication and an addition are two."""
    return 2 * math.prod(x) * weight[0]
