"""tools/evaluate.py world: its tables, JSON and picture, and what it refuses. Small random parts: the figures mean
nothing here, what they are made of does."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from data.world import is_held_out
from data.world.judge import Judge
from data.world.score import ATTRIBUTES

if TYPE_CHECKING:
    from video_dit import VideoPipeline


@pytest.fixture(scope="module")
def evaluate(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("evaluate")


@pytest.fixture
def parts(tiny_pipe: "VideoPipeline", tmp_path: Path) -> list[str]:
    """Options that name a random model and a random judge, and keep all small."""
    tiny_pipe.save_pretrained(tmp_path / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Judge(width=16, deep_width=32, depth=1)
        torch.nn.init.constant_(judge.point_logits.bias, 0.5)  # type: ignore[arg-type]  # it finds objects everywhere
    judge.save(tmp_path / "judge")
    names = [f"--{name}={tmp_path / name}" for name in ("model", "judge")]
    return [*names, "--steps=1", "--batch=3", f"--picture={tmp_path}/sheet/picture.png"]


def call(evaluate: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "world", *arguments])
    return evaluate.main()


def test_a_table_for_seen_and_held_out_with_all_that_tells_how_far_to_trust_it(
    evaluate: ModuleType,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    json_file = tmp_path / "figures.json"
    assert call(evaluate, monkeypatch, *parts, "--prompts=5", f"--json={json_file}") == 0
    figures, printed = json.loads(json_file.read_text()), capsys.readouterr().out
    assert figures["settings"] | {"size": "32x32", "frames": 33, "steps": 1, "seed": 0} == figures["settings"]
    assert set(figures["centre error"]) == {"judge, codec", "judge"}
    for label, count in (("seen triples", 3), ("held-out triples", 2)):
        assert f"{count} prompts, {label}" in printed
        found = figures["sets"][label]
        assert list(found["shares"]) == ["samples", "wrong prompt", "oracle", "judge, codec", "judge"]
        for name, column in found["shares"].items():
            assert set(column) == {*ATTRIBUTES, "all"}
            asked = {"judge": 5, "judge, codec": 5, "wrong prompt": count * (count - 1)}
            assert column["count"]["asked"] == asked.get(name, count)
        assert found["measures"].keys() == {"samples", "oracle", "true clips"}
        assert found["measures"]["samples"]["Fréchet distance"] > 0
        assert len(found["prompts"]) == count
        assert all(set(prompt["wrong"]) <= set(ATTRIBUTES) for prompt in found["prompts"])
        assert sum(prompt["all right"] for prompt in found["prompts"]) == found["shares"]["samples"]["all"]["right"]
        assert all(not prompt["wrong"] for prompt in found["prompts"] if prompt["all right"])
        low, share, high = (found["shares"]["oracle"]["count"][name] for name in ("low", "share", "high"))
        assert 0 <= low <= share <= high <= 1
    with Image.open(tmp_path / "sheet/picture.png") as picture:
        assert picture.size[1] > 5 * 96  # a row for each prompt, there being fewer than twenty


def test_held_out_prompts_hold_a_held_out_triple_and_seen_ones_none(evaluate: ModuleType) -> None:
    args = evaluate.parse_arguments(["world", "--prompts", "8", "--style", "terse"])
    seen, held_out = evaluate.prompt_sets(args)
    assert (len(seen.texts), len(held_out.texts)) == (4, 4)
    for part, wanted in ((seen, False), (held_out, True)):
        for text, scene in zip(part.texts, part.scenes, strict=True):
            assert any(is_held_out(obj.shape, obj.colour, obj.motion) for obj in scene.objects) is wanted
            assert text == scene.caption("terse")


def test_only_objects_of_a_held_out_triple_count_in_their_table(evaluate: ModuleType) -> None:
    seen, held_out = evaluate.prompt_sets(evaluate.parse_arguments(["world", "--prompts", "40"]))
    assert evaluate.held_out_objects(seen, evaluate.read_prompts(seen.texts)) == [None] * 20
    prompts = evaluate.read_prompts(held_out.texts)
    for scene, prompt, about in zip(
        held_out.scenes, prompts, evaluate.held_out_objects(held_out, prompts), strict=True
    ):
        wanted = sum(is_held_out(obj.shape, obj.colour, obj.motion) for obj in scene.objects)
        assert sum(about) == wanted >= 1 and len(about) == len(prompt.objects)


def test_samples_do_not_depend_on_the_batch(evaluate: ModuleType, tiny_pipe: "VideoPipeline") -> None:
    part = evaluate.PromptSet("two", ["a red ball", "a blue cube rolls", "a cone"], [])
    shape, made = evaluate.ClipFormat(9, 32, 32), []
    for batch in ("1", "3"):
        args = evaluate.parse_arguments(["world", "--batch", batch, "--steps", "2", "--seed", "7"])
        made.append(evaluate.make_samples(tiny_pipe, part, shape, args))
    assert made[0].shape == (3, 9, 32, 32, 3) and made[0].dtype == torch.uint8
    assert (made[0].int() - made[1].int()).abs().max() <= 1
    assert not torch.equal(made[0][0], made[0][1])


def test_prompts_in_free_wording_have_no_oracle(
    evaluate: ModuleType, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("A big azure ball is bouncing.\n\na box spins, the camera pans left\n")
    options = [*parts, "--prompts=4", f"--prompt-file={tmp_path / 'prompts.txt'}", f"--json={tmp_path / 'a.json'}"]
    assert call(evaluate, monkeypatch, *options) == 0
    (found,) = json.loads((tmp_path / "a.json").read_text())["sets"].values()
    assert list(found["shares"]) == ["samples", "wrong prompt", "judge, codec", "judge"]
    assert found["shares"]["samples"]["camera"]["asked"] == 1 and found["shares"]["samples"]["shape"]["asked"] == 2
    assert found["measures"].keys() == {"samples"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model=nowhere"], "nowhere is no model folder"),
        (["--judge=nowhere"], "nowhere holds no judge"),
        (["--prompt-file=nowhere.txt"], "--prompt-file nowhere.txt cannot be read"),
        (["--size=33x32"], "width=33 must be a multiple of 16"),
        (["--prompts=0"], "at least 1"),
        (["--prompts=3"], "use 4 or more"),
        (["--json=nowhere/a.json"], "must be a file in a folder that exists"),
        (["--seconds=-1"], "above 0"),
        (["--seconds=2"], "use 4 or more"),
        (["--picture=a.jpg"], "ends in .png"),
        (["--style=poem"], "style='poem' is no caption style"),
        (["--size=64"], "like 64x64"),
    ],
)
def test_bad_options_are_one_clear_line(
    options: list[str],
    words: str,
    evaluate: ModuleType,
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = call(evaluate, monkeypatch, *parts, "--prompts=4", *options)
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("evaluate.py") and words in last


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red ball\n", "has 1 prompts"),
        ("a dog runs\na red ball\n", "names no object"),
        (7 * "a box, " + "\na cone\n", "names 7 objects"),
        ("two balls\na cone\n", "each object by itself"),
    ],
)
def test_bad_prompt_files_are_one_clear_line(
    text: str,
    words: str,
    evaluate: ModuleType,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "prompts.txt").write_text(text)
    assert call(evaluate, monkeypatch, *parts, f"--prompt-file={tmp_path / 'prompts.txt'}") == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
