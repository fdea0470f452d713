"""tools/train_text.py: it learns, and what it writes is an encoder that train.py takes."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from data.world.caption import SHAPES
from data.world.words import SHAPE_WORDS
from video_dit.text import TextConfig, encode_prompts, load_text_encoder

ROOT = Path(__file__).parents[1]
SMALL = ["--scenes=40", "--batch=16", "--workers=0", "--vocabulary=400"]


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("train_text")


def test_nouns_are_found_in_the_tokens(tool: ModuleType) -> None:
    scenes = tool.draw_scenes("train", 30, workers=0)
    tokenizer = tool.learn_tokenizer((caption for told in scenes for caption in told.captions), 500, 256)
    chosen = [(told, caption) for told in scenes for caption in told.captions]
    batch = tool.collate(tokenizer, chosen, torch.device("cpu"))
    for row, (told, _) in enumerate(chosen):
        for place, shape in enumerate(told.labels["shape"][: told.labels["count"]]):
            read = tokenizer.decode(batch.ids[row, : batch.nouns[row, place] + 1])
            assert read.split()[-1] in SHAPE_WORDS[SHAPES[shape]], read


def program(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The program, in a process that may have 128 files open."""
    words = [sys.executable, "tools/train_text.py", "--scenes=40", "--steps=1", "--batch=4", f"--out={out}", *options]
    limited = f"ulimit -n 128; exec {shlex.join(words)}"
    return subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_scenes_from_workers_hold_no_files_open(tmp_path: Path) -> None:
    """Each would hold a dozen if it came as tensors, and there are thousands."""
    done = program(tmp_path / "text", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "text" / "model.safetensors").is_file()


def test_what_is_wrong_is_one_clear_line(tmp_path: Path) -> None:
    done = program(tmp_path / "text", "--device=warp")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("train_text.py: --device warp")
    assert not (tmp_path / "text").exists()


def test_it_learns_and_the_folder_is_a_text_encoder(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "VALIDATION", 16)
    monkeypatch.setattr(tool, "WARMUP", 4)
    out = tmp_path / "text"
    told = {}
    for steps in (1, 40):
        tool.train(tool.parse_arguments([*SMALL, f"--steps={steps}", f"--out={out / str(steps)}"]))
        printed = capsys.readouterr().out
        told[steps] = {
            part.split()[0]: float(part.split()[1].rstrip("%"))
            for part in printed.removeprefix("unseen scenes: ").split(", ")
        }
    assert told[40]["shape"] > told[1]["shape"] + 20, told

    tokenizer, encoder = load_text_encoder(TextConfig(encoder=str(out / "40"), max_length=32))
    assert tokenizer.model_max_length == 32 and not any(p.requires_grad for p in encoder.parameters())
    embeds, segments = encode_prompts(tokenizer, encoder, ["a red sphere", ""])
    assert embeds.shape == (segments.lengths[0] + 1, TextConfig().width)

    tool.train(tool.parse_arguments([*SMALL, "--steps=1", f"--out={out / '40'}"]))
    assert "left as it is" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds something else"):
        tool.train(tool.parse_arguments([*SMALL, f"--out={out}"]))


def test_a_file_in_place_of_the_folder_is_named_first(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    for name in ("out", "out/text"):
        with pytest.raises(ValueError, match="out is a file: give a folder"):
            tool.train(tool.parse_arguments([f"--out={tmp_path / name}"]))
