"""What may be said of a given video, and what is refused in one line."""

from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from video_dit.given import GivenOptions, as_mask, given_request
from video_dit.sampling import SamplingConfig

FRAMES = torch.zeros(9, 32, 48, 3, dtype=torch.uint8)


def test_options_that_are_left_out_have_the_defaults_of_text_to_video() -> None:
    asked = given_request("loop", FRAMES, 8.0, {}, seconds=1.0)
    assert asked.sampling == SamplingConfig()
    assert asked.frame_rate == 8 and asked.generator is None and asked.context_seconds is None
    assert asked.prompts[0].texts == ("",) and asked.negative_prompts == ("",)


def test_each_option_of_sampling_is_passed_on() -> None:
    values: dict[str, Any] = {
        "num_inference_steps": 7,
        "guidance_scale": 2.0,
        "context_level": 0.2,
        "guidance_interval": (0.1, 0.9),
        "history_guidance": 1.5,
        "step_cache": 0.1,
    }
    assert set(values) == set(vars(SamplingConfig()))
    options: GivenOptions = {**values, "prompt": "0: a | 1: b", "negative_prompt": "c", "frame_rate": 12.0}  # type: ignore[typeddict-item]
    asked = given_request("edit", FRAMES.numpy(), 8.0, options, strength=0.5)
    assert vars(asked.sampling) == values
    assert asked.frame_rate == 12 and asked.prompts[0].texts == ("a", "b") and asked.negative_prompts == ("c",)


def test_all_options_have_a_type() -> None:
    hints = get_type_hints(GivenOptions)
    assert set(vars(SamplingConfig())) | {"prompt", "generator", "output_type"} <= set(hints)


def test_an_option_that_is_not_there_is_named() -> None:
    options: Any = {"promt": "a dog"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'promt'"):
        given_request("loop", FRAMES, 8.0, options, seconds=1.0)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_masks_are_of_frames_or_of_one_for_all(kind: Any) -> None:
    still = np.zeros((32, 48), dtype=kind)
    still[:16] = 1 if kind is bool else 128
    mask = as_mask(still, 9)
    assert mask.shape == (9, 32, 48) and mask.dtype == torch.bool
    assert bool(mask[:, :16].all()) and not bool(mask[:, 16:].any())
    moving = torch.rand(9, 32, 48) < 0.5
    assert torch.equal(as_mask(moving, 9), moving)
    assert not as_mask(np.full((2, 2), 127, dtype=np.uint8), 1).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strength": 1.5}, r"strength=1.5 must be in \[0, 1\]"),
        ({"strength": float("nan")}, "strength=nan must be in"),
        (
            {"mask": np.zeros((32, 48, 3), dtype=np.float32)},
            r"mask of torch.float32 \(32, 48, 3\) must be bool or uint8",
        ),
        ({"mask": np.ones((16, 48), dtype=bool)}, r"mask of torch.bool \(9, 16, 48\) must be torch.bool \(9, 32, 48\)"),
        ({"mask": np.ones((8, 32, 48), dtype=bool)}, r"mask of torch.bool \(8, 32, 48\) must be torch.bool"),
        ({"mask": np.zeros((32, 48), dtype=bool)}, "mask is nowhere true: mark what is to be made anew"),
        ({"mode": "interpolate", "second": FRAMES, "fraction": -0.1}, r"fraction=-0.1 must be in \[0, 1\]"),
        ({"mode": "interpolate", "second": FRAMES[:5]}, "videos of 9 and 5 frames must be as long: cut one"),
        ({"mode": "interpolate", "second": FRAMES[:, :16]}, "second of 48x16 pixels must be of 48x32"),
    ],
)
def test_what_cannot_be_is_one_line(changed: dict[str, Any], message: str) -> None:
    arguments = {"mode": "edit", "frames": FRAMES, "frame_rate": 8.0, "options": {}} | changed
    with pytest.raises(ValueError, match=message) as error:
        given_request(**arguments)
    assert "\n" not in str(error.value)
