"""tools/generate.py --steps 4 to 8: by the student in the model's folder, unless an option asks for the model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from video_dit import VideoPipeline
from video_dit.few_steps import FOLDER, STEPS, steps_fact
from video_dit.lora import LoRAConfig, add_lora, save_lora

Generate = Callable[..., int]


@pytest.fixture
def student(generate: Generate, tiny_pipe: VideoPipeline, tmp_path: Path) -> Path:
    """For 4 to 8 steps, in the folder of the model; the file of the model without one is ``plain``."""
    folder = tmp_path / "model" / FOLDER
    with torch.random.fork_rng(devices=[]):
        add_lora(tiny_pipe.transformer, LoRAConfig(rank=2))
        for name, parameter in tiny_pipe.transformer.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter)
    folder.mkdir()
    save_lora(tiny_pipe.transformer, folder, "a-model", steps_fact(4, 8))
    return folder


def pictures(generate: Generate, folder: str, *options: str) -> list[bytes]:
    assert generate("--prompt", "x", "--seconds", "0.5", "--pictures", "--out", folder, *options) == 0
    return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


def test_it_is_taken_and_said_in_its_steps_and_all_else_is_as_without_it(
    generate: Generate, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "lora"
    shutil.copytree(student, lora)
    file = lora / LORA_WEIGHT_NAME_SAFE
    with safe_open(file, framework="pt") as opened:
        others = {name: value for name, value in opened.metadata().items() if name != STEPS}
    save_file(load_file(file), file, metadata=others)  # no student any more
    of_model = [
        ["--steps", "3"],
        ["--steps", "30"],
        ["--steps", "4", "--guidance-scale", "4"],
        ["--steps", "4", "--negative-prompt", "y"],
        ["--steps", "4", "--history-guidance", "2"],
        ["--steps", "4", "--guidance-interval", "0.1,1"],
        ["--steps", "4", "--scheduler", "heun"],
        ["--steps", "4", "--lora", str(lora)],
    ]
    by_student = [["--steps", "4"], ["--steps", "8", "--scheduler", "euler"], ["--steps", "4", "--step-cache", "0.01"]]
    made = {}
    for present in (True, False):
        if not present:
            student.rename(tmp_path / "away")
        for number, options in enumerate((*of_model, *by_student)):
            made[number, present] = pictures(generate, f"{number}-{present}", *options)
            said = "by the student" in capsys.readouterr().out
            assert said == (present and options in by_student), options
    for number in range(len(of_model) + len(by_student)):
        same = made[number, True] == made[number, False]
        assert same == (number < len(of_model)), number


def test_a_video_that_it_made_is_repeated(
    generate: Generate, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--prompt", "x", "--seconds", "0.5", "--steps", "4", "--out", "a.mp4") == 0
    capsys.readouterr()
    assert generate("--repeat", "a.mp4", "--out", "again.mp4") == 0
    assert "by the student" in capsys.readouterr().out
    assert Path("again.mp4").read_bytes() == Path("a.mp4").read_bytes()
    shutil.rmtree(student)
    assert generate("--repeat", "a.mp4", "--out", "again.mp4") == 2


@pytest.mark.parametrize(
    "mode",
    [
        ["--extend", "forward", "--seconds", "0.5"],
        ["--extend", "backward", "--seconds", "0.5"],
        ["--loop", "--seconds", "0.5"],
        ["--edit", "1", "--source-prompt", "y"],
    ],
    ids=" ".join,
)
def test_it_serves_given_videos_as_well(
    generate: Generate, student: Path, mode: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    del student
    assert generate("--prompt", "x", "--seconds", "1", "--out", "a.mp4") == 0
    assert "by the student" not in capsys.readouterr().out
    assert generate("--video", "a.mp4", *mode, "--prompt", "z", "--steps", "4", "--out", "b.mp4") == 0
    assert "by the student" in capsys.readouterr().out


def test_one_of_another_model_is_one_clear_line(
    generate: Generate, student: Path, tiny_pipe: VideoPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipe.transformer.patch_embed.weight.data.neg_()
    save_lora(tiny_pipe.transformer, student, "a-model", steps_fact(4, 8))
    assert generate("--prompt", "x", "--steps", "4") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"generate.py: LoRA {student} was trained on another model") and "or remove" in line


def test_a_student_is_not_guided_as_an_adapter(
    generate: Generate, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", "x", "--seconds", "0.5", "--out", "a.mp4", "--lora", str(student)]
    assert generate(*words) == 2
    assert "is a student for few steps, made to be asked without guidance" in capsys.readouterr().err.splitlines()[-1]
    assert generate(*words, "--guidance-scale", "1") == 0
