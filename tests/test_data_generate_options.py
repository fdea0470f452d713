"""The command line of generate.py: what goes together, and that what a file remembers is what was given."""

import argparse
import os
from pathlib import Path

import pytest

from data.generate_options import NOT_RECORDED, parse, recorded
from data.settings import Settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with files of these names; what is in them is not looked at."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "p.png", "lora"):
        Path(name).write_bytes(b"")
    Path("model").mkdir()
    Path("prompts.txt").write_text("a dog\n")
    Path("empty.txt").write_text("\n# a\n\n")


def parsed(*arguments: str) -> argparse.Namespace:
    return parse(list(arguments), "what it does", Path("model"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--video", "a.mp4"],
            ["--video goes with --extend, --connect, --loop, --edit, --mask, --uncrop, --interpolate"],
        ),
        (["--video", "a.mp4", "--loop", "--extend", "both"], ["--loop", "--extend"]),
        (["--video", "a.mp4", "--connect", "b.mp4", "--extend", "both"], ["--connect", "--extend"]),
        (["--video", "a.mp4", "--connect", "b.mp4", "--loop"], ["--connect", "--loop"]),
        (["--loop"], ["--loop needs --video"]),
        (["--edit", "0"], ["--edit needs --video"]),
        (["--mask", "p.png"], ["--mask needs --video"]),
        (["--uncrop", "16:9"], ["--uncrop needs --video"]),
        (["--interpolate", "b.mp4"], ["--interpolate needs --video"]),
        (["--video", "a.mp4", "--edit", "1.1"], ["--edit", "'1.1' must be a number from 0 to 1"]),
        (["--video", "a.mp4", "--edit", "much"], ["--edit", "'much' must be a number from 0 to 1"]),
        (["--video", "a.mp4", "--mask", "gone.png"], ["--mask gone.png: no such file"]),
        (["--video", "a.mp4", "--uncrop", "wide"], ["--uncrop", "'wide' must be like 16:9"]),
        (["--video", "a.mp4", "--interpolate", "gone.mp4"], ["--interpolate gone.mp4: no such file"]),
        (["--video", "a.mp4", "--loop", "--source-prompt", "a dog"], ["--source-prompt needs --edit"]),
        (["--video", "a.mp4", "--mask", "p.png", "--source-prompt", "a dog"], ["--source-prompt needs --edit"]),
        (["--video", "a.mp4", "--edit", "0.8", "--source-prompt", " "], ["--source-prompt"]),
        (
            ["--video", "a.mp4", "--edit", "0.8", "--source-prompt", "a", "--prompt", "b", "--expand-prompt", "world"],
            ["--expand-prompt does not go with --source-prompt"],
        ),
        (
            ["--video", "a.mp4", "--edit", "0.8", "--source-prompt", "a", "--step-cache", "0.1"],
            ["--step-cache and --source-prompt", "exclude each other"],
        ),
        (["--video", "a.mp4", "--edit", "0.6", "--loop"], ["--loop and --edit exclude each other"]),
        (["--video", "a.mp4", "--mask", "p.png", "--uncrop", "1:1"], ["--mask and --uncrop exclude each other"]),
        (["--video", "a.mp4", "--edit", "0", "--interpolate", "b.mp4"], ["--edit and --interpolate exclude"]),
        (["--video", "a.mp4", "--edit", "0.6", "--seconds", "2"], ["--seconds does not go with --edit"]),
        (["--video", "a.mp4", "--uncrop", "1:1", "--seconds", "2"], ["--seconds does not go with --uncrop"]),
        (["--video", "a.mp4", "--uncrop", "16:9", "--aspect", "16:9"], ["--uncrop and --aspect"]),
        (["--video", "a.mp4", "--loop", "--fraction", "0.3"], ["--fraction needs --interpolate"]),
        (["--video", "a.mp4", "--interpolate", "b.mp4", "--fraction", "2"], ["--fraction", "from 0 to 1"]),
        (["--video", "a.mp4", "--interpolate", "b.mp4", "--step-cache", "0.1"], ["--step-cache does not go with"]),
        (["--video", "a.mp4", "--interpolate", "b.mp4", "--negative-prompt", "x"], ["need --guidance-scale"]),
        (["--video", "a.mp4", "--interpolate", "b.mp4", "--num-videos", "2"], ["--interpolate makes one video"]),
        (["--connect", "b.mp4"], ["--connect needs --video"]),
        (["--extend", "forward"], ["--extend needs --video"]),
        (["--video", "a.mp4", "--loop", "--image", "p.png"], ["--image and --video"]),
        (["--video", "a.mp4", "--loop", "--keyframe", "p.png@1"], ["--keyframe and --video"]),
        (["--video", "a.mp4", "--connect", "gone.mp4"], ["--connect gone.mp4: no such file"]),
        (["--image", "gone.png"], ["--image gone.png: no such file"]),
        (["--keyframe", "p.png@0", "--keyframe", "gone.png@1"], ["--keyframe gone.png: no such file"]),
        (["--keyframe", "p.png"], ["--keyframe", "FILE@SECONDS"]),
        (["--prompt", "x", "--prompt-file", "prompts.txt"], ["--prompt and --prompt-file"]),
        (["--prompt-file", "empty.txt"], ["--prompt-file", "empty.txt", "no line"]),
        (["--prompt-file", "gone.txt"], ["--prompt-file", "gone.txt", "No such file"]),
        (["--expand-prompt", "world"], ["--expand-prompt needs --prompt or --prompt-file"]),
        (["--expand-prompt", "world", "--prompt", ""], ["--expand-prompt needs --prompt or --prompt-file"]),
        (["--expand-prompt", "", "--prompt", "x"], ["--expand-prompt", "must not be empty"]),
        (["--expand-examples", "prompts.txt", "--prompt", "x"], ["--expand-examples goes with --expand-prompt MODEL"]),
        (
            ["--expand-examples", "prompts.txt", "--expand-prompt", "world", "--prompt", "x"],
            ["--expand-examples goes with --expand-prompt MODEL"],
        ),
        (
            ["--expand-examples", "empty.txt", "--expand-prompt", "m", "--prompt", "x"],
            ["--expand-examples", "empty.txt", "no line"],
        ),
        (["--repeat", "a.mp4", "--expand-prompt", "world"], ["--repeat", "leave out --expand-prompt"]),
        (["--size", "32x32", "--aspect", "1:1"], ["--size and --aspect"]),
        (["--repeat", "a.mp4", "--prompt", ""], ["--repeat", "leave out --prompt"]),
        (["--repeat", "a.mp4", "--steps", "30"], ["--repeat", "leave out --steps"]),
        (["--repeat", "gone.mp4"], ["--repeat gone.mp4: no such file"]),
        (["--scheduler", "best"], ["--scheduler", "euler"]),
        (["--image", "long" * 99], ["longlong", "File name too long"]),
        (["--out", "long" * 99 + ".mp4"], ["longlong", "File name too long"]),
        (["--guidance-interval", "1,0"], ["--guidance-interval", "LOW,HIGH"]),
        (["--seed", "1e3"], ["--seed", "whole number"]),
        *((["--seconds", value], ["--seconds", "above 0"]) for value in ("0", "-1", "nan", "inf")),
    ],
    ids=lambda value: " ".join(value),
)
def test_refuses(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed(*arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    for word in words:
        assert word in last, last


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt=--a \"b\" 'c'\n| 红", "--negative-prompt=-x", "--seconds=0.1", "--seed=-3", "--steps=7"],
        ["--prompt=a cat", "--expand-prompt=m", "--expand-examples=prompts.txt"],
        ["--image=p.png", "--keyframe=p.png@0.1", "--keyframe=p.png@2.30", "--size=80x48", "--frame-rate=23.976"],
        ["--video=a.mp4", "--extend=both", "--context-seconds=1.5", "--context-level=0.1", "--lora=lora"],
        ["--video=a.mp4", "--connect=b.mp4", "--guidance-scale=2", "--guidance-interval=0.1,0.30000000000000004"],
        ["--video=a.mp4", "--edit=0", "--mask=p.png"],
        ["--video=a.mp4", "--edit=0.8", "--source-prompt=0: a dog | 2: a cat"],
        ["--video=a.mp4", "--uncrop=16:9", "--size=80x48"],
        ["--video=a.mp4", "--interpolate=b.mp4", "--fraction=0.25"],
        ["--video=a.mp4", "--interpolate=b.mp4"],
        ["--video=a.mp4", "--loop", "--history-guidance=1.5", "--step-cache=0.1", "--scheduler=heun", "--device=cpu"],
    ],
    ids=lambda value: " ".join(value[:1]),
)
def test_what_is_recorded_gives_the_same_options(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder as well."""
    args = parsed(*arguments)
    settings = Settings.from_json(Settings(recorded(args), {}, {}).to_json())
    assert settings is not None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = parse(settings.words(), "", Path("another"))
    for name, value in vars(args).items():
        if name in NOT_RECORDED:
            continue
        if isinstance(value, Path):
            value = tmp_path / value
        if name == "keyframe" and value:
            value = [(tmp_path / path, seconds) for path, seconds in value]
        assert getattr(again, name) == value, name


def test_prompts_may_come_through_a_pipe() -> None:
    """Which can be read once."""
    read, write = os.pipe()
    os.write(write, b"a dog\n# none\na cat\n")
    os.close(write)
    assert parsed("--prompt-file", f"/dev/fd/{read}").prompt_file == ["a dog", "a cat"]
    os.close(read)


@pytest.mark.parametrize("name", ["owner/model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers@0123abc"])
def test_a_name_on_the_hub_is_kept(name: str) -> None:
    """A folder is remembered by where it is, what is none by its name."""
    assert recorded(parsed("--model", name))["model"] == name
    Path(name).mkdir(parents=True)
    assert recorded(parsed("--model", name))["model"] == str(Path(name).absolute())
