"""tools/generate.py with a model of others: the same commands, and a line for what it cannot do."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from tiny_wan import wan
from written import names, read

from data.settings import Settings
from data.video import write_video
from data.video_comment import read_comment

ROOT = Path(__file__).parents[1]
Generate = Callable[..., int]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    wan().save_pretrained(tmp_path / "wan")
    return tmp_path / "wan"


@pytest.fixture
def made(generate: Generate, model: Path) -> Callable[..., int]:
    """Make something of a.mp4 and p.png with it."""
    frames = np.random.default_rng(0).integers(0, 256, (14, 32, 48, 3), dtype=np.uint8)
    write_video("a.mp4", frames, 16.0)
    iio.imwrite("p.png", frames[0])

    def call(*arguments: str) -> int:
        return generate("--model", str(model), *arguments)

    return call


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_as_a_program(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "tools/generate.py", "--model", str(model), "--prompt", "a dog", "--seconds", "0.5"]
    options = ["--size", "48x32", "--steps", "2", "--out", str(tmp_path / "b.mp4"), "--device", "cpu"]
    result = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "(9 frames of 48x32, 16 a second)" in result.stdout
    assert read(tmp_path / "b.mp4").shape == (9, 32, 48, 3)
    assert (tmp_path / "b.png").is_file()


@pytest.mark.parametrize(
    ("what", "length"),
    [
        (["--prompt", "0: a dog | 0.5: it runs", "--seconds", "1"], 17),
        (["--image", "p.png", "--seconds", "0.5"], 9),
        (["--video", "a.mp4", "--extend", "both", "--seconds", "0.5"], 30),
        (["--video", "a.mp4", "--connect", "a.mp4", "--seconds", "0.5", "--scheduler", "euler"], 35),
        (["--video", "a.mp4", "--loop", "--seconds", "0.5"], 21),
        (["--video", "a.mp4", "--edit", "0.5", "--steps", "4"], 14),
    ],
    ids=["text", "picture", "extend", "connect", "loop", "edit"],
)
def test_the_same_bytes_again(made: Callable[..., int], generate: Generate, what: list[str], length: int) -> None:
    assert made(*what, "--size", "48x32", "--out", "b.mp4") == 0
    assert read(Path("b.mp4")).shape == (length, 32, 48, 3)
    assert generate("--repeat", "b.mp4", "--out", "again.mp4") == 0
    assert Path("again.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_a_changed_folder_is_not_repeated(
    made: Callable[..., int], generate: Generate, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made("--size", "32x32", "--seconds", "0.3", "--out", "b.mp4") == 0
    wan(two=True).save_pretrained(model)
    assert generate("--repeat", "b.mp4", "--out", "again.mp4") == 2
    assert f"{model} is not what the video was made with" in refused(capsys)


def test_by_its_name_on_the_hub(
    made: Callable[..., int], generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was then, where the name stands for another one now."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--owner--model", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    wan().save_pretrained(repository / "snapshots" / commit)
    arguments = ["--size", "32x32", "--seconds", "0.3", "--image", "p.png"]
    assert made(*arguments, "--out", "b.mp4") == 0
    assert made(*arguments, "--model", "owner/model", "--out", "c.mp4") == 0
    assert np.array_equal(read(Path("c.mp4")), read(Path("b.mp4")))
    settings = Settings.from_json(read_comment("c.mp4"))
    assert settings is not None
    assert settings.options["model"] == f"owner/model@{commit}"
    assert list(settings.files) == [str(Path("p.png").absolute())]
    (repository / "refs" / "main").write_text("1" * 40)
    wan(two=True).save_pretrained(repository / "snapshots" / ("1" * 40))
    assert generate("--repeat", "c.mp4", "--out", "again.mp4") == 0
    assert Path("again.mp4").read_bytes() == Path("c.mp4").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keyframe", "p.png@0.5", "--seconds", "1"], "keyframe at 0.5 s: this model takes a picture as the first"),
        (
            ["--video", "a.mp4", "--loop", "--history-guidance", "2"],
            "history_guidance=2.0 must be 1: this model is told",
        ),
        (["--lora", "p.png"], "LoRA p.png goes with models that train.py wrote"),
        (["--scheduler", "ddim"], "scheduler=ddim does not go with a model of the straight path"),
        (["--size", "40x32"], "width=40 must be a multiple of 16"),
        (["--model", "owner/gone"], "owner/gone is no folder here, and the Hugging Face Hub gave no model_index.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_it_cannot_do_is_said(
    made: Callable[..., int],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = names()
    assert made("--size", "48x32", *arguments, "--out", "b.mp4") == 2
    assert message in refused(capsys)
    assert names() == before


def test_other_pipelines_are_named(made: Callable[..., int], model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = model / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "CogVideoXPipeline"}))
    assert made("--seconds", "0.3", "--out", "b.mp4") == 2
    assert f"{model} is a CogVideoXPipeline: give the folder of a VideoPipeline" in refused(capsys)
