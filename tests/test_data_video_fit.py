"""Pictures of every kind come as RGB, upright and of the size that was asked for; videos as they are read at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.transforms import fit
from data.video import VideoError, read_video, write_video
from data.video_fit import fitted_mask, fitted_picture, fitted_video, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def saved(folder: Path, name: str, image: Image.Image, exif: Image.Exif | None = None) -> Path:
    image.save(folder / name, **({} if exif is None else {"exif": exif}))
    return folder / name


def test_kinds_of_pictures(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    assert np.array_equal(read_picture(saved(tmp_path, "a.png", image)).numpy(), PIXELS)
    assert np.array_equal(read_picture(saved(tmp_path, "a.bmp", image)).numpy(), PIXELS)
    grey = image.convert("L")
    assert np.array_equal(read_picture(saved(tmp_path, "l.png", grey)).numpy(), np.stack([np.asarray(grey)] * 3, -1))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert np.array_equal(read_picture(saved(tmp_path, "deep.png", deep)).numpy()[..., 1], np.asarray(grey))
    clear = image.copy()
    clear.putalpha(Image.fromarray(np.where(np.arange(30) < 15, 255, 0).astype(np.uint8)[None].repeat(20, 0)))
    shown = read_picture(saved(tmp_path, "clear.png", clear)).numpy()
    assert np.array_equal(shown[:, :15], PIXELS[:, :15]) and not shown[:, 15:].any()
    palette = read_picture(saved(tmp_path, "a.gif", image.quantize(256))).numpy()
    assert np.abs(palette.astype(int) - PIXELS).mean() < 40
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees when it is shown
    assert np.array_equal(read_picture(saved(tmp_path, "turned.png", image, exif)).numpy(), np.rot90(PIXELS, -1))


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    whole = saved(tmp_path, "a.png", Image.fromarray(PIXELS)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "changed.png").write_bytes(whole[:60] + b"\0" * 200 + whole[260:])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (9000, 8000)).save(tmp_path / "large.png")
    for name in ("cut.png", "changed.png", "text.png", "empty.png", "large.png"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read as a picture") as error:
            read_picture(tmp_path / name)
        assert "\n" not in str(error.value)
    for name in ("gone.png", "."):
        with pytest.raises(ValueError, match="no such file"):
            read_picture(tmp_path / name)


def test_a_picture_is_fitted_as_frames_are(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
    picture, change = fitted_picture(path, 16, 16)
    assert torch.equal(picture, fit(torch.from_numpy(PIXELS)[None], 16, 16)[0])
    assert change == "a.png: resampled from 30x20 to 16x16 pixels (cropped about its centre)"
    assert fitted_picture(path, 10, 15)[1] == "a.png: resampled from 30x20 to 15x10 pixels"
    same, change = fitted_picture(path, 20, 30)
    assert change == "" and np.array_equal(same.numpy(), PIXELS)


def test_a_video_is_fitted_as_it_is_read(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (37, 48, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.mp4"
    write_video(path, frames, 12.0)
    fitted, change = fitted_video(path, 32, 32, 8.0)
    assert torch.equal(fitted, fit(read_video(path, frame_rate=8.0).frames, 32, 32))
    assert change == "a.mp4: resampled from 64x48 to 32x32 pixels (cropped about its centre), 12 to 8 frames a second"
    same, change = fitted_video(path, 48, 64, 12.0)
    assert change == "" and torch.equal(same, read_video(path).frames)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoError):
        fitted_video(path, 32, 32, 8.0)


def test_a_mask_is_white_where_the_video_is_made_anew(tmp_path: Path) -> None:
    """Of a picture for all frames, and of a video for each; cropped as the video is, and a thin line is still there."""
    levels = np.zeros((40, 60), dtype=np.uint8)
    levels[:20] = 200
    levels[30, :] = 255
    path = saved(tmp_path, "m.png", Image.fromarray(levels))
    mask = fitted_mask(path, (20, 30), 5, 16, 16, 8.0)
    assert mask.shape == (5, 16, 16) and mask.dtype == torch.bool
    assert mask[0, :, 0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 12]
    assert torch.equal(mask, mask[:1, :, :1].expand_as(mask))
    moving = np.zeros((10, 32, 48, 3), dtype=np.uint8)
    moving[6:, :, 24:] = 255
    write_video(tmp_path / "m.mp4", moving, 8.0)
    mask = fitted_mask(tmp_path / "m.mp4", (32, 48), 9, 32, 48, 8.0)
    assert not bool(mask[:6].any())
    assert bool(mask[6:, :, 25:].all()) and not bool(mask[6:, :, :23].any())


def test_masks_that_say_nothing_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", np.full((5, 32, 48, 3), 255, dtype=np.uint8), 8.0)
    saved(tmp_path, "black.png", Image.new("L", (48, 32)))
    saved(tmp_path, "square.png", Image.new("L", (48, 48), 255))
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in {
        "short.mp4": "the mask lasts 0.625 s, and the video 1.125 s: give one as long, or a picture",
        "black.png": "nothing in the mask is white",
        "square.png": "the mask has 48x48 pixels, and the video 48x32: give one of the same shape",
        "text.png": "cannot be read as a picture",
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {reason}"):
            fitted_mask(tmp_path / name, (32, 48), 9, 32, 48, 8.0)
