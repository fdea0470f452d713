"""What is asked of `VideoPipeline`: text to video, or what becomes of given video."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from video_dit.sampling import Generators, Prompts, SamplingConfig

Mode = Literal["text", "forward", "backward", "both", "connect", "loop", "edit", "interpolate"]
Picture = Tensor | np.ndarray
"""uint8 ``(h, w, 3)``, or what ``np.array`` makes such of, as of an image of PIL."""
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class PromptSchedule:
    """Prompts that take over from one another. starts: seconds from the beginning of the whole video, rising from 0.
    texts: as many.

    Raises:
        ValueError: they do not begin at 0, do not rise, or are not as many as the texts.
    """

    starts: tuple[float, ...]
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.starts))
        if not self.texts or len(self.starts) != len(self.texts) or self.starts[0] != 0 or not rising:
            starts = ", ".join(f"{start:g}" for start in self.starts)
            raise ValueError(f"a prompt schedule with starts of [{starts}] must begin at 0 and rise: '0: … | 20: …'")

    @classmethod
    def of(cls, prompt: "str | PromptSchedule") -> "PromptSchedule":
        """A schedule as it is; of words, what `parse` makes of them."""
        return prompt if isinstance(prompt, PromptSchedule) else cls.parse(prompt)

    @classmethod
    def plain(cls, text: str) -> "PromptSchedule":
        """One prompt for the whole video, whatever it looks like: for captions that nobody wrote as a schedule."""
        return cls((0.0,), (text,))

    @classmethod
    def parse(cls, text: str) -> "PromptSchedule":
        """``"0: a dog sits | 20: it runs"``; what does not begin with ``0:``, with a space or a later ``|``, is one
        prompt for the whole video.

        Raises:
            ValueError: a later part has no start, or the starts do not rise.
        """
        if not re.match(r"\s*0+(\.0*)?\s*:(\s|.*\|)", text):
            return cls.plain(text)
        starts: list[float] = []
        texts: list[str] = []
        for part in text.split("|"):
            found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*:\s*(.*?)\s*", part, flags=re.DOTALL)
            if found is None:
                raise ValueError(f"prompt schedule: {part.strip()!r} must be 'SECONDS: prompt', parts set apart by |")
            starts.append(float(found[1]))
            texts.append(found[2])
        return cls(tuple(starts), tuple(texts))

    def at(self, seconds: float) -> str:
        """The prompt at a time of the whole video."""
        return next(
            text for start, text in reversed(list(zip(self.starts, self.texts, strict=True))) if start <= seconds
        )


@dataclass(frozen=True)
class Keyframe:
    """A picture that the video shows at a time. seconds: from its beginning. picture: uint8 ``(h, w, 3)``, of the
    video's size."""

    seconds: float
    picture: Tensor

    @classmethod
    def of(cls, seconds: float, picture: Picture) -> "Keyframe":
        """Of a picture of any kind."""
        return cls(seconds, picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture)))


