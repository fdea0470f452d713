"""tools/generate.py --expand-prompt: what is said and made, what the file remembers, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_language import save_writer
from written import names

from data.settings import Settings
from data.video_comment import read_comment
from video_dit.rewriter import EXAMPLES, question

ANSWER = "a red ball bounces on sand, the camera is still"
Generate = Callable[..., int]


@pytest.fixture
def make(generate: Generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Make short videos with a model that reads 200 bytes of a prompt; returns what is said of prompts."""
    config = tmp_path / "model" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 200}))

    def call(*arguments: str, code: int = 0) -> list[str]:
        assert generate(*arguments, *([] if "--repeat" in arguments else ["--seconds", "1"])) == code
        output = capsys.readouterr()
        if code:
            return output.err.splitlines()[-1:]
        return [line for line in output.out.splitlines() if "prompt" in line or "the world" in line]

    return call


def prompt_of(file: str) -> str:
    settings = Settings.from_json(read_comment(file))
    assert settings is not None
    assert not [name for name in settings.options if "expand" in name]
    assert isinstance(settings.options["prompt"], str)
    return settings.options["prompt"]


def test_a_file_has_the_name_of_the_prompt_and_holds_what_it_became(make: Callable[..., list[str]]) -> None:
    (line,) = make("--prompt", "a ball jumps", "--expand-prompt", "world", "--out", "x/")
    assert names() == ["x/a-ball-jumps-0.mp4", "x/a-ball-jumps-0.png"]
    assert line == f"prompt: {prompt_of('x/a-ball-jumps-0.mp4')}" and "sphere bounces" in line
    assert make("--repeat", "x/a-ball-jumps-0.mp4", "--out", "again.mp4") == []
    assert Path("again.mp4").read_bytes() == Path("x/a-ball-jumps-0.mp4").read_bytes()
    make("--prompt", line.removeprefix("prompt: "), "--out", "told.mp4")
    assert Path("told.mp4").read_bytes() == Path("again.mp4").read_bytes()


def test_each_line_of_a_file_and_each_seed_is_told_by_itself(make: Callable[..., list[str]]) -> None:
    Path("prompts.txt").write_text("a ball jumps\n0: a dog and a cube | 0.5: it spins\n")
    said = make("--prompt-file", "prompts.txt", "--num-videos", "2", "--expand-prompt", "world", "--out", "b.mp4")
    files = [f"b-{number}-{seed}.mp4" for number in ("001", "002") for seed in (0, 1)]
    prompts = [prompt_of(file) for file in files]
    unknown = "the world does not know these words, which are passed over: dog"
    assert said == [f"prompt: {text}" for text in prompts[:2]] + [unknown] + [f"prompt: {text}" for text in prompts[2:]]
    assert len(set(prompts)) == 4 and all(" | 0.5: a " in text and "spins" in text for text in prompts[2:])
    make("--repeat", files[3], "--out", "again.mp4")
    assert Path("again.mp4").read_bytes() == Path(files[3]).read_bytes()


def test_a_language_model_is_not_needed_again(make: Callable[..., list[str]], tmp_path: Path) -> None:
    Path("captions.txt").write_text(f"{EXAMPLES[0]}\n# and\n{EXAMPLES[1]}\n")
    save_writer(tmp_path / "writer", "chat", {question("a ball", "", EXAMPLES[:2], 33): ANSWER}, steps=60)
    options = ["--expand-prompt", str(tmp_path / "writer"), "--expand-examples", "captions.txt"]
    assert make("--prompt", "a ball", *options, "--out", "b.mp4") == [f"prompt: {ANSWER}"]
    assert prompt_of("b.mp4") == ANSWER
    shutil.rmtree(tmp_path / "writer")
    make("--repeat", "b.mp4", "--out", "again.mp4")
    assert Path("again.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_it_goes_with_a_given_video(make: Callable[..., list[str]]) -> None:
    make("--prompt", "a ball", "--out", "a.mp4")
    (line,) = make("--video", "a.mp4", "--extend", "forward", "--prompt", "a ball", "--expand-prompt", "world")
    assert prompt_of("outputs/a-forward-0.mp4") == line.removeprefix("prompt: ") != "a ball"


@pytest.mark.parametrize(
    ("prompt", "expander", "words"),
    [
        ("eine rote Kugel", "world", "prompt='eine rote Kugel' names no object of the world: name a sphere, ball"),
        ("two balls roll", "world", "speaks of 'balls': name each object by itself"),
        ("0: a ball | 9: a dog", "world", "prompt='a dog' names no object of the world"),
        ("0: a ball | a dog", "world", "prompt schedule: 'a dog'"),
        ("a ball", "./nowhere", "--expand-prompt ./nowhere: no such folder"),
        ("a ball", "../model", "--expand-prompt ../model: no text model that loads"),
        ("a ball", "nobody/nothing", "--expand-prompt nobody/nothing: no text model that loads"),
    ],
)
def test_what_cannot_be_told_is_one_clear_line(
    make: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, prompt: str, expander: str, words: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it is tried for half a minute
    (line,) = make("--prompt", prompt, "--expand-prompt", expander, code=2)
    assert line.startswith("generate.py: ") and words in line
    assert names() == []


def test_other_options_are_looked_at_first(refuse: Callable[..., str]) -> None:
    expand = ["--prompt", "a ball", "--expand-prompt", "./nowhere"]
    assert "guidance_scale=0.5" in refuse(*expand, "--guidance-scale", "0.5")
    assert "model_index.json" in refuse(*expand)
