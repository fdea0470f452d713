"""Frames as players show them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data.video import probe_video, read_video
from data.video_picture import picture, square_size


def corners(height: int = 64, width: int = 96) -> np.ndarray:
    """Red, green, blue and black quarters: `(h, w, 3)`."""
    array = np.zeros((height, width, 3), np.uint8)
    array[: height // 2, : width // 2] = (255, 0, 0)
    array[: height // 2, width // 2 :] = (0, 255, 0)
    array[height // 2 :, : width // 2] = (0, 0, 255)
    return array


def differs(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_matrix_turns_and_mirrors(tmp_path: Path, degrees: int, hflip: bool) -> None:
    stored = corners()
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.set_display_rotation(degrees, hflip=hflip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    upright = np.rot90(stored, degrees // 90)
    upright = upright[:, ::-1] if hflip else upright
    frames = read_video(tmp_path / "a.mp4").frames
    assert frames.shape[1:] == upright.shape
    assert differs(frames[0].numpy(), upright) < 2


def test_pixels_become_square() -> None:
    assert square_size(340, 256, Fraction(64, 51)) == (427, 256)
    assert square_size(352, 288, Fraction(8, 9)) == (352, 324)
    for left_out in (None, Fraction(0), Fraction(1), Fraction(5), Fraction(1, 5)):
        assert square_size(64, 48, left_out) == (64, 48)


@pytest.mark.parametrize("turned", [False, True])
def test_the_pixel_aspect_of_a_file_counts(tmp_path: Path, turned: bool) -> None:
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.sample_aspect_ratio = Fraction(3, 2)
        if turned:
            stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(stream.encode(None))
    info = probe_video(tmp_path / "a.mp4")
    assert (info.width, info.height) == ((64, 144) if turned else (144, 64))
    frames = read_video(tmp_path / "a.mp4").frames
    wide = corners(64, 144)
    assert differs(frames[0].numpy(), np.rot90(wide) if turned else wide) < 4


@pytest.mark.parametrize("matrix", ["ITU709", "ITU601"])
@pytest.mark.parametrize("full_range", [False, True])
def test_matrix_and_range_that_a_frame_names_count(matrix: str, full_range: bool) -> None:
    from av.video.reformatter import ColorRange, Colorspace

    frame = av.VideoFrame.from_ndarray(corners(), format="rgb24").reformat(
        format="yuv444p",
        dst_colorspace=Colorspace[matrix],
        dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
    )
    assert differs(picture(frame), corners()) < 1.5


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "gray", "bgr24", "yuvj420p", "nv12"])
def test_other_formats_come_out_alike(pixel_format: str) -> None:
    grey = np.full((64, 96, 3), 130, np.uint8)
    grey[:32] = 40
    frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixel_format)
    assert differs(picture(frame), grey) < 1.5


def test_transparency_is_over_black() -> None:
    array = np.dstack([corners(), np.full((64, 96), 255, np.uint8)])
    array[:, 50:70, 3] = 0
    array[:, 70:, 3] = 128
    shown = picture(av.VideoFrame.from_ndarray(array, format="rgba"))
    assert np.array_equal(shown[:, :50], corners()[:, :50])
    assert not shown[:, 50:70].any()
    assert differs(shown[:, 70:], corners()[:, 70:] * (128 / 255)) < 0.6
