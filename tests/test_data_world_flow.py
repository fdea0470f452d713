"""The flow of pictures in closed form."""

import math

import pytest
import torch

from data.world.flow import FASTEST, flow_around, flow_of_parts, slope_products, solved_flow


def waves(right: float, down: float, steps: int, size: int = 32) -> torch.Tensor:
    """Pictures (1, 3, s, h, w) of soft waves that move by so many pixels a step."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures = []
    for step in range(steps):
        u, v = x - right * step, y - down * step
        grey = 0.3 * torch.sin(math.tau * u / 16.0) + 0.3 * torch.sin(math.tau * (0.6 * u + v) / 13.0)
        pictures.append(torch.stack((grey, 0.5 * grey, -grey)))
    return torch.stack(pictures, dim=1).unsqueeze(0)


@pytest.mark.parametrize(("right", "down"), [(0.7, 0.0), (-0.4, 0.9), (0.0, -1.2), (0.0, 0.0)])
def test_what_moves_is_seen_to_move_so_at_every_step(right: float, down: float) -> None:
    flow = solved_flow(slope_products(waves(right, down, steps=5), 8))  # b s 3 h w
    assert flow.shape == (1, 5, 3, 4, 4)
    inside = flow[..., 1:-1, 1:-1]  # slopes at the picture's border are one-sided
    for part, error in ((inside[:, 1:-1], 0.03), (inside, 0.2)):  # the first and last step know one side only
        assert (part[:, :, 0] - right).abs().max() < error
        assert (part[:, :, 1] - down).abs().max() < error


def test_the_mean_of_products_is_the_flow_of_all_of_it() -> None:
    products = slope_products(waves(0.5, 0.25, steps=4), 4).mean((1, 3, 4), keepdim=True)
    right, down, _ = solved_flow(products).flatten()
    assert abs(right - 0.5) < 0.05
    assert abs(down - 0.25) < 0.05


def test_where_there_is_nothing_to_see_there_is_no_flow_and_little_to_tell_it_from() -> None:
    grey = torch.full((1, 3, 3, 16, 16), 0.3)
    flow = solved_flow(slope_products(grey, 8))
    assert torch.equal(flow[:, :, :2], torch.zeros_like(flow[:, :, :2]))
    patterned = solved_flow(slope_products(waves(0.2, 0.2, steps=3, size=16), 8))
    assert flow[:, :, 2].max() < 0.5 < patterned[:, :, 2].min()


def test_one_picture_stands_still() -> None:
    flow = solved_flow(slope_products(waves(1.0, 1.0, steps=1), 8))
    assert torch.equal(flow[:, :, :2], torch.zeros_like(flow[:, :, :2]))


def test_noise_gives_no_endless_flow() -> None:
    noise = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    flow = solved_flow(slope_products(noise, 4))
    assert flow.isfinite().all()
    assert flow[:, :, :2].abs().max() <= FASTEST


def test_parts_of_the_picture_have_the_flow_of_what_is_in_them() -> None:
    still, moving = waves(0.0, 0.0, steps=6), waves(0.6, 0.0, steps=6)
    half = torch.cat((still[..., :16], moving[..., 16:]), dim=-1)
    flow = flow_of_parts(slope_products(half, 4), 2)  # b s (c i j)
    right = flow[:, 1:-1].unflatten(2, (3, 2, 2))[:, :, 0]
    assert right[..., 0].abs().max() < 0.15 and (right[..., 1] - 0.6).abs().max() < 0.15


def test_the_flow_around_what_turns_turns_with_it() -> None:
    size, steps = 32, 5
    y, x = torch.meshgrid(torch.arange(size) - 15.5, torch.arange(size) - 15.5, indexing="ij")
    for turn in (0.06, -0.06):  # radians a step, clockwise in the picture
        pictures = []
        for step in range(steps):
            c, s = math.cos(turn * step), math.sin(turn * step)
            u, v = c * x + s * y, c * y - s * x
            grey = 0.4 * torch.sin(u * 0.7) + 0.4 * torch.sin(v * 0.6)
            pictures.append(grey.expand(3, -1, -1))
        products = slope_products(torch.stack(pictures, dim=1).unsqueeze(0), 4)
        centres = torch.full((1, 2, steps, 2), 0.5)
        flow = flow_around(torch.cat((products, products), dim=2), centres)
        assert flow.shape == (1, 2, steps, 54)
        right, down, _ = flow[0, 0, 2, :27].unflatten(0, (3, 9))
        across, along = right.unflatten(0, (3, 3)), down.unflatten(0, (3, 3))  # each x y, x first
        assert abs(across[1, 1]) < 0.1 and abs(along[1, 1]) < 0.1
        assert across[1, 2] * turn < 0.0 < across[1, 0] * turn  # below goes to the left as it turns clockwise
        assert along[0, 1] * turn < 0.0 < along[2, 1] * turn
