"""The README's commands run as they stand: but for training, of one step, sampling, of three, and `make test`."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from data.video import write_video

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
FEW_PIXELS = "data.num_frames=9 data.window_frames=9 data.sizes=[[32,32]]"
SMALL = {
    "train.py": f"{FEW_PIXELS} data.num_clips=4 data.token_budget=1000 data.workers=0 data.validation_packs=1 "
    "data.sample_prompts=[] train.max_steps=1 model.hidden_size=32 model.num_layers=1 model.num_heads=2",
    "tools/distill.py": f"{FEW_PIXELS} data.num_clips=4 data.token_budget=300 data.workers=0 data.validation_packs=1 "
    "train.max_steps=1 train.save_every=1",
    "tools/train_vae.py": "data.world_clips=4 data.world_sizes=[[32,32]] data.batches=[[1,5,32,32]] data.workers=0 "
    "train.max_steps=1",
    "tools/encode.py": FEW_PIXELS,
    "tools/generate.py": "--steps 3",
    "tools/prepare.py world": "--count 2 --num-frames 5 --size 32x32",
    "tools/evaluate.py world": "--prompts 4 --steps 1",
    "tools/evaluate.py clips": "--steps 1",
    "tools/evaluate.py extend": "--clips 2 --steps 1",
    "tools/evaluate.py edit": "--clips 1 --steps 1",
    "tools/evaluate.py vae": "--clips 2",
}
OF_THE_USER = ("my-videos", "my-clips", "my-latents", "my-object", "my-object-clips", "runs")
"""Folders that README's commands name, which the tests have elsewhere."""


def test_opens_with_the_two_commands() -> None:
    assert [shlex.split(command)[:2] for command in COMMANDS[:2]] == [["make", "generate"], ["make", "test"]]


def test_every_file_it_names_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_commands_run_in_order(tmp_path: Path) -> None:
    """In order, since some continue what an earlier one wrote."""
    for folder in ("my-videos", "my-object"):
        make_videos(tmp_path / folder)
    for command in COMMANDS:
        if command not in ("make test", "make bench"):
            run(command, tmp_path)


def make_videos(folder: Path) -> None:
    """Two that move, with captions."""
    folder.mkdir()
    for number, name in enumerate(("one", "two")):
        generator = torch.Generator().manual_seed(number)
        patches = torch.randint(0, 256, (6, 60, 3), generator=generator, dtype=torch.uint8)
        picture = patches.repeat_interleave(8, 0).repeat_interleave(8, 1)
        write_video(folder / f"{name}.mp4", torch.stack([picture[:, t : t + 64] for t in range(36)]), 12)
        (folder / f"{name}.txt").write_text(f"what {name} shows")


def elsewhere(word: str, folder: Path) -> str:
    """A word of a command, or the value of a setting, with a folder of `OF_THE_USER` in ``folder``."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{folder / value}" if value.split("/")[0] in OF_THE_USER else word


def run(command: str, tmp_path: Path) -> None:
    words = [elsewhere(word, tmp_path) for word in shlex.split(command)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name in ("MAKEFLAGS", "MAKEOVERRIDES", "ARGS"):  # `make test ARGS=…` would hand its own on
        environment.pop(name, None)
    small = next((small.split() for program, small in SMALL.items() if program in command), [])
    if "tools/generate.py" in command and "--steps" in words:
        small = []  # which the student takes
    if words[0] == "deepspeed":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            words[1:1] = ["--num_accelerators", "1", "--master_port", str(free.getsockname()[1])]
        if not any(word.startswith("run_dir=") for word in words) and "encode" not in command:
            words.append(f"run_dir={mkdtemp(dir=tmp_path)}")
        words.append(f"data.cache={tmp_path}/cache")
        if "train.init_from=" in command or "own_clips.yaml" in command:  # whose sizes stay
            small = [setting for setting in small if not setting.startswith("model.")]
    if "world" in command and "--out" in words:
        small = [*small, "--out", f"{tmp_path}/world"]
    result = subprocess.run([*words, *small], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    for path in re.findall(r"outputs/\S+\.mp4", result.stdout):
        assert (ROOT / path).is_file()
        assert (ROOT / path).with_suffix(".png").is_file()