@dataclass(frozen=True)
class VideoRequest:
    """Everything that a video, or several of the same kind, depends on besides the model.

    mode: "text", or what becomes of ``video``. prompts: one a video; a given video is one. negative_prompts: as many.
    frame_rate: of all frames, given and made. sampling: see `SamplingConfig`. context_seconds: of the video that each
    window sees; None is half a window. generator: one for all videos, or one each.

    num_frames, height, width, keyframes: of text to video; num_frames is 1 + r·k. latents: the noise that it begins
    from, ``(b, c, 1 + k, h', w')``, instead of the generator's.

    video: uint8 ``(t, h, w, 3)``, which is continued; with "connect" the first of two, with ``second`` after it.
    seconds: to make on each side that is made.

    strength: of "edit", 0 to 1 (see `video_dit.sampling.Window`). mask: what is made anew, bool ``(t, h, w)``; all of
    ``video`` by default. source_prompt: what ``video`` shows, where it is changed as `video_dit.flow_edit` does.

    fraction: of "interpolate", how far from ``video`` to ``second``, which is of the same shape.

    encoded: prompts that are embeddings already; then those in words say nothing.

    Raises:
        ValueError: a value is out of its range, or does not go with the mode.
    """

    mode: Mode
    prompts: tuple[PromptSchedule, ...]
    negative_prompts: tuple[str, ...]
    frame_rate: float
    sampling: SamplingConfig
    context_seconds: float | None = None
    generator: Generators = None
    num_frames: int = 0
    height: int = 0
    width: int = 0
    keyframes: tuple[Keyframe, ...] = ()
    latents: Tensor | None = None
    video: Tensor | None = None
    second: Tensor | None = None
    seconds: float = 0.0
    strength: float = 1.0
    mask: Tensor | None = None
    source_prompt: PromptSchedule | None = None
    fraction: float = 0.5
    encoded: Prompts | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} must be one of {', '.join(MODES)}")
        if not self.prompts:
            raise ValueError("prompt=[] must hold at least one text")
        if not 0 < self.frame_rate < math.inf:
            raise ValueError(f"frame_rate={self.frame_rate} must be above 0")
        count = len(self.prompts)
        if len(self.negative_prompts) != count:
            raise ValueError(f"negative_prompt has {len(self.negative_prompts)} texts and must have one, or {count}")
        if isinstance(self.generator, list) and len(self.generator) not in (1, count):
            raise ValueError(f"generator has {len(self.generator)} entries and must have one, or {count}")
        if self.source_prompt is not None and self.mode != "edit":
            raise ValueError(f'source_prompt does not go with mode={self.mode}: leave it out, or use mode="edit"')
        if self.mode == "text":
            self._check_text()
        elif self.mode == "edit":
            self._check_edited()
        elif self.mode == "interpolate":
            self._check_interpolated()
        else:
            self._check_given()

    @property
    def schedules(self) -> tuple[PromptSchedule, ...]:
        """The prompts, and that of what is given."""
        return self.prompts if self.source_prompt is None else (*self.prompts, self.source_prompt)

    def _check_text(self) -> None:
        duration = (self.num_frames - 1) / self.frame_rate
        for keyframe in self.keyframes:
            if not 0 <= keyframe.seconds <= duration + 1e-6:
                raise ValueError(f"keyframe at {keyframe.seconds:g} s: the video goes from 0 to {duration:g} s")
            check_frames("keyframe", keyframe.picture[None], (self.height, self.width))
        places = [round(keyframe.seconds * self.frame_rate) for keyframe in self.keyframes]
        if len(set(places)) < len(places):
            raise ValueError(f"two keyframes fall on one frame at {self.frame_rate:g} a second: leave one out")

    def _check_edited(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength={self.strength} must be in [0, 1]: 0 changes nothing, 1 everything")
        if self.source_prompt is not None and self.sampling.step_cache:
            reason = "step_cache does not go with source_prompt, where noise is new at each step"
            raise ValueError(f"{reason}: leave it at 0")
        assert self.video is not None
        check_frames("frames", self.video)
        if self.mask is None:
            return
        if self.mask.dtype != torch.bool or self.mask.shape != self.video.shape[:3]:
            size = tuple(self.video.shape[:3])
            raise ValueError(f"mask of {self.mask.dtype} {tuple(self.mask.shape)} must be torch.bool {size}")
        if not bool(self.mask.any()):
            raise ValueError("mask is nowhere true: mark what is to be made anew")

    def _check_interpolated(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must be in [0, 1]: 0 is the first video, 1 the second")
        assert self.video is not None and self.second is not None
        check_frames("frames", self.video)
        check_frames("second", self.second, tuple(self.video.shape[1:3]))
        if len(self.video) != len(self.second):
            raise ValueError(f"videos of {len(self.video)} and {len(self.second)} frames must be as long: cut one")

    def _check_given(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds={self.seconds} must be above 0")
        assert self.video is not None
        check_frames("frames", self.video)
        if self.mode == "connect":
            assert self.second is not None
            check_frames("second", self.second, tuple(self.video.shape[1:3]))


def check_size(height: int, width: int, grid: int) -> None:
    """Raises ValueError unless both are multiples of ``grid``."""
    for name, size in (("height", height), ("width", width)):
        if size < grid or size % grid:
            lower = max(grid, size // grid * grid)
            raise ValueError(f"{name}={size} must be a multiple of {grid}: use {lower} or {lower + grid}")


def check_frames(name: str, frames: Tensor, size: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless ``frames`` are uint8 ``(t, h, w, 3)``, of this (height, width) if one is given."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.numel():
        raise ValueError(f"{name} of {frames.dtype} {tuple(frames.shape)} must be uint8 (t, h, w, 3), not empty")
    if size is not None and tuple(frames.shape[1:3]) != tuple(size):
        height, width = frames.shape[1:3]
        raise ValueError(f"{name} of {width}x{height} pixels must be of {size[1]}x{size[0]}, as all frames are")


@dataclass(frozen=True)
class Piece:
    """The next frames of the videos in order of time, ``(b, 3, t, h, w)`` in [-1, 1] on the host. given: whether they
    are the user's own, bit for bit once they are turned to uint8, or made."""

    frames: Tensor
    given: bool
