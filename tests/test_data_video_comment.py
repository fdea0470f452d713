"""Comments in video files come back as they were, in each kind of file that has them."""

from pathlib import Path

import pytest
import torch

from data.video import VideoError, read_video, write_video
from data.video_comment import read_comment
from data.video_write import COMMENTED

FRAMES = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 32, 32, 3) * 40
TEXTS = ("plain", '{"a": "x = 1; # no comment\\n"}', "two\nlines of 中文, é and ünïcode", "long " * 20_000, "a=b\\;#")


@pytest.mark.parametrize("suffix", COMMENTED)
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:5])
def test_a_comment_comes_back(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_video(path, FRAMES, 8, reproducible=True, comment=text)
    assert read_comment(path) == text
    write_video(tmp_path / f"b{suffix}", FRAMES, 8, reproducible=True)
    assert read_comment(tmp_path / f"b{suffix}") is None
    assert torch.equal(read_video(path).frames, read_video(tmp_path / f"b{suffix}").frames)
    write_video(tmp_path / f"c{suffix}", FRAMES, 8, reproducible=True, comment=text)
    assert path.read_bytes() == (tmp_path / f"c{suffix}").read_bytes()


def test_an_animation_has_none(tmp_path: Path) -> None:
    for name in ("a.gif", "a.webp"):
        with pytest.raises(ValueError, match=r"only \.mp4 and \.webm have one"):
            write_video(tmp_path / name, FRAMES, 8, comment="x")
    assert list(tmp_path.iterdir()) == []
    write_video(tmp_path / "a.gif", FRAMES, 8)
    assert read_comment(tmp_path / "a.gif") is None


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("nothing of the kind")
    with pytest.raises(VideoError, match="not a video"):
        read_comment(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="no such file"):
        read_comment(tmp_path / "b.mp4")
