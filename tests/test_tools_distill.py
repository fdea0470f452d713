"""tools/distill.py: what it refuses, that it goes on where it was, and that its student is the one --steps 4 takes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import free_port
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors.torch import load_file
from tiny_training import CLIPS

from video_dit.few_steps import FOLDER, student_steps
from video_dit.lora import lora_facts

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "sora-tiny"
FEW = [*CLIPS, "data.num_clips=6", "data.token_budget=300", "data.workers=0", "data.validation_packs=1"]
FEW += ["train.save_every=2"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ([], "train.lora.rank=12 needs a model to adapt: set train.init_from=FOLDER"),
        ([f"train.init_from={MODEL}", "distill.steps=[8,4]"], "distill.steps=[8, 4] must be the fewest and the most"),
        ([f"train.init_from={MODEL}", "distill.teacher_steps=0"], "distill.teacher_steps=0 must be at least 1"),
        ([f"train.init_from={MODEL}", "train.lora.rank=0"], "distill.steps needs an adapter to train"),
        ([f"train.init_from={MODEL}", "noise.path=vp", "noise.prediction=epsilon"], "does not go with noise.path=vp"),
        (["train.init_from=nowhere"], "nowhere is no model folder"),
        ([f"train.init_from={MODEL}", "distill.step=4"], "distill.step"),
    ],
)
def test_what_is_wrong_is_one_clear_line(
    settings: list[str],
    reason: str,
    load_tool: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    distill = load_tool("distill")
    words = ["distill.py", "--dry-run", "--config", "sora_tiny.yaml", f"run_dir={tmp_path}/run", *settings]
    monkeypatch.setattr(sys, "argv", words)
    assert distill.main(distill.__doc__, distill.DEFAULTS) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("distill.py: ") and reason in line
    assert not (tmp_path / "run").exists()


def call(ranks: int, *words: str) -> subprocess.CompletedProcess:
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", str(ranks)]
    launched = [*launcher, "--master_port", str(free_port())] if words[0].endswith("distill.py") else [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launched, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (1, 1), (3, 2)])
def test_a_student_resumes_as_if_uninterrupted_and_is_picked_up(stage: int, ranks: int, tmp_path: Path) -> None:
    words = ["tools/distill.py", "--config", "sora_tiny.yaml", f"train.init_from={MODEL}", *FEW]
    words += [f"data.cache={tmp_path}/cache", f"train.zero_stage={stage}", "train.decay_steps=0"]
    for name, all_steps in (("whole", (3,)), ("resumed", (2, 3))):
        for steps in all_steps:
            done = call(ranks, *words, f"run_dir={tmp_path}/{name}", f"train.max_steps={steps}")
            assert done.returncode == 0, done.stderr
    found = [tmp_path / run / FOLDER for run in ("whole", "resumed")]
    first, second = (load_file(folder / LORA_WEIGHT_NAME_SAFE) for folder in found)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(tensor.any() for name, tensor in first.items() if "lora_B" in name)

    shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns(FOLDER))
    shutil.copytree(found[0], tmp_path / "model" / FOLDER)
    assert student_steps(tmp_path / "model") == range(4, 9)
    assert lora_facts(found[0])["base"] == str(MODEL)
    options = ["tools/generate.py", "--model", str(tmp_path / "model"), "--prompt", "a ball", "--seconds", "0.5"]
    done = call(1, *options, "--steps", "4", "--out", str(tmp_path / "a.mp4"))
    assert done.returncode == 0, done.stderr
    assert "4 steps: by the student in" in done.stdout
