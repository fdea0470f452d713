"""Where a picture moves, in closed form: the flow that best explains how its brightness changes (Lucas and Kanade,
IJCAI 1981). The world mostly moves by less than a pixel a frame, which is what this is good at."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

NOISE = 2e-5  # squared brightness a pixel, of [-1, 1]: slopes below it tell nothing
FASTEST = 4.0  # pixels a step


def slope_products(pictures: Tensor, cell: int) -> Tensor:
    """What flow is solved from, of pictures (b, c, s, h, w): means over cells of the products of slopes along x, y and
    time, (b, s, 5, h / cell, w / cell). Means of them over more cells or steps give the flow of more."""
    b, _, s = pictures.shape[:3]
    x = rearrange(pictures, "b c s h w -> (b s) c h w")
    x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    along_x, along_y = (rearrange(slope, "(b s) c h w -> b s c h w", b=b) for slope in (_slope(x), _slope(x.mT).mT))
    x = rearrange(x, "(b s) c h w -> b s c h w", b=b)
    at = torch.arange(s, device=x.device)
    before, after = (at - 1).clamp(min=0), (at + 1).clamp(max=s - 1)
    change = (x[:, after] - x[:, before]) / rearrange((after - before).clamp(min=1), "s -> s 1 1 1")
    products = (along_x**2, along_x * along_y, along_y**2, along_x * change, along_y * change)
    summed = torch.stack([product.sum(2) for product in products], dim=2)  # b s 5 h w
    return rearrange(F.avg_pool2d(summed.flatten(0, 1), cell), "(b s) p h w -> b s p h w", b=b)


def solved_flow(products: Tensor) -> Tensor:
    """The flow of each cell, of products (..., 5, h, w): (..., 3, h, w), pixels a step to the right and down, and how
    much there is to tell it from, from -0.35 for nothing to about 4."""
    xx, xy, yy, xt, yt = products.unbind(-3)
    xx, yy = xx + NOISE, yy + NOISE
    area = xx * yy - xy**2
    right, down = (xy * yt - yy * xt) / area, (xy * xt - xx * yt) / area
    told = 0.5 * (area / (xx + yy) / NOISE).log()
    return torch.stack((right.clamp(-FASTEST, FASTEST), down.clamp(-FASTEST, FASTEST), told), dim=-3)


def flow_of_parts(products: Tensor, parts: int) -> Tensor:
    """The flow of large parts of the picture, so many along each side, of products (b, s, 5, h, w), steadied over five
    steps: (b, s, 3 * parts²)."""
    b = len(products)
    calm = _steadied(rearrange(products, "b s p h w -> b (p h w) s"))
    calm = rearrange(calm, "b (p h w) s -> (b s) p h w", p=5, h=products.shape[3])
    return rearrange(solved_flow(F.adaptive_avg_pool2d(calm, parts)), "(b s) c i j -> b s (c i j)", b=b)


def flow_around(products: Tensor, centres: Tensor) -> Tensor:
    """The flow at and about the centres (b, k, s, 2) of what is followed, in [0, 1] of the picture, of m kinds of
    products (b, s, m * 5, h, w), steadied over five steps: (b, k, s, m * 27), at nine points a cell apart.

    It turns where something turns, and widens where something grows or comes nearer.
    """
    b, (rows, columns) = len(products), products.shape[3:]
    offsets = torch.arange(-1.0, 2.0, device=products.device)
    around = torch.cartesian_prod(offsets, offsets)  # 9 2
    points = centres.unsqueeze(3) + around / around.new_tensor([columns, rows])  # b k s 9 2
    points = rearrange(2.0 * points - 1.0, "b k s n c -> (b s) k n c")
    found = F.grid_sample(products.flatten(0, 1), points, padding_mode="border", align_corners=False)
    found = _steadied(rearrange(found, "(b s) p k n -> (b k) (p n) s", b=b))
    flow = solved_flow(rearrange(found, "(b k) (m p n) s -> b k s m p n 1", b=b, p=5, n=9))
    return rearrange(flow, "b k s m c n 1 -> b k s (m c n)")


def _steadied(x: Tensor) -> Tensor:
    """Means over five steps, of (n, c, s)."""
    return F.avg_pool1d(x, 5, 1, 2, count_include_pad=False)


def _slope(x: Tensor) -> Tensor:
    """Along the last axis, central differences, at the ends half of one-sided ones: the shape of x."""
    wider = torch.cat((x[..., :1], x, x[..., -1:]), dim=-1)
    return 0.5 * (wider[..., 2:] - wider[..., :-2])
