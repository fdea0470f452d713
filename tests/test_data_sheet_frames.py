"""Contact sheets of videos that come in pieces: those of the whole, at bounded memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sheet import write_contact_sheet
from data.sheet_frames import HELD, SheetFrames


def grey(first: int, count: int) -> np.ndarray:
    """Frames `(t, 128, 128, 3)` that show their number."""
    numbers = np.arange(first, first + count)
    return np.broadcast_to((numbers % 251).astype(np.uint8)[:, None, None, None], (count, 128, 128, 3))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("sizes", [[1], [3, 1, 5], [16] * 7])
def test_a_short_video_has_the_sheet_of_its_frames(tmp_path: Path, sizes: list[int]) -> None:
    held, given = SheetFrames(), []
    for place, size in enumerate(sizes):
        held.add(grey(sum(sizes[:place]), size), given=place % 2 == 0)
        given += [place % 2 == 0] * size
    held.write(tmp_path / "pieces.png", 8)
    write_contact_sheet(tmp_path / "whole.png", grey(0, sum(sizes)), 8, known=np.array(given))
    assert np.array_equal(pixels(tmp_path / "pieces.png"), pixels(tmp_path / "whole.png"))


def test_borders_are_there_where_frames_are_given_alone(tmp_path: Path) -> None:
    held = SheetFrames()
    held.add(grey(0, 9), given=False)
    held.write(tmp_path / "pieces.png", 8)
    write_contact_sheet(tmp_path / "whole.png", grey(0, 9), 8)
    assert np.array_equal(pixels(tmp_path / "pieces.png"), pixels(tmp_path / "whole.png"))


@pytest.mark.parametrize("count", [HELD + 1, 1000, 4097])
def test_of_a_long_video_few_frames_are_held_and_the_sheet_is_evenly_spaced(tmp_path: Path, count: int) -> None:
    held = SheetFrames()
    for first in range(0, count, 50):
        held.add(grey(first, min(50, count - first)), given=False)
        assert len(held._kept) <= HELD
    held.write(tmp_path / "sheet.png", 8)
    picture = pixels(tmp_path / "sheet.png")
    cells = [(4 + row * (128 + 24) + 20 + 64, 4 + column * 132 + 64) for row in range(4) for column in range(5)]
    shown = [int(picture[place][0]) for place in cells]
    for value, wanted in zip(shown, np.linspace(0, count - 1, 20).round(), strict=True):
        off = abs((value - wanted + 125) % 251 - 125)
        assert off <= count / HELD, (value, wanted)
    assert shown[0] == 0 and shown[-1] == (count - 1) % 251


@pytest.mark.parametrize("count", [81, 1003])
@pytest.mark.parametrize("places", [(0, 16, 29), (22,), ()])
def test_pictures_among_made_frames_are_shown(tmp_path: Path, count: int, places: tuple[int, ...]) -> None:
    held, begin = SheetFrames(), 0
    for place in places:
        if place > begin:
            held.add(grey(begin, place - begin), given=False)
        held.add(grey(place, 1), given=True)
        begin = place + 1
    held.add(grey(begin, count - begin), given=False)
    held.write(tmp_path / "sheet.png", 8)
    picture = pixels(tmp_path / "sheet.png").astype(int)
    border = 4 if places else 0
    high, wide = 128 + 2 * border + 24, 128 + 2 * border + 4
    cells = [(4 + row * high + 20, 4 + column * wide) for row in range(4) for column in range(5)]
    given = [int(picture[y + 64, x + 64, 0]) for y, x in cells if picture[y + 1, x + 1, 1] > picture[y + 1, x + 1, 0]]
    assert given == list(places)


def test_without_frames_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        SheetFrames().write(tmp_path / "a.png", 8)
    assert list(tmp_path.iterdir()) == []
