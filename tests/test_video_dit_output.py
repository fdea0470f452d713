"""Frames in the forms that diffusers' pipelines give."""

import numpy as np
import pytest
import torch

from video_dit.output import OUTPUT_TYPES, check_output_type, to_output

FRAMES = (torch.arange(2 * 3 * 4 * 5 * 6).view(2, 3, 4, 5, 6) % 256).float() / 127.5 - 1  # b c t h w


def test_each_type_holds_the_same_frames() -> None:
    tensor, array, images = (to_output(FRAMES, kind) for kind in ("pt", "np", "pil"))
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(array, np.ndarray)
    assert isinstance(images, list)
    assert tensor.shape == (2, 4, 3, 5, 6)
    assert torch.allclose(tensor, (FRAMES.movedim(2, 1) + 1) / 2)
    assert np.array_equal(tensor.movedim(2, 4).numpy(), array)
    assert [len(clip) for clip in images] == [4, 4]
    assert images[1][3].size == (6, 5)
    assert [images[1][3].getpixel((x, 4)) for x in (0, 5)] == [tuple(p) for p in (array[1, 3, 4, [0, 5]] * 255).round()]


def test_values_are_kept_in_range() -> None:
    array = to_output(3 * FRAMES, "np")
    assert isinstance(array, np.ndarray)
    assert array.min() == 0
    assert array.max() == 1


def test_other_types_are_refused() -> None:
    for kind in OUTPUT_TYPES:
        check_output_type(kind)
    with pytest.raises(ValueError, match="output_type='gif' must be one of np, pt, pil, latent"):
        check_output_type("gif")
