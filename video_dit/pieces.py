"""The frames of a request in order of time: what is given, and what is made of it.

A video that is given is never encoded anew from what was made: the decoder runs on over the seam, from the encoder's
own latents of the given side to those that are made.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor

from data.transforms import to_float
from vae3d import LatentCodec
from video_dit.editing import known_tokens, remake, repeat_last
from video_dit.request import Piece, VideoRequest
from video_dit.rollout import (
    MakeWindow,
    Pinned,
    between_sizes,
    first_frame,
    roll_backward,
    roll_between,
    roll_forward,
    window_sizes,
)
from video_dit.sampling import Window
from video_dit.seam import fade_border, fade_seams

CHUNK = 16
"""Latent frames that are encoded or decoded at a time, so that memory does not grow with the duration."""


@dataclass(frozen=True)
class Maker:
    """What a request is made with. denoise: makes a window of at most ``window`` latent frames, ``context`` of them
    known, and returns all its latents; it is told the number in the whole video of the first frame that is made.
    token_pixels: height and width of a token in pixels."""

    codec: LatentCodec
    denoise: Callable[[Window, int], Tensor]
    window: int
    context: int
    frame_rate: float
    device: torch.device
    token_pixels: int

    @property
    def r(self) -> int:
        """The codec's time factor."""
        return self.codec.frame_rule[0]

    def make(self, begin: Callable[[int], int]) -> MakeWindow:
        """For a rollout; ``begin`` is the number of the first frame of the made latent frame 0, 1, …"""
        return lambda window: self.denoise(window, begin(window.start))


