"""Window after window: what each window is shown, and that every latent frame comes once."""

import pytest
import torch
from torch import Tensor

from video_dit.rollout import Pinned, between_sizes, roll_backward, roll_between, roll_forward, window_sizes
from video_dit.sampling import Window
from video_dit.tokens import latent_times

RATE, R, WINDOW = 8.0, 4, 5


class Recorder:
    """Makes latents that are numbered in the order in which they are made, from ``first`` on."""

    def __init__(self, first: int) -> None:
        self.next = first
        self.windows: list[Window] = []

    def __call__(self, window: Window) -> Tensor:
        self.windows.append(window)
        latents = window.latents.clone()
        for place in torch.nonzero(~window.known).flatten():
            latents[:, :, place] = self.next
            self.next += 1
        return latents


def numbered(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, -1, 1, 1).expand(2, 3, -1, 2, 2)


def numbers(latents: Tensor) -> list[float]:
    assert (latents == latents[:1, :1, :, :1, :1]).all()
    return latents[0, 0, :, 0, 0].tolist()


@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
@pytest.mark.parametrize(("window", "context"), [(5, 2), (5, 4), (9, 4), (2, 1), (5, 1)])
@pytest.mark.parametrize("given", [0, 1, 3, 50])
def test_windows_make_all_and_hold_no_more_than_they_can(count: int, window: int, context: int, given: int) -> None:
    sizes = window_sizes(count, window, context, given)
    assert sum(sizes) == count
    assert min(sizes) >= 1
    there = given
    for number, size in enumerate(sizes):
        assert min(context, there) + size <= window
        if number < len(sizes) - 1:
            assert min(context, there) + size == window  # only the last is not full
        there += size


def test_nothing_to_make_needs_no_window() -> None:
    assert window_sizes(0, 5, 2, 3) == []


@pytest.mark.parametrize(("window", "context"), [(1, 1), (4, 4), (3, 7)])
def test_a_context_that_fills_the_window_is_an_error(window: int, context: int) -> None:
    assert window_sizes(window, window, context, 0) == [window]  # one window needs no context
    with pytest.raises(ValueError, match=f"{window} latent frame.* cannot .* context of {context}") as error:
        window_sizes(window + 1, window, context, 0)
    assert "\n" not in str(error.value)


def numbers_made(make: Recorder, number: int, size: int) -> list[float]:
    """What the recorder gave to window ``number``."""
    before = sum(int((~w.known).sum()) for w in make.windows[:number])
    return list(range(100 + before, 100 + before + size))


def check_windows(windows: list[Window], context: int) -> None:
    """Times restart near 0 in each window and fit its kind; no window is longer than was trained."""
    for window in windows:
        t = window.latents.shape[2]
        assert t <= WINDOW
        assert int(window.known.sum()) <= context
        starts = bool(window.one_frame[0])
        assert not window.one_frame[1:].any()
        assert torch.equal(window.times, latent_times(t, RATE, R, starts))
        assert 0 <= window.times[0] < R / RATE


@pytest.mark.parametrize("context", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_forward_from_nothing(count: int, context: int) -> None:
    make = Recorder(0)
    chunks = list(roll_forward(make, numbered()[:, :, :0], True, count, WINDOW, context, RATE, R))
    assert numbers(torch.cat(chunks, dim=2)) == list(range(count))
    check_windows(make.windows, context)
    assert [bool(w.one_frame[0]) for w in make.windows] == [True] + [False] * (len(make.windows) - 1)
    done = 0
    for window, chunk in zip(make.windows, chunks, strict=True):
        known = min(context, done)
        assert window.known.tolist() == [True] * known + [False] * chunk.shape[2]
        assert numbers(window.latents[:, :, window.known]) == list(range(done - known, done))
        done += chunk.shape[2]


@pytest.mark.parametrize(("given", "starts_clip"), [(2, True), (3, True), (7, True), (7, False), (2, False)])
@pytest.mark.parametrize("context", [1, 2, 4])
def test_forward_from_given_latents(given: int, starts_clip: bool, context: int) -> None:
    make = Recorder(given)
    latents = numbered(*range(given))
    chunks = list(roll_forward(make, latents, starts_clip, 9, WINDOW, context, RATE, R))
    assert numbers(torch.cat(chunks, dim=2)) == list(range(given, given + 9))
    check_windows(make.windows, context)
    done = given
    for window, chunk in zip(make.windows, chunks, strict=True):
        known = min(context, done)
        assert numbers(window.latents[:, :, window.known]) == list(range(done - known, done))
        # the clip's first latent is marked while a window holds it, and at no other time
        assert bool(window.one_frame[0]) == (starts_clip and known == done)
        done += chunk.shape[2]


@pytest.mark.parametrize("given", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("context", [1, 2, 4])
def test_backward(given: int, count: int, context: int) -> None:
    make = Recorder(100)
    latents = numbered(*range(given))
    made = roll_backward(make, latents, count, WINDOW, context, RATE, R)
    assert made.shape == (2, 3, count, 2, 2)
    check_windows(make.windows, context)
    whole: list[float] = list(range(given))
    for number, window in enumerate(make.windows):
        known = min(context, len(whole))
        size = len(window.known) - known
        assert window.known.tolist() == [False] * size + [True] * known
        assert numbers(window.latents[:, :, window.known]) == whole[:known]
        # only the very first latent of the longer clip, made last, is a one-frame latent
        assert bool(window.one_frame[0]) == (number == len(make.windows) - 1)
        whole = numbers_made(make, number, size) + whole
    assert numbers(made) == whole[:count]
    assert sorted(whole[:count]) == list(range(100, 100 + count))


def test_forward_gives_windows_as_they_are_made() -> None:
    make = Recorder(0)
    windows = roll_forward(make, numbered()[:, :, :0], True, 50, WINDOW, 2, RATE, R)
    assert make.windows == []
    next(windows)
    assert len(make.windows) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 11])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (7, 7), (3, 8)])
