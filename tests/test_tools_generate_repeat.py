"""tools/generate.py --repeat: the same file again, or a line that says why not."""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from written import names, read

from data.settings import Settings
from data.video import write_video
from data.video_comment import read_comment
from video_dit import VideoPipeline
from video_dit.lora import LoRAConfig, add_lora, save_lora

Generate = Callable[..., int]
OPTIONS = ["--negative-prompt=-x", "--seed", "-5", "--guidance-interval", "0.1,0.9"]


@pytest.fixture
def made(generate: Generate) -> Callable[..., None]:
    """Make a file of what is in the folder: a.mp4, first.png and late.png."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 40, 32, 3), dtype=np.uint8)
    write_video("a.mp4", frames, 12.0)
    for number, name in enumerate(("first.png", "late.png")):
        iio.imwrite(name, frames[number])

    def call(*arguments: str) -> None:
        assert generate(*arguments, *OPTIONS) == 0

    return call


@pytest.mark.parametrize("out", ["b.mp4", "b.webm"])
@pytest.mark.parametrize(
    "what",
    [
        ["--prompt", "0: a 狗 'sits' | 0.5: \"runs\"", "--seconds", "1.1", "--frame-rate", "7.5", "--aspect", "3:1"],
        ["--image", "first.png", "--keyframe", "late.png@0.5", "--keyframe", "first.png@0.875", "--seconds", "1"],
        ["--video", "a.mp4", "--extend", "backward", "--scheduler", "euler", "--context-seconds", "0.5"],
        ["--video", "a.mp4", "--loop", "--seconds", "1"],
        ["--video", "a.mp4", "--connect", "a.mp4", "--steps", "3", "--context-level", "0.1"],
    ],
    ids=["text", "pictures", "extend", "loop", "connect"],
)
def test_the_same_bytes(generate: Generate, made: Callable[..., None], what: list[str], out: str) -> None:
    made(*what, "--out", out)
    again = f"again{Path(out).suffix}"
    assert generate("--repeat", out, "--out", again) == 0
    assert Path(again).read_bytes() == Path(out).read_bytes()
    assert Path("again.png").read_bytes() == Path("b.png").read_bytes()
    assert generate("--repeat", out, "--out", "pictures", "--pictures") == 0
    assert len(read(Path("pictures"))) == len(read(Path(out)))


def test_one_of_several_and_what_it_holds(generate: Generate, tmp_path: Path, made: Callable[..., None]) -> None:
    Path("prompts.txt").write_text("first\nsecond\n")
    made("--prompt-file", "prompts.txt", "--seconds", "1", "--num-videos", "2", "--out", "b.mp4")
    Path("prompts.txt").unlink()
    assert generate("--repeat", "b-002--4.mp4", "--out", "again.mp4") == 0
    assert Path("again.mp4").read_bytes() == Path("b-002--4.mp4").read_bytes()
    settings = Settings.from_json(read_comment("again.mp4"))
    assert settings is not None
    assert settings.options["prompt"] == "second"
    assert settings.options["seed"] == "-4"
    assert settings.options["dtype"] == "fp32"
    assert settings.options["device"] == "cpu"
    assert list(settings.files) == [str(tmp_path / "model")]
    assert settings.made_with["torch"] == version("torch")


def test_what_has_changed_is_named(
    generate: Generate, made: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made("--image", "first.png", "--keyframe", "late.png@0.5", "--seconds", "1", "--out", "b.mp4")
    made("--video", "a.mp4", "--extend", "forward", "--seconds", "1", "--out", "c.mp4")

    def refused(file: str) -> str:
        before = names()
        assert generate("--repeat", file, "--out", "again.mp4") == 2
        assert names() == before
        return capsys.readouterr().err.splitlines()[-1]

    late = Path("late.png").read_bytes()
    iio.imwrite("late.png", iio.imread("first.png"))
    assert f"{Path('late.png').absolute()} is not what the video was made with" in refused("b.mp4")
    Path("late.png").unlink()
    assert f"{Path('late.png').absolute()}, which the video was made with, is gone" in refused("b.mp4")
    Path("late.png").write_bytes(late)
    shutil.move("a.mp4", "elsewhere.mp4")
    assert "a.mp4, which the video was made with, is gone" in refused("c.mp4")
    shutil.move("elsewhere.mp4", "a.mp4")
    (tmp_path / "model" / "README.md").write_text("which says nothing to the model")
    assert generate("--repeat", "c.mp4", "--out", "again.mp4") == 0
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert f"{tmp_path / 'model'} is not what the video was made with" in refused("c.mp4")
    shutil.rmtree(tmp_path / "model")
    assert f"{tmp_path / 'model'}, which the video was made with, is gone" in refused("b.mp4")


def test_an_adapter_is_remembered(
    generate: Generate,
    tiny_pipe: VideoPipeline,
    made: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_lora(tiny_pipe.transformer, LoRAConfig(rank=2))
    (tmp_path / "lora").mkdir()
    save_lora(tiny_pipe.transformer, tmp_path / "lora", "a-model")
    made("--seconds", "1", "--lora", str(tmp_path / "lora"), "--out", "b.mp4")
    assert generate("--repeat", "b.mp4", "--out", "again.mp4") == 0
    assert Path("again.mp4").read_bytes() == Path("b.mp4").read_bytes()
    shutil.rmtree(tmp_path / "lora")
    assert generate("--repeat", "b.mp4", "--out", "again.mp4") == 2
    assert "pytorch_lora_weights.safetensors, which the video was made with, is gone" in capsys.readouterr().err


def test_other_versions_are_told(
    generate: Generate, made: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    made("--seconds", "1", "--out", "b.mp4")
    comment = read_comment("b.mp4")
    assert comment is not None
    settings = Settings.from_json(comment)
    assert settings is not None
    settings.made_with["torch"] = "1.0"
    write_video("old.mp4", read_frames("b.mp4"), 8.0, comment=settings.to_json())
    assert generate("--repeat", "old.mp4", "--out", "again.mp4") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "was made with" in line]
    assert len(lines) == 1 and lines[0].startswith("old.mp4 was made with torch 1.0, here ")


def read_frames(name: str) -> np.ndarray:
    return read(Path(name))


def test_files_that_do_not_say_how_they_were_made(
    generate: Generate, made: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video("other.mp4", read_frames("a.mp4"), 8.0, comment='{"program": "another"}')
    made("--seconds", "1", "--out", "b.gif")
    for name in ("a.mp4", "other.mp4", "b.gif"):
        assert generate("--repeat", name, "--out", "again.mp4") == 2
        assert f"--repeat {name} does not say how it was made" in capsys.readouterr().err.splitlines()[-1]
    assert generate("--repeat", "first.png", "--out", "again.mp4") == 2
    assert generate("--repeat", "gone.mp4", "--out", "again.mp4") == 2
    assert "--repeat gone.mp4: no such file" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("again.mp4").exists()


def test_it_goes_alone(generate: Generate, made: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    made("--seconds", "1", "--out", "b.mp4")
    before = Path("b.mp4").read_bytes()
    assert generate("--repeat", "b.mp4", "--seed", "0", "--num-videos", "1", "--out", "again.mp4") == 2
    assert "leave out --num-videos, --seed" in capsys.readouterr().err.splitlines()[-1]
    assert generate("--repeat", "b.mp4", "--out", "b.mp4") == 2
    assert "choose another name" in capsys.readouterr().err.splitlines()[-1]
    assert Path("b.mp4").read_bytes() == before
    assert generate("--repeat", "b.mp4", "--device", "cpu", "--dtype", "bf16", "--out", "again.mp4") == 0
    settings = Settings.from_json(read_comment("again.mp4"))
    assert settings is not None
    assert settings.options["dtype"] == "bf16"
