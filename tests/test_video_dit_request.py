"""What may be asked, and what is refused in one line."""

from typing import Any

import pytest
import torch

from video_dit.request import Keyframe, PromptSchedule, VideoRequest
from video_dit.sampling import SamplingConfig

FRAMES = torch.zeros(9, 32, 48, 3, dtype=torch.uint8)


def test_a_schedule_is_read_and_looked_up() -> None:
    schedule = PromptSchedule.parse(" 0: a dog: it sits | 2.5 : it runs|20:")
    assert schedule == PromptSchedule((0.0, 2.5, 20.0), ("a dog: it sits", "it runs", ""))
    assert [schedule.at(s) for s in (0, 2.4, 2.5, 19, 20, 99)] == [
        "a dog: it sits",
        "a dog: it sits",
        "it runs",
        "it runs",
        "",
        "",
    ]


@pytest.mark.parametrize("text", ["0:a dog|1:it runs", "0: a dog | 1: it runs", "0.0 : a dog|1:it runs"])
def test_a_schedule_needs_no_spaces(text: str) -> None:
    assert PromptSchedule.parse(text) == PromptSchedule((0.0, 1.0), ("a dog", "it runs"))


@pytest.mark.parametrize("text", ["", "a dog", "a | b", "10: later", "0 dogs: none", "scene 0: a dog", "0:00 on it"])
def test_what_does_not_begin_at_0_is_one_prompt(text: str) -> None:
    assert PromptSchedule.parse(text) == PromptSchedule((0.0,), (text,))


def test_a_caption_that_looks_like_a_schedule_is_one_prompt() -> None:
    caption = "0:15 | a timer"
    assert PromptSchedule.plain(caption).at(20.0) == caption
    assert PromptSchedule.of(PromptSchedule.plain(caption)) == PromptSchedule.plain(caption)
    assert PromptSchedule.of("0: a | 1: b") == PromptSchedule.parse("0: a | 1: b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: a | b", "'b' must be 'SECONDS: prompt'"),
        ("0: a | -1: b", "'-1: b' must be 'SECONDS: prompt'"),
        ("0: a | 5: b | 5: c", r"starts of \[0, 5, 5\] must begin at 0 and rise"),
        ("0: a | 5: b | 4: c", r"starts of \[0, 5, 4\] must begin at 0 and rise"),
        ("0: a |", "'' must be 'SECONDS: prompt'"),
    ],
)
def test_a_bad_schedule_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PromptSchedule.parse(text)
    assert "\n" not in str(error.value)


def asked(**changed: Any) -> VideoRequest:
    values: dict[str, Any] = {
        "mode": "text",
        "prompts": (PromptSchedule.parse("a"),),
        "negative_prompts": ("",),
        "frame_rate": 8.0,
        "sampling": SamplingConfig(),
        "num_frames": 33,
        "height": 32,
        "width": 48,
    }
    return VideoRequest(**(values | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "sideways"}, "mode='sideways' must be one of text, forward"),
        ({"prompts": ()}, r"prompt=\[\] must hold"),
        ({"frame_rate": float("inf")}, "frame_rate=inf must be above 0"),
        ({"negative_prompts": ("a", "b")}, "negative_prompt has 2 texts"),
        ({"keyframes": (Keyframe(4.2, FRAMES[0]),)}, "keyframe at 4.2 s: the video goes from 0 to 4 s"),
        ({"keyframes": (Keyframe(-0.1, FRAMES[0]),)}, "keyframe at -0.1 s: the video goes"),
        ({"keyframes": (Keyframe(float("nan"), FRAMES[0]),)}, "keyframe at nan s: the video goes"),
        ({"keyframes": (Keyframe(1.0, FRAMES[0]), Keyframe(1.01, FRAMES[1]))}, "two keyframes fall on one frame"),
        ({"keyframes": (Keyframe(1.0, FRAMES[0, :16]),)}, "keyframe of 48x16 pixels must be of 48x32"),
        ({"keyframes": (Keyframe(1.0, FRAMES[0].float()),)}, "keyframe of torch.float32"),
        ({"mode": "loop", "video": FRAMES, "seconds": 0.0}, "seconds=0.0 must be above 0"),
        ({"mode": "both", "video": FRAMES, "seconds": float("nan")}, "seconds=nan must be above 0"),
        ({"mode": "forward", "video": FRAMES[..., :2], "seconds": 1.0}, "frames of torch.uint8 .* must be uint8"),
        (
            {"mode": "connect", "video": FRAMES, "second": FRAMES[:, :16], "seconds": 1.0},
            "second of 48x16 pixels must be of 48x32",
        ),
    ],
)
def test_what_cannot_be_is_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        asked(**changed)
    assert "\n" not in str(error.value)
