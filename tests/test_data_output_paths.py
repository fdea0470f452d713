"""Names of what is written: no two videos of a command share one, and nothing that is read is written over."""

from pathlib import Path

import pytest

from data.generate_options import parse
from data.output_paths import SUFFIXES, check_paths, output_paths, sheet_path
from data.video_write import SUFFIXES as WRITTEN


def names(*arguments: str) -> list[str]:
    return [path.as_posix() for path in output_paths(parse(list(arguments), "", Path("model")))]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with two videos, a picture and prompts that differ in what names leave out."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "p.png"):
        Path(name).write_bytes(b"")
    Path("prompts.txt").write_text("A ball\na ball!\n")
    Path("folder.d").mkdir()


def test_the_suffixes_are_those_that_can_be_written() -> None:
    assert SUFFIXES == WRITTEN


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prompt", "A ball"], ["outputs/a-ball-0.mp4"]),
        (["--prompt", "A ball", "--pictures"], ["outputs/a-ball-0"]),
        (["--seed", "3", "--num-videos", "2"], ["outputs/no-prompt-3.mp4", "outputs/no-prompt-4.mp4"]),
        (["--prompt-file", "prompts.txt"], ["outputs/a-ball-001-0.mp4", "outputs/a-ball-002-0.mp4"]),
        (["--prompt-file", "prompts.txt", "--out", "x.webm"], ["x-001-0.webm", "x-002-0.webm"]),
        (["--num-videos", "2", "--out", "x.webm"], ["x-0.webm", "x-1.webm"]),
        (["--video", "a.mp4", "--edit", "0"], ["outputs/a-edit-no-prompt-0.mp4"]),
        (["--video", "a.mp4", "--edit", "0.5", "--mask", "p.png", "--prompt", "A cat"], ["outputs/a-edit-a-cat-0.mp4"]),
        (["--video", "a.mp4", "--mask", "p.png"], ["outputs/a-mask-no-prompt-0.mp4"]),
        (["--video", "a.mp4", "--uncrop", "16:9"], ["outputs/a-uncrop-0.mp4"]),
        (["--video", "a.mp4", "--interpolate", "b.mp4"], ["outputs/a-interpolate-b-0.mp4"]),
        (["--out", "folder.d"], ["folder.d/no-prompt-0.mp4"]),
        (["--out", "new", "--pictures"], ["new"]),
        (["--video", "a.mp4", "--extend", "both", "--prompt", "x"], ["outputs/a-both-0.mp4"]),
        (["--video", "a.mp4", "--connect", "b.mp4"], ["outputs/a-connect-b-0.mp4"]),
        (["--video", "a.mp4", "--loop", "--out", "x.mp4"], ["x.mp4"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_names(arguments: list[str], expected: list[str]) -> None:
    assert names(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "out", "lost"),
    [
        (["--video", "a.mp4", "--connect", "b.mp4"], "b.mp4", "b.mp4"),
        (["--video", "a.mp4", "--loop"], "folder.d/../a.mp4", "a.mp4"),
        (["--image", "p.png"], "p.mp4", "p.png"),
        (["--keyframe", "p.png@1", "--pictures"], "p", "p.png"),
        (["--repeat", "a.mp4"], "a.mp4", "a.mp4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_is_read_stays(arguments: list[str], out: str, lost: str) -> None:
    args = parse([*arguments, "--out", out], "", Path("model"))
    with pytest.raises(ValueError, match=f"would take the place of {lost}, which is read: choose another name"):
        check_paths(args, output_paths(args))
    args.out = Path("other").with_suffix(Path(out).suffix)
    check_paths(args, output_paths(args))


def test_sheets_stand_beside() -> None:
    args = parse([], "", Path("model"))
    assert sheet_path(args, Path("x/a.mp4")) == Path("x/a.png")
    args = parse(["--pictures"], "", Path("model"))
    assert sheet_path(args, Path("x/v1.5")) == Path("x/v1.5.png")
