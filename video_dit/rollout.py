"""Long videos: window after window, each with latents that are there already as its context.

Latents are kept and never encoded again; every window's times restart near 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from video_dit.sampling import Window
from video_dit.tokens import latent_times

AHEAD = 2
"""Latent frames after a window in which it knows of a picture."""

MakeWindow = Callable[[Window], Tensor]
"""Denoises a window and returns all of its latents ``(b, c, t, h, w)``."""


@dataclass(frozen=True)
class Pinned:
    """A picture that the video passes through. frame: its number. latents: ``(b, c, 1, h, w)``, of it alone."""

    frame: int
    latents: Tensor


def context_size(seconds: float | None, window: int, frame_rate: float, r: int) -> int:
    """Latent frames of context: ``seconds`` of video, or half a window.

    Raises:
        ValueError: it would leave no latent frame of the window to be made.
    """
    if seconds is None:
        return max(1, window // 2)
    longest = (window - 1) * r / frame_rate
    if not 0 < seconds <= longest:
        raise ValueError(f"context_seconds={seconds} must be above 0 and at most {longest:g}, a window less a step")
    return max(1, min(window - 1, round(seconds * frame_rate / r)))


def window_sizes(count: int, window: int, context: int, given: int, breaks: Sequence[int] = ()) -> list[int]:
    """New latent frames of each window.

    Args:
        count: to make in all. window: latent frames that the model sees at once. context: of these, known ones.
        given: latent frames there are before the first window. breaks: numbers of those that are made at which a window
            begins, in order.
    Raises:
        ValueError: the context fills a window, so that nothing more can be made.
    """
    sizes: list[int] = []
    end = count
    while count:
        if min(context, given) >= window:
            raise ValueError(
                f"the model makes {window} latent frame(s) at a time and cannot go on from a context of {context}: "
                f"ask for fewer frames, or train with a longer data.window_frames"
            )
        done = end - count
        until_break = min([count, *(place - done for place in breaks if place > done)])
        size = min(until_break, window - min(context, given))
        sizes.append(size)
        given += size
        count -= size
    return sizes


def roll_forward(
    make: MakeWindow,
    latents: Tensor,
    starts_clip: bool,
    count: int,
    window: int,
    context: int,
    frame_rate: float,
    r: int,
    pinned: Sequence[Pinned] = (),
    breaks: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Make ``count`` latent frames after ``latents``.

    Args:
        make: denoises a window.
        latents: ``(b, c, t, h, w)``; t may be 0, then a clip begins.
        starts_clip: whether ``latents`` begin with the clip's one-frame latent (ignored when t is 0).
        count, window, context, breaks: as in `window_sizes`.
        pinned: pictures among the frames that are made; frames count from the start of ``latents``, which is that of
            the clip.
    Yields:
        The new latents of each window, in order.
    """
    starts_clip = starts_clip or latents.shape[2] == 0
    before = latents.shape[2]
    done = 0
    for size in window_sizes(count, window, context, before, breaks):
        known = min(context, latents.shape[2])
        first = starts_clip and known == latents.shape[2]  # the window holds the clip's first latent
        inside = _inside(pinned, before + done - known, before + done, size, r)
        seen, none = latents[:, :, latents.shape[2] - known :], latents[:, :, :0]
        made = make_between(make, seen, none, size, first, frame_rate, r, done, inside)
        latents = torch.cat([latents, made], dim=2)[:, :, -max(context, 1) :]
        starts_clip = first and latents.shape[2] == known + size
        done += size
        yield made


def roll_backward(
    make: MakeWindow, latents: Tensor, count: int, window: int, context: int, frame_rate: float, r: int
) -> Tensor:
    """Make ``count`` latent frames before ``latents (b, c, t, h, w)``, none of which is a one-frame latent.

    The first of the new ones is the one-frame latent of the longer clip. Returns them in order of time.
    """
    made = latents[:, :, :0]
    sizes = window_sizes(count, window, context, latents.shape[2])
    for number, size in enumerate(sizes):
        after = torch.cat([made, latents], dim=2)[:, :, :context]
        starts_clip = number == len(sizes) - 1
        start = count - made.shape[2] - size
        new = make_between(make, latents[:, :, :0], after, size, starts_clip, frame_rate, r, start)
        made = torch.cat([new, made], dim=2)
    return made


