"""Contact sheets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.sheet import checked_folder, write_contact_sheet, write_rows


def test_contact_sheet(tmp_path: Path) -> None:
    frames, known = torch.randint(256, (81, 48, 64, 3), dtype=torch.uint8), torch.arange(81) < 33
    write_contact_sheet(tmp_path / "a.png", frames, 8)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (5 * (3 * 64 + 4) + 4, 4 * (3 * 48 + 20 + 4) + 4)  # 20 frames, enlarged 3 times
    write_contact_sheet(tmp_path / "b.png", frames, 8, columns=4, known=known)
    with Image.open(tmp_path / "b.png") as sheet:
        colours = [sheet.getpixel((4 + i % 4 * 204 + 1, 4 + i // 4 * 176 + 21)) for i in range(20)]
    greener = [green > red for red, green, _ in colours]
    assert greener == [bool(known[round(i * 80 / 19)]) for i in range(20)]
    write_contact_sheet(tmp_path / "c.png", frames[:1], 8)
    with pytest.raises(ValueError, match=r"known has shape \(3,\)"):
        write_contact_sheet(tmp_path / "d.png", frames, 8, known=known[:3])
    with pytest.raises(ValueError, match=r"numbers have shape \(3,\)"):
        write_contact_sheet(tmp_path / "d.png", frames, 8, numbers=np.arange(3))
    with pytest.raises(ValueError, match=r"must end in .png"):
        write_contact_sheet(tmp_path / "d.jpg", frames, 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_rows_have_a_label_and_evenly_spaced_frames(tmp_path: Path) -> None:
    clips = [(f"clip {i}, " + "of many words " * 20, np.full((9, 8, 12, 3), 60 * i, np.uint8)) for i in range(3)]
    write_rows(tmp_path / "rows.png", clips, columns=4)
    picture = np.asarray(Image.open(tmp_path / "rows.png"))
    height, width, _ = picture.shape
    assert width == 4 * (12 * 12 + 4) + 4 and (height - 4) % 3 == 0
    for i in range(3):
        row = picture[i * (height // 3) :][: height // 3]
        assert (row == 60 * i).all(-1).mean() > 0.6 and (row[:30] < 128).any()
    with pytest.raises(ValueError, match="no clips"):
        write_rows(tmp_path / "rows.png", [])


def test_rows_of_clips_of_several_sizes_do_not_overlap(tmp_path: Path) -> None:
    sizes = [(200, 100), (96, 160), (16, 32)]  # the last is enlarged 6 times
    clips = [("", np.full((5, h, w, 3), 50 * i, np.uint8)) for i, (h, w) in enumerate(sizes, start=1)]
    write_rows(tmp_path / "rows.png", clips, columns=3)
    picture = np.asarray(Image.open(tmp_path / "rows.png"))
    assert picture.shape[1] == 3 * (192 + 4) + 4
    for i, area in ((1, 200 * 100), (2, 96 * 160), (3, 96 * 192)):
        assert (picture == 50 * i).all(-1).sum() == 3 * area


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    for name in (".", "new", "new/er"):
        checked_folder("--out x", tmp_path / name)
    for name in ("a", "a/b/c"):
        with pytest.raises(ValueError, match=r"^--out x: \S+/a is a file: give a folder$"):
            checked_folder("--out x", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
