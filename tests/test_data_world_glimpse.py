"""Objects from close by."""

import pytest
import torch

from data.world import sample_scene
from data.world.camera import HALF_VIEW
from data.world.glimpse import REACH, SIDE, Glimpse, glimpses
from data.world.motion import FORMS, RADIUS


def test_a_glimpse_is_centred_and_reaches_as_far_as_it_says() -> None:
    """In pictures that tell x and y, in units at depth 1, glimpses tell those about their centres: of each clip (whose
    values are so many times larger), each object and each frame its own."""
    h, w, clips, objects, t = 48, 96, 2, 2, 3
    x = (2.0 * (torch.arange(w) + 0.5) / w - 1.0) * 2.0 * HALF_VIEW
    y = (2.0 * (torch.arange(h) + 0.5) / h - 1.0) * HALF_VIEW
    picture = torch.stack(torch.meshgrid(x, y, indexing="xy"))
    frames = torch.stack([(1.0 + b) * picture for b in range(clips)]).unsqueeze(2).repeat(1, 1, t, 1, 1)
    generator = torch.Generator().manual_seed(0)
    centres = 0.4 + 0.2 * torch.rand(clips, objects, t, 2, generator=generator)
    depths = 7.0 + 3.0 * torch.rand(clips, objects, t, generator=generator)
    seen = glimpses(frames, centres, depths)
    assert seen.shape == (clips, objects, t, 2, SIDE, SIDE)
    along = REACH * (2.0 * (torch.arange(SIDE) + 0.5) / SIDE - 1.0) / depths.unsqueeze(-1)  # b k t side
    at = (2.0 * centres - 1.0) * HALF_VIEW * torch.tensor([2.0, 1.0])
    scale = (1.0 + torch.arange(clips))[:, None, None, None, None]
    columns, rows = (at[..., :1] + along).unsqueeze(-2), (at[..., 1:] + along).unsqueeze(-1)
    torch.testing.assert_close(seen[:, :, :, 0], (scale * columns).expand(-1, -1, -1, SIDE, -1), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(seen[:, :, :, 1], (scale * rows).expand(-1, -1, -1, -1, SIDE), atol=1e-4, rtol=0.0)


def test_an_object_that_goes_away_stays_as_it_is_in_its_glimpses() -> None:
    scene = next(
        s
        for s in map(sample_scene, ["val"] * 500, range(500))
        if len(s.objects) == 1 and (s.objects[0].motion, s.camera.motion) == ("slide away", "still")
    )
    t, h, w = 33, 96, 96
    truth = scene.truth(t, 8.0).at_aspect(1.0)
    frames = scene.render(t, h, w, 8.0).permute(3, 0, 1, 2)[None] / 255.0
    centres, depths = truth.objects[0].centres[None, None], truth.depths[None, :1]
    assert depths[..., -1] > 1.15 * depths[..., 0]
    scaled, unscaled = (glimpses(frames, centres, d) for d in (depths, depths[..., :1].expand_as(depths)))
    change, unscaled_change = ((x[:, :, -1] - x[:, :, 0]).abs().mean() for x in (scaled, unscaled))
    assert change < 0.6 * unscaled_change


def test_beyond_the_border_the_picture_goes_on() -> None:
    frames = torch.linspace(0.0, 1.0, 16).expand(1, 3, 2, 16, 16)
    seen = glimpses(frames, torch.tensor([1.2, 0.5]).expand(1, 2, 2, 2), torch.full((1, 2, 2), 6.0))
    assert seen.isfinite().all() and seen[..., SIDE // 2 :].min() == pytest.approx(1.0)


def test_the_whole_of_the_largest_object_is_in_reach() -> None:
    assert max(form.bound for form in FORMS.values()) * RADIUS["large"] <= REACH


@torch.no_grad()
def test_each_object_is_looked_at_by_itself_and_what_is_none_is_not() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        glimpse = Glimpse(8, 12).eval()
        frames, centres, depths = torch.randn(2, 3, 6, 24, 24), torch.rand(2, 3, 6, 2), 5.0 + torch.rand(2, 3, 6)
    present = torch.tensor([[True, False, True], [False, True, False]])
    found = glimpse(frames, centres, depths, present)
    assert found.shape == (2, 3, 3, 12)
    for b in range(2):
        for k in range(3):
            one = (slice(b, b + 1), slice(k, k + 1))
            alone = glimpse(frames[b : b + 1], centres[one], depths[one], torch.tensor([[True]]))
            torch.testing.assert_close(found[one], alone if present[b, k] else torch.zeros_like(alone))
    assert torch.equal(glimpse(frames, centres, depths, torch.zeros_like(present)), torch.zeros(2, 3, 3, 12))
