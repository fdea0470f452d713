"""tools/train_text.py: it learns, and what it writes is an encoder that train.py takes."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from video_dit.text import TextConfig, encode_prompts, load_text_encoder

SMALL = ["--scenes=40", "--batch=16", "--workers=0", "--vocabulary=400"]


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("train_text")


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
