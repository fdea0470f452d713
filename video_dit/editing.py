"""A given video made anew, in part or from some noise level on: edited (SDEdit), inpainted, uncropped.

Latents of the given video are the start of what is made, and what of it is kept is known, as a context is: no branch
in the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from einops import reduce
from torch import Tensor

from video_dit.request import check_frames
from video_dit.rollout import MakeWindow, roll_forward
from video_dit.sampling import Window


def remake(
    make: MakeWindow,
    latents: Tensor,
    known: Tensor | None,
    strength: float,
    window: int,
    context: int,
    frame_rate: float,
    r: int,
    breaks: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Make latents of a clip anew, window after window, each with those made before it as its context.

    Args:
        make: denoises a window.
        latents: of the whole clip, ``(b, c, t, h, w)``, from its one-frame latent on.
        known: tokens that are kept, bool ``(t, h / p, w / p)``; None keeps none.
        strength: see `Window`; at 0 all is left as it is.
        window, context, frame_rate, r, breaks: as `video_dit.rollout.roll_forward` takes them.
    Yields:
        The latents of each window, in order.
    """
    if strength == 0:
        yield from latents.split(window, dim=2)
        return

    def make_anew(asked: Window) -> Tensor:
        filled = filled_window(asked, latents, known)
        if bool(filled.known.all()):
            return filled.latents
        end = asked.start + int((~asked.known).sum())
        return make(replace(filled, strength=strength, source=latents[:, :, end - len(asked.known) : end]))

    yield from roll_forward(
        make_anew, latents[:, :, :0], True, latents.shape[2], window, context, frame_rate, r, breaks=breaks
    )


def filled_window(window: Window, latents: Tensor, known: Tensor | None = None) -> Window:
    """A window whose made latent frames hold those of a clip, ``(b, c, t, h, w)``, from number ``window.start`` on, and
    of these some tokens known, bool ``(t, h / p, w / p)``."""
    made = (~window.known).nonzero()[:, 0]
    span = slice(window.start, window.start + len(made))
    filled = window.latents.clone()
    filled[:, :, made] = latents[:, :, span]
    if known is None:
        return replace(window, latents=filled)
    tokens = window.known[:, None, None].repeat(1, *known.shape[1:])
    tokens[made] = known[span]
    return replace(window, latents=filled, known=tokens)


def repeat_last(frames: Tensor, r: int) -> Tensor:
    """Frames, ``(t, …)``, with the last repeated up to 1 + r·k of them."""
    missing = (1 - len(frames)) % r
    return torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])


def known_tokens(mask: Tensor, r: int, token_pixels: int) -> Tensor:
    """The tokens that no pixel of a mask touches in any of their frames.

    Args:
        mask: bool ``(1 + r·k, h, w)``, true where the video is to be made anew.
        token_pixels: height and width of a token in pixels.
    Returns:
        bool ``(1 + k, h / token_pixels, w / token_pixels)``.
    """
    whole = torch.cat([mask[:1].expand(r - 1, -1, -1), mask])  # the first latent frame stands for one frame alone
    return ~reduce(whole, "(t r) (h ph) (w pw) -> t h w", "max", r=r, ph=token_pixels, pw=token_pixels)


def uncropped(frames: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Frames in the middle of larger ones, and the mask of what is around them.

    Args:
        frames: uint8 ``(t, h, w, 3)``, at most of the new size.
    Returns:
        uint8 ``(t, height, width, 3)``, edges repeated outwards so that what is there for the encoder has no edge; and
        bool ``(t, height, width)``, true around what was given.
    Raises:
        ValueError: the frames are larger, or nothing is around them.
    """
    check_frames("frames", frames)
    _, old_height, old_width, _ = frames.shape
    if (old_height, old_width) == (height, width) or old_height > height or old_width > width:
        raise ValueError(
            f"height={height} and width={width} leave nothing to be made around frames of {old_width}x{old_height}: "
            "give a larger size"
        )
    top, left = (height - old_height) // 2, (width - old_width) // 2
    rows = (torch.arange(height) - top).clamp(0, old_height - 1)
    columns = (torch.arange(width) - left).clamp(0, old_width - 1)
    mask = torch.ones(len(frames), height, width, dtype=torch.bool)
    mask[:, top : top + old_height, left : left + old_width] = False
    return frames[:, rows][:, :, columns], mask