def count_windows(request: VideoRequest, window: int, context: int, r: int) -> int:
    """How many windows of a request are denoised.

    Raises:
        ValueError: a given video is shorter than one group of frames, a prompt begins when all is over, or the context
            does not fit the window.
    """
    check_starts(request, r)
    if request.mode in ("text", "edit"):
        known = int(0 in picture_places(request))
        count = 1 + -(-(made_frames(request, r) - 1) // r) - known
        return len(window_sizes(count, window, context, known, breaks(request, count, text_begin(known, r))))
    video, second = given_videos(request)
    for given in (video, second):
        if len(given) < 1 + r:
            raise ValueError(
                f"the video has {len(given)} frames at {request.frame_rate:g} a second and must have at least {1 + r}: "
                "give a longer one, or a higher frame_rate"
            )
    latents, of_second, count = 1 + (len(video) - 1) // r, (len(second) - 1) // r, made_groups(request, r)
    place = len(video) + (request.mode == "both") * r * count
    at = breaks(request, count, after_begin(place, r))
    if request.mode in ("connect", "loop"):
        return len(between_sizes(count, window, context, latents, at)[0])
    after = len(window_sizes(count, window, context, latents, at))
    before = len(window_sizes(1 + count, window, context, of_second))
    return {"forward": after, "backward": before, "both": before + after}[request.mode]


def check_starts(request: VideoRequest, r: int) -> None:
    """Raises ValueError where a prompt begins when the whole video is over."""
    given = () if request.mode == "edit" else (request.video, request.second)
    made = made_frames(request, r) * (2 if request.mode == "both" else 1)
    total = made + sum(len(video) for video in given if video is not None)
    duration = total / request.frame_rate
    for schedule in request.schedules:
        if schedule.starts[-1] >= duration:
            start, text = schedule.starts[-1], schedule.texts[-1]
            raise ValueError(f"the prompt {text!r} begins at {start:g} s: the video goes from 0 to {duration:g} s")


def check_offered(request: VideoRequest, model: Any) -> None:
    """Raises ValueError where a published model, with this config, cannot make what ours can."""
    places = () if getattr(model, "keyframes", True) else request.keyframes
    if late := [one.seconds for one in places if round(one.seconds * request.frame_rate)]:
        raise ValueError(f"keyframe at {late[0]:g} s: this model takes a picture as the first frame alone, at 0 s")
    weight = request.sampling.history_guidance
    if weight != 1 and not getattr(model, "per_token", True):
        raise ValueError(f"history_guidance={weight} must be 1: this model is told one noise level for all tokens")


def breaks(request: VideoRequest, count: int, begin: Callable[[int], int]) -> list[int]:
    """At which of the ``count`` latent frames that are made in order of time another prompt begins."""
    starts = {start for schedule in request.schedules for start in schedule.starts[1:]}
    frames = (math.ceil(start * request.frame_rate - 1e-6) for start in starts)
    places = (bisect_left(range(count), frame, key=begin) for frame in frames)
    return sorted({place for place in places if 0 < place < count})


def text_begin(known: int, r: int) -> Callable[[int], int]:
    """The first frame of latent frame 0, 1, … of those that are made after ``known`` ones, from the start of a clip."""
    return lambda place: first_frame(known + place, r)


def after_begin(place: int, r: int) -> Callable[[int], int]:
    """The same where the first frame that is made has this number."""
    return lambda number: place + r * number


def given_videos(request: VideoRequest) -> tuple[Tensor, Tensor]:
    """What comes before that which is made, and after; the same video unless two are connected."""
    assert request.video is not None
    return request.video, request.video if request.second is None else request.second


def made_frames(request: VideoRequest, r: int) -> int:
    """Frames that are made, on each side of a given video if there are two."""
    if request.mode == "text":
        return request.num_frames
    if request.mode == "edit":
        assert request.video is not None
        return len(request.video)
    return r * made_groups(request, r) - (request.mode in ("connect", "loop"))


def made_groups(request: VideoRequest, r: int) -> int:
    """Latent frames that are made between two clips, or on each side of one; there are r frames to each, less the
    second clip's first between two."""
    joined = request.mode in ("connect", "loop")
    return max(1, round((request.seconds * request.frame_rate + joined) / r))


def pieces(request: VideoRequest, maker: Maker) -> Iterator[Piece]:
    """Make a request; frames come as soon as their windows are there.

    Backward, no frame comes before all windows are made: what came first is made last.
    """
    if request.mode == "text":
        yield from _from_nothing(request, maker)
        return
    if request.mode == "edit":
        yield from _edited(request, maker)
        return
    (video, second), count, r = given_videos(request), made_groups(request, maker.r), maker.r
    place = 0  # frames so far
    if request.mode in ("backward", "both"):
        yield from _made(_before(video, count, maker))
        place = r * count
    yield from _given(video)
    place += len(video)
    if request.mode in ("forward", "both"):
        yield from _made(_after(request, count, maker, place))
    if request.mode in ("connect", "loop"):
        yield from _made(_between(request, count, maker, place))
    if request.mode == "connect":
        yield from _given(second)


def text_latents(request: VideoRequest, maker: Maker) -> Iterator[Tensor]:
    """Latents of text to video, window after window; those of a picture that it begins with come first."""
    codec, b = maker.codec, len(request.prompts)
    pictures = {place: codec.encode(picture.to(maker.device)) for place, picture in given_pictures(request).items()}
    height, width = request.height // codec.grid, request.width // codec.grid
    first = torch.zeros(b, codec.latent_channels, 0, height, width, device=maker.device)
    if 0 in pictures:
        first = pictures.pop(0).expand(b, -1, -1, -1, -1)
        yield first
    pinned = [Pinned(place, latents) for place, latents in sorted(pictures.items())]
    count = codec.num_latent_frames(request.num_frames) - first.shape[2]
    begin = text_begin(first.shape[2], maker.r)
    at = breaks(request, count, begin)
    window, context, rate, r = maker.window, maker.context, maker.frame_rate, maker.r
    yield from roll_forward(maker.make(begin), first, True, count, window, context, rate, r, pinned, at)


def given_pictures(request: VideoRequest) -> dict[int, Tensor]:
    """Keyframes by the number of their frame, ``(1, 3, 1, h, w)`` in [-1, 1]."""
    pictures = (to_float(one.picture[None])[None] for one in request.keyframes)
    return dict(zip(picture_places(request), pictures, strict=True))


def picture_places(request: VideoRequest) -> list[int]:
    """The numbers of their frames."""
    return [round(one.seconds * request.frame_rate) for one in request.keyframes]


def _from_nothing(request: VideoRequest, maker: Maker) -> Iterator[Piece]:
    pictures = {place: picture[:, :, 0].to(maker.device) for place, picture in given_pictures(request).items()}
    decoded = decode(maker.codec, text_latents(request, maker))
    place = 0
    for frames in fade_seams(decoded, pictures, maker.frame_rate):
        end = place + frames.shape[2]
        inside = [number - place for number in sorted(pictures) if place <= number < end]
        borders = [0, *chain.from_iterable((number, number + 1) for number in inside), frames.shape[2]]
        for start, stop in pairwise(borders):
            if start < stop:
                yield Piece(frames[:, :, start:stop].cpu(), given=start in inside)
        place = end


def _edited(request: VideoRequest, maker: Maker) -> Iterator[Piece]:
    """A given video, what its mask says made anew; its end is drawn out to whole latent frames, and cut off again."""
    assert request.video is not None
    video, mask = request.video, request.mask
    begin = text_begin(0, maker.r)
    latents = encode_video(repeat_last(video, maker.r), maker)
    known = None if mask is None else known_tokens(repeat_last(mask, maker.r), maker.r, maker.token_pixels)
    at = breaks(request, latents.shape[2], begin)
    window, context, rate, r = maker.window, maker.context, maker.frame_rate, maker.r
    make = maker.make(begin)
    made = remake(make, latents, known, request.strength, window, context, rate, r, at)
    place = 0
    for piece in _made(_span(decode(maker.codec, made), 0, len(video))):
        end, frames = place + piece.frames.shape[2], piece.frames
        if mask is not None:
            frames = fade_border(frames, to_float(video[place:end])[None], mask[place:end])
        yield Piece(frames, given=False)
        place = end


def _before(video: Tensor, count: int, maker: Maker) -> Iterator[Tensor]:
    """``r·count`` frames before a uint8 video ``(t, h, w, 3)``: one more is made, which is its first frame."""
    latents = _start(video, maker)
    make = maker.make(lambda start: first_frame(start, maker.r))
    made = roll_backward(make, latents, 1 + count, maker.window, maker.context, maker.frame_rate, maker.r)
    join = maker.r * count
    decoded = decode(maker.codec, iter(made.split(CHUNK, dim=2)))
    yield from _span(fade_seams(decoded, {join: _frame(video, 0, maker)}, maker.frame_rate), 0, join)


def _after(request: VideoRequest, count: int, maker: Maker, place: int) -> Iterator[Tensor]:
    """``r·count`` frames after the given video, which are number ``place`` and on of the whole."""
    video, _ = given_videos(request)
    usable = _usable(len(video), maker.r)
    latents = encode_video(video[len(video) - usable :], maker)
    begin = after_begin(place, maker.r)
    at = breaks(request, count, begin)
    window, context, rate, r = maker.window, maker.context, maker.frame_rate, maker.r
    made = roll_forward(maker.make(begin), latents, True, count, window, context, rate, r, breaks=at)
    decoded = decode(maker.codec, chain(latents.split(CHUNK, dim=2), made))
    given = {usable - 1: _frame(video, -1, maker)}
    yield from _span(fade_seams(decoded, given, maker.frame_rate), usable, usable + maker.r * count)


def _between(request: VideoRequest, count: int, maker: Maker, place: int) -> Iterator[Tensor]:
    """``r·count − 1`` frames, from number ``place`` on, from the end of one to the start of another: one more is made,
    which is the other's first frame."""
    video, second = given_videos(request)
    usable = _usable(len(video), maker.r)
    latents, after = encode_video(video[len(video) - usable :], maker), _start(second, maker)
    window, context, rate, r = maker.window, maker.context, maker.frame_rate, maker.r
    begin = after_begin(place, r)
    at = breaks(request, count, begin)
    made = roll_between(maker.make(begin), latents, True, after, count, window, context, rate, r, at)
    decoded = decode(maker.codec, chain(latents.split(CHUNK, dim=2), made))
    join = usable - 1 + r * count
    given = {usable - 1: _frame(video, -1, maker), join: _frame(second, 0, maker)}
    yield from _span(fade_seams(decoded, given, rate), usable, join)


def _usable(num_frames: int, r: int) -> int:
    """The longest 1 + r·k."""
    return num_frames - (num_frames - 1) % r


def _frame(video: Tensor, place: int, maker: Maker) -> Tensor:
    """One frame of a uint8 video ``(t, h, w, 3)`` as ``(1, 3, h, w)`` in [-1, 1]."""
    return to_float(video[place][None])[None][:, :, 0].to(maker.device)


def _start(video: Tensor, maker: Maker) -> Tensor:
    """The first latents of a uint8 video ``(t, h, w, 3)``, as many as a window sees at most, without its one-frame
    latent; they depend on no later frame."""
    frames = _usable(min(len(video), 1 + maker.r * maker.context), maker.r)
    return encode_video(video[:frames], maker)[:, :, 1:]


def encode_video(video: Tensor, maker: Maker) -> Tensor:
    """Latents ``(1, c, 1 + k, h', w')`` of a uint8 video ``(1 + r·k, h, w, 3)``."""
    stream = maker.codec.encode_stream()
    parts = video.split(CHUNK * maker.r)
    return torch.cat([*(stream.push(to_float(part)[None].to(maker.device)) for part in parts), stream.finish()], dim=2)


def decode(codec: LatentCodec, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Latents of one clip in pieces to its frames, as one stream."""
    stream = codec.decode_stream()
    for chunk in chunks:
        yield stream.push(chunk)
    yield stream.finish()


def _span(chunks: Iterator[Tensor], start: int, stop: int) -> Iterator[Tensor]:
    """Frames number ``start`` to ``stop``, which is left out, of frames that come in pieces."""
    place = 0
    for frames in chunks:
        yield frames[:, :, max(0, start - place) : max(0, stop - place)]
        place += frames.shape[2]


def _made(chunks: Iterator[Tensor]) -> Iterator[Piece]:
    return (Piece(frames.cpu(), given=False) for frames in chunks if frames.shape[2])


def _given(video: Tensor) -> Iterator[Piece]:
    """Of a uint8 video ``(t, h, w, 3)``."""
    return (Piece(to_float(part)[None], given=True) for part in video.split(CHUNK))
