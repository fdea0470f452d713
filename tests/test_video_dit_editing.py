"""A video made anew: what is kept stays, what is made begins from what was there, window after window."""

import pytest
import torch
from torch import Tensor

from video_dit.editing import filled_window, known_tokens, remake, repeat_last, uncropped
from video_dit.sampling import Window

R = 4


def clip(t: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 4, t, 4, 6, generator=torch.Generator().manual_seed(seed))


class Maker:
    """Adds 1 to what is made; records what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Window] = []

    def __call__(self, window: Window) -> Tensor:
        self.asked.append(window)
        known = window.known_tokens(1).view(window.latents.shape[2:])
        return torch.where(known, window.latents, window.latents + 1)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_everything_is_made_anew_from_what_was_there(count: int) -> None:
    latents, make = clip(count), Maker()
    made = torch.cat(list(remake(make, latents, None, 0.6, 5, 2, 8.0, R)), dim=2)
    assert torch.allclose(made, latents + 1)
    assert {window.strength for window in make.asked} == {0.6}
    assert not make.asked[0].known.any()
    for window in make.asked[1:]:  # the last two that were made are known
        assert window.known.tolist() == [True, True] + [False] * (len(window.known) - 2)
        assert torch.allclose(window.latents[:, :, :2], latents[:, :, window.start - 2 : window.start] + 1)
    assert [bool(window.one_frame[0]) for window in make.asked] == [True] + [False] * (len(make.asked) - 1)


def test_windows_have_the_clip_beside_what_was_made_of_it() -> None:
    latents, make = clip(12), Maker()
    list(remake(make, latents, None, 0.6, 5, 2, 8.0, R))
    assert len(make.asked) > 1
    for window in make.asked:
        assert window.source is not None and window.source.shape == window.latents.shape
        known = int(window.known.sum())
        first = window.start - known
        assert torch.equal(window.source, latents[:, :, first : first + len(window.known)])
        assert torch.equal(window.source[:, :, known:], window.latents[:, :, known:])


def test_tokens_that_are_kept_are_known_in_each_window() -> None:
    latents, make = clip(9), Maker()
    known = torch.rand(9, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    made = torch.cat(list(remake(make, latents, known, 1.0, 5, 2, 8.0, R)), dim=2)
    assert torch.allclose(made, torch.where(known, latents, latents + 1))
    assert all(bool(window.known[:2].all()) for window in make.asked[1:])  # the context is, whatever the mask says


def test_windows_of_which_all_is_kept_are_left_out() -> None:
    latents, make = clip(12), Maker()
    known = torch.ones(12, 4, 6, dtype=torch.bool)
    known[6, 0, 0] = False
    made = torch.cat(list(remake(make, latents, known, 1.0, 5, 2, 8.0, R)), dim=2)
    assert len(make.asked) == 1
    assert torch.equal(made != latents, ~known.expand_as(latents))


def test_a_strength_of_0_leaves_all_as_it_is() -> None:
    latents, make = clip(9), Maker()
    assert torch.equal(torch.cat(list(remake(make, latents, None, 0.0, 5, 2, 8.0, R)), dim=2), latents)
    assert make.asked == []


def test_a_filled_window_has_its_context_as_it_was() -> None:
    latents, context = clip(9), clip(2, seed=1)
    window = Window(
        torch.cat([context, torch.zeros(1, 4, 3, 4, 6)], dim=2),
        torch.arange(5) < 2,
        torch.arange(5.0),
        torch.zeros(5, dtype=torch.bool),
        start=4,
    )
    filled = filled_window(window, latents)
    assert torch.equal(filled.latents, torch.cat([context, latents[:, :, 4:7]], dim=2))
    assert not torch.equal(filled.latents, window.latents)  # which is not written into


@pytest.mark.parametrize("frames", range(1, 10))
def test_the_last_frame_is_repeated_to_whole_latent_frames(frames: int) -> None:
    given = torch.randint(0, 256, (frames, 2, 2, 3))
    whole = repeat_last(given, R)
    assert (len(whole) - 1) % R == 0 and len(whole) - frames < R
    assert torch.equal(whole[:frames], given) and torch.equal(
        whole[frames:], given[-1:].expand(len(whole) - frames, 2, 2, 3)
    )


@pytest.mark.parametrize(("frame", "latent_frame"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_token_is_made_if_one_pixel_of_one_of_its_frames_is(frame: int, latent_frame: int) -> None:
    mask = torch.zeros(9, 32, 48, dtype=torch.bool)
    mask[frame, 15, 16] = True
    made = ~known_tokens(mask, R, 16)
    assert made.shape == (3, 2, 3)
    assert made.nonzero().tolist() == [[latent_frame, 0, 1]]


def test_what_is_around_frames_is_masked() -> None:
    frames = torch.randint(0, 256, (3, 20, 21, 3), dtype=torch.uint8)
    canvas, mask = uncropped(frames, 32, 48)
    assert canvas.shape == (3, 32, 48, 3) and canvas.dtype == torch.uint8
    assert torch.equal(canvas[~mask].view(3, 20, 21, 3), frames)
    rows, columns = (~mask[0]).nonzero().unbind(1)
    assert abs(int(rows.min()) - (31 - int(rows.max()))) <= 1
    assert abs(int(columns.min()) - (47 - int(columns.max()))) <= 1
    assert torch.equal(canvas[:, 0, 24], frames[:, 0, 24 - int(columns.min())])  # the edge, outwards


@pytest.mark.parametrize("size", [(20, 21), (16, 48), (32, 16)])
def test_nothing_around_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="leave nothing to be made around frames of 21x20: give a larger size"):
        uncropped(torch.zeros(3, 20, 21, 3, dtype=torch.uint8), *size)