def between_sizes(
    count: int, window: int, context: int, before: int, breaks: Sequence[int] = ()
) -> tuple[list[int], int]:
    """New latent frames of each window between two clips, and how many known ones the last sees on either side.

    Args:
        count: to make in all. window, context, breaks: as in `window_sizes`; the last window heeds none. before: latent
            frames of the first clip.
    Raises:
        ValueError: a window is too short to see both sides and make something between.
    """
    least = 2 * max(1, context // 2)
    if window <= least:
        raise ValueError(
            f"the model makes {window} latent frame(s) at a time and cannot join clips with a context of {context}: "
            "ask for a higher frame rate, or train with a longer data.window_frames"
        )
    last = min(count, window - least)
    side = min(max(1, context), (window - last) // 2)
    return [*window_sizes(count - last, window, context, before, breaks), last], side


def roll_between(
    make: MakeWindow,
    before: Tensor,
    starts_clip: bool,
    after: Tensor,
    count: int,
    window: int,
    context: int,
    frame_rate: float,
    r: int,
    breaks: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Make ``count`` latent frames between two clips: forward from the first, and a last window that sees both.

    Args:
        before: ``(b, c, t, h, w)`` of the first clip. starts_clip: whether these begin with its one-frame latent.
        after: of the second, without its one-frame latent, which cannot stand in the middle of a clip.
        count, window, context, breaks: as in `between_sizes`.
    Yields:
        The new latents of each window, in order.
    """
    sizes, side = between_sizes(count, window, context, before.shape[2], breaks)
    ahead = count - sizes[-1]
    given = before.shape[2]
    for made in roll_forward(make, before, starts_clip, ahead, window, context, frame_rate, r, breaks=breaks):
        before = torch.cat([before, made], dim=2)
        yield made
    known = before[:, :, max(0, before.shape[2] - side) :]
    first = starts_clip and known.shape[2] == given + ahead
    yield make_between(make, known, after[:, :, :side], sizes[-1], first, frame_rate, r, ahead)


def _inside(pinned: Sequence[Pinned], first: int, made: int, size: int, r: int) -> tuple[Pinned, ...]:
    """The pictures among the ``size`` latent frames from number ``made`` on, and the next within `AHEAD` of these, so
    that a window leads to what comes after its end; their frames count from the start of the window, whose first latent
    frame has number ``first``."""
    begin, made_begin, end, seen = (first_frame(place, r) for place in (first, made, made + size, made + size + AHEAD))
    inside = [one for one in pinned if made_begin <= one.frame < end]
    ahead = sorted((one for one in pinned if end <= one.frame < seen), key=lambda one: one.frame)
    return tuple(Pinned(one.frame - begin, one.latents) for one in (*inside, *ahead[:1]))


def first_frame(latent_frame: int, r: int) -> int:
    """The first of the frames that a latent frame stands for, in a clip that starts with a one-frame latent."""
    return 0 if latent_frame == 0 else 1 + (latent_frame - 1) * r


def make_between(
    make: MakeWindow,
    before: Tensor,
    after: Tensor,
    size: int,
    starts_clip: bool,
    frame_rate: float,
    r: int,
    start: int = 0,
    pinned: Sequence[Pinned] = (),
) -> Tensor:
    """The ``size`` new latent frames of a window between known ones; ``start`` is the number of the first of them among
    all that are made. pinned: pictures, whose frames count from the start of the window."""
    b, c, known, h, w = before.shape
    unknown = before.new_zeros(b, c, size, h, w)
    count = known + size + after.shape[2]
    is_known = torch.ones(count + len(pinned), dtype=torch.bool)
    is_known[known : known + size] = False
    one_frame = torch.zeros(count + len(pinned), dtype=torch.bool)
    one_frame[0] = starts_clip
    one_frame[count:] = True
    pinned_times = torch.tensor([one.frame / frame_rate for one in pinned])
    window = Window(
        latents=torch.cat([before, unknown, after, *(one.latents.expand(b, -1, -1, -1, -1) for one in pinned)], dim=2),
        known=is_known,
        times=torch.cat([latent_times(count, frame_rate, r, starts_clip), pinned_times]),
        one_frame=one_frame,
        start=start,
    )
    return make(window)[:, :, ~is_known]
