"""Given frames among made ones: in their place, bit for bit, and without a jump beside them."""

import pytest
import torch
from torch import Tensor

from video_dit.seam import fade_border, fade_seams, low_pass


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faded(frames: Tensor, given: dict[int, Tensor], sizes: tuple[int, ...] = (), rate: float = 8.0) -> Tensor:
    """Frames that come in chunks of these sizes, so many a second."""
    return torch.cat(list(fade_seams(iter(frames.split(list(sizes) or len(frames[0, 0]), dim=2)), given, rate)), dim=2)


def test_low_pass_keeps_what_is_smooth_and_removes_details() -> None:
    flat = torch.full((2, 3, 16, 24), 0.3)
    assert torch.allclose(low_pass(flat, 2.0), flat, atol=1e-6)
    noise = torch.randn(1, 1, 64, 64, generator=seeded(0))
    assert float(low_pass(noise, 4.0).std()) < 0.15
    slope = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    assert torch.allclose(low_pass(slope, 2.0)[..., 8:-8], slope[..., 8:-8], atol=1e-5)
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    blurred = low_pass(point, 3.0)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(blurred, blurred.T, atol=1e-7)
    assert torch.allclose(blurred, blurred.flip(0), atol=1e-7)
    places = torch.arange(33) - 16.0
    assert float((blurred.sum(dim=0) * places.square()).sum()) == pytest.approx(9, rel=0.05)


def test_a_residual_fades_within_half_a_second_on_both_sides() -> None:
    frames = torch.zeros(1, 3, 12, 16, 16)
    given = torch.full((1, 3, 16, 16), 0.2)
    curve = faded(frames, {5: given})[0, 0, :, 8, 8]
    side = 0.2 * torch.tensor([0.8, 0.6, 0.4, 0.2, 0.0])
    assert torch.allclose(curve[6:11], side, atol=1e-6)
    assert torch.allclose(curve[:5].flip(0), side, atol=1e-6)
    assert torch.equal(curve[5], given[0, 0, 8, 8])
    assert not curve[10:].any()
    assert not frames.any()  # the input is left alone


def test_the_finest_details_leave_no_ghosts_and_values_stay_in_range() -> None:
    frames = torch.zeros(1, 3, 10, 192, 192)
    detail = torch.randn(1, 3, 192, 192, generator=seeded(0))
    assert float(faded(frames, {0: detail})[:, :, 1].std()) < 0.2 * float(detail.std())
    broad = low_pass(detail, 8.0)
    assert float(faded(frames, {0: broad})[:, :, 1].std()) > 0.7 * float(broad.std())
    assert faded(frames + 0.95, {0: torch.full((1, 3, 192, 192), 1.0)}).max() <= 1


@pytest.mark.parametrize("sizes", [(20,), (1,) * 20, (3, 9, 0, 8), (7, 13)])
@pytest.mark.parametrize("places", [(), (0,), (19,), (6, 8), (0, 10, 19)])
@pytest.mark.parametrize("rate", [5.0, 7.5, 8.0])
def test_chunks_do_not_matter(sizes: tuple[int, ...], places: tuple[int, ...], rate: float) -> None:
    frames = torch.rand(2, 3, 20, 8, 8, generator=seeded(1)) - 0.5
    given = {place: torch.rand(2, 3, 8, 8, generator=seeded(place)) - 0.5 for place in places}
    whole = faded(frames, given, rate=rate)
    assert torch.allclose(faded(frames, given, sizes, rate), whole, atol=1e-6)
    for place in places:
        assert torch.equal(whole[:, :, place], given[place])
    far = [n for n in range(20) if all(abs(n - place) > 4 for place in places)]
    assert torch.equal(whole[:, :, far], frames[:, :, far])


@pytest.mark.parametrize("places", [(4, 5), (4, 6), (3, 7), (2, 4, 6)])
def test_what_is_between_two_takes_on_no_more_than_either(places: tuple[int, ...]) -> None:
    frames = torch.zeros(1, 3, 12, 16, 16)
    same = faded(frames, {place: torch.full((1, 3, 16, 16), 0.3) for place in places})[0, 0, :, 8, 8]
    assert float(same.max()) == pytest.approx(0.3, abs=1e-5)
    inside = same[places[0] : places[-1] + 1]
    assert float(inside.min()) > 0.2
    apart = {places[0]: torch.full((1, 3, 16, 16), 0.3), places[-1]: torch.full((1, 3, 16, 16), -0.3)}
    curve = faded(frames, apart)[0, 0, places[0] : places[-1] + 1, 8, 8]
    assert torch.allclose(curve, -curve.flip(0), atol=1e-6)


def test_frames_are_held_back_only_as_long_as_they_must() -> None:
    frames = torch.zeros(1, 3, 40, 8, 8)
    sizes = [chunk.shape[2] for chunk in fade_seams(iter(frames.split(4, dim=2)), {22: frames[:, :, 0]}, 8.0)]
    assert sizes == [4, 4, 4, 4, 2, 6, 4, 4, 4, 4]


@pytest.mark.parametrize("offset", [-0.3, 0.2])
def test_a_difference_of_tint_fades_out_inside_a_mask(offset: float) -> None:
    given = torch.rand(1, 3, 2, 64, 96) - 0.5
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[:, :, 48:] = True
    made = given + offset
    faded = fade_border(made, given, mask)
    assert torch.equal(faded[~mask.expand_as(faded)], given[~mask.expand_as(given)])
    left = (faded - given).mean(dim=(0, 1, 2, 3))[48:] / offset  # of the difference, by column
    assert float(left[0]) < 0.25 and float(left[-1]) == pytest.approx(1, abs=1e-4)
    assert (left.diff() > -1e-4).all()
    assert torch.allclose(fade_border(given, given, mask), given)


def test_where_nothing_is_kept_nothing_fades() -> None:
    made, given = torch.rand(1, 3, 2, 32, 32), torch.rand(1, 3, 2, 32, 32)
    everything = torch.ones(2, 32, 32, dtype=torch.bool)
    assert torch.equal(fade_border(made, given, everything), made)
    assert torch.equal(fade_border(made, given, ~everything), given)