@pytest.mark.parametrize("context", [1, 2, 4])
def test_between_two_clips(count: int, before: int, after: int, context: int) -> None:
    """Forward from the first; the last window alone sees the second, in its place."""
    if context == 4:
        assert between_sizes(count, WINDOW, context, before)[0][-1] == 1
    make = Recorder(100)
    first, second = numbered(*range(before)), numbered(*range(1000, 1000 + after))
    chunks = list(roll_between(make, first, True, second, count, WINDOW, context, RATE, R))
    assert numbers(torch.cat(chunks, dim=2)) == list(range(100, 100 + count))
    check_windows_between(make.windows)
    whole: list[float] = [*range(before)]
    for number, (window, chunk) in enumerate(zip(make.windows, chunks, strict=True)):
        assert window.start == len(whole) - before
        shown, size = numbers(window.latents[:, :, window.known]), chunk.shape[2]
        of_second = [value for value in shown if value >= 1000]
        of_first = [value for value in shown if value < 1000]
        assert of_first == whole[len(whole) - len(of_first) :]
        assert window.known.tolist() == [True] * len(of_first) + [False] * size + [True] * len(of_second)
        last = number == len(chunks) - 1
        assert of_second == ([*range(1000, 1000 + len(of_second))] if last else [])
        assert bool(of_second) == last
        assert bool(of_first)
        assert bool(window.one_frame[0]) == (len(of_first) == len(whole))
        whole += numbers(chunk)


def check_windows_between(windows: list[Window]) -> None:
    for window in windows:
        assert window.latents.shape[2] <= WINDOW
        assert torch.equal(window.times, latent_times(len(window.known), RATE, R, bool(window.one_frame[0])))


def test_a_window_too_short_to_join_is_an_error() -> None:
    assert between_sizes(3, 3, 2, 5) == ([1, 1, 1], 1)
    with pytest.raises(ValueError, match=r"the model makes 2 latent frame.* cannot join clips with a context of 2"):
        between_sizes(3, 2, 2, 5)


@pytest.mark.parametrize("context", [1, 2])
def test_pictures_join_the_window_that_makes_their_frame(context: int) -> None:
    """At their own time, as latents of one frame that are not returned; and the window before, if they are near."""
    frames = (1, 8, 22, 24, 40)
    pinned = [Pinned(frame, numbered(1000 + frame)[:1]) for frame in frames]
    make, count = Recorder(0), 11  # 41 frames
    chunks = list(roll_forward(make, numbered()[:, :, :0], True, count, WINDOW, context, RATE, R, pinned))
    assert numbers(torch.cat(chunks, dim=2)) == list(range(count))
    seen: list[float] = []
    done = 0
    for window, chunk in zip(make.windows, chunks, strict=True):
        size, known = chunk.shape[2], min(context, done)
        begin = max(0, 1 + (done - known - 1) * R)  # the first frame of the window
        extra = slice(known + size, None)
        values = numbers(window.latents[:, :, extra]) if len(window.known) > known + size else []
        assert window.known[extra].all()
        assert window.one_frame[extra].all()
        assert torch.allclose(window.times[extra] * RATE + begin + 1000, torch.tensor(values))
        start, end = max(0, 1 + (done - 1) * R), 1 + (done + size - 1) * R
        inside = [value for value in values if value - 1000 < end]
        assert all(start <= value - 1000 for value in inside)
        near = [1000 + frame for frame in frames if end <= frame < end + 2 * R]
        assert values == inside + near[:1]
        seen += inside
        done += size
    assert seen == [1000 + frame for frame in frames]


@pytest.mark.parametrize("breaks", [(), (1,), (4, 6), (5, 7, 8), (3, 50)])
@pytest.mark.parametrize("given", [0, 3])
def test_windows_begin_where_they_must(breaks: tuple[int, ...], given: int) -> None:
    sizes = window_sizes(12, WINDOW, 2, given, breaks)
    begins = [sum(sizes[:number]) for number in range(len(sizes))]
    assert sum(sizes) == 12
    assert {place for place in breaks if place < 12} <= set(begins)
    plain = window_sizes(12, WINDOW, 2, given)
    assert len(sizes) <= len(plain) + len(breaks)
    make = Recorder(given)
    chunks = list(roll_forward(make, numbered(*range(given)), True, 12, WINDOW, 2, RATE, R, breaks=breaks))
    assert [chunk.shape[2] for chunk in chunks] == sizes
    assert [window.start for window in make.windows] == begins
