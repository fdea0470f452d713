"""Long videos: window after window, each with the last (or first) latents made so far as its context.

Latents are kept and never encoded again; every window's times restart near 0.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from video_dit.sampling import Window
from video_dit.tokens import latent_times

MakeWindow = Callable[[Window], Tensor]
"""Denoises a window and returns all of its latents ``(b, c, t, h, w)``."""


def window_sizes(count: int, window: int, context: int, given: int) -> list[int]:
    """New latent frames of each window.

    Args:
        count: to make in all. window: latent frames that the model sees at once. context: of these, known ones.
        given: latent frames there are before the first window.
    Raises:
        ValueError: the context fills a window, so that nothing more can be made.
    """
    sizes: list[int] = []
    while count:
        if min(context, given) >= window:
            raise ValueError(
                f"the model makes {window} latent frame(s) at a time and cannot go on from a context of {context}: "
                f"ask for fewer frames, or train with a longer data.window_frames"
            )
        size = min(count, window - min(context, given))
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
) -> Iterator[Tensor]:
    """Make ``count`` latent frames after ``latents``.

    Args:
        make: denoises a window.
        latents: ``(b, c, t, h, w)``; t may be 0, then a clip begins.
        starts_clip: whether ``latents`` begin with the clip's one-frame latent (ignored when t is 0).
        count, window, context: as in `window_sizes`.
    Yields:
        The new latents of each window, in order.
    """
    starts_clip = starts_clip or latents.shape[2] == 0
    for size in window_sizes(count, window, context, latents.shape[2]):
        known = min(context, latents.shape[2])
        first = starts_clip and known == latents.shape[2]  # the window holds the clip's first latent
        made = _make(make, latents[:, :, latents.shape[2] - known :], size, first, frame_rate, r, at_end=False)
        latents = torch.cat([latents, made], dim=2)[:, :, -max(context, 1) :]
        starts_clip = first and latents.shape[2] == known + size
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
        made = torch.cat([_make(make, after, size, starts_clip, frame_rate, r, at_end=True), made], dim=2)
    return made


def _make(
    make: MakeWindow, context: Tensor, size: int, starts_clip: bool, frame_rate: float, r: int, at_end: bool
) -> Tensor:
    """The ``size`` new latent frames of a window whose context stands before or ``at_end`` after them."""
    b, c, known, h, w = context.shape
    unknown = context.new_zeros(b, c, size, h, w)
    is_known = torch.tensor([False] * size + [True] * known if at_end else [True] * known + [False] * size)
    one_frame = torch.zeros(known + size, dtype=torch.bool)
    one_frame[0] = starts_clip
    window = Window(
        latents=torch.cat([unknown, context] if at_end else [context, unknown], dim=2),
        known=is_known,
        times=latent_times(known + size, frame_rate, r, starts_clip),
        one_frame=one_frame,
    )
    return make(window)[:, :, ~is_known]
