"""tools/evaluate.py: its tables, JSON, pictures and video, and what it refuses. Small random parts: the figures mean
nothing here, what they are made of does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from data.video import read_video, write_video
from data.world.judge import Judge
from data.world.score import ATTRIBUTES
from vae3d import VideoVAE
from video_dit.few_steps import FOLDER, steps_fact
from video_dit.lora import LoRAConfig, add_lora, save_lora

WRITTEN = ("json", "picture", "video")

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


def call(evaluate: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str, command: str = "world") -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", command, *arguments])
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


def test_of_two_seconds_motions_are_not_asked_about(
    evaluate: ModuleType, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_file = tmp_path / "figures.json"
    words = ["--prompts=4", "--seconds=2", "--scheduler=unipc", f"--json={json_file}"]
    assert call(evaluate, monkeypatch, *parts, *words) == 0
    assert json.loads(json_file.read_text())["settings"]["scheduler"] == "unipc"
    for found in json.loads(json_file.read_text())["sets"].values():
        for column in found["shares"].values():
            assert [column[name]["asked"] for name in ("size", "motion", "direction", "camera")] == [0] * 4
            assert column["count"]["asked"] and column["all"]["asked"]


@pytest.mark.parametrize("command", ["world", "extend"])
def test_few_steps_are_by_the_student_where_the_model_has_one(
    command: str,
    evaluate: ModuleType,
    parts: list[str],
    tiny_pipe: "VideoPipeline",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_lora(tiny_pipe.transformer, LoRAConfig(rank=2))
    (tmp_path / "model" / FOLDER).mkdir()
    save_lora(tiny_pipe.transformer, tmp_path / "model" / FOLDER, "a-model", steps_fact(4, 8))
    size = {"world": ["--prompts=4"], "extend": ["--clips=2", "--directions=forward", "--methods=ours"]}[command]
    (tmp_path / "sheet").mkdir()
    words = [part for part in parts if command == "world" or "--batch" not in part] + size
    for options, scale in ((["--steps=4"], 1.0), (["--steps=4", "--guidance-scale=2"], 2.0), (["--steps=3"], None)):
        file = tmp_path / "figures.json"
        assert call(evaluate, monkeypatch, *words, *options, f"--json={file}", command=command) == 0
        assert json.loads(file.read_text())["settings"]["guidance_scale"] == scale
        assert ("4 steps: by the student in" in capsys.readouterr().out) == (scale == 1)


def test_prompts_in_free_wording_have_no_oracle(
    evaluate: ModuleType, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("A big azure ball is bouncing.\n\na box spins, the camera pans left\n")
    options = [*parts, "--prompts=4", f"--prompt-file={tmp_path / 'prompts.txt'}", f"--json={tmp_path / 'a.json'}"]
    options.append("--expand-prompt=world")  # by which they are judged no less
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
        (["--expand-prompt="], "must not be empty"),
        (["--expand-prompt=./nowhere"], "--expand-prompt ./nowhere: no such folder"),
        (["--prompts=0"], "at least 1"),
        (["--prompts=3"], "use 4 or more"),
        (["--json=nowhere/a.json"], "must be a file in a folder that exists"),
        (["--seconds=-1"], "above 0"),
        (["--seconds=1.5"], "use 2 or more"),
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


@pytest.fixture
def autoencoder(tiny_vae: VideoVAE, tmp_path: Path) -> list[str]:
    """Options that name a random autoencoder, and clips that are small."""
    tiny_vae.save_pretrained(tmp_path / "autoencoder")
    return [f"--model={tmp_path / 'autoencoder'}", "--frames=5", "--clips=2", "--world-size=32", "--short-side=32"]


def test_figures_of_each_clip_and_their_means_on_screen_in_json_and_to_look_at(
    evaluate: ModuleType,
    autoencoder: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / "good.mp4", torch.randint(256, (9, 48, 64, 3), dtype=torch.uint8), 25)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "clips.csv").write_text("path,text\ngood.mp4,noise\nbroken.mp4,nothing\n")
    written = [
        f"--{name}={tmp_path}/made.{suffix}" for name, suffix in zip(WRITTEN, ("json", "png", "mp4"), strict=True)
    ]
    options = [*autoencoder, f"--manifest={tmp_path}/clips.csv", *written]
    assert call(evaluate, monkeypatch, *options, command="vae") == 0
    figures, (out, err) = json.loads((tmp_path / "made.json").read_text()), capsys.readouterr()
    assert {group: list(clips) for group, clips in figures["clips"].items()} == {
        "world": ["world/0", "world/1"],
        "real": ["good.mp4"],
    }
    names = ["psnr", "ssim", "flicker", "blocking_in_time", "blocking_in_space"]
    for group, clips in figures["clips"].items():
        assert list(figures["mean"][group]) == names
        for name in names:
            assert figures["mean"][group][name] == pytest.approx(sum(c[name] for c in clips.values()) / len(clips))
        for name, clip in clips.items():
            (line,) = [line for line in out.splitlines() if line.endswith(f"  {name}")]
            assert float(line.split()[0]) == pytest.approx(clip["psnr"], abs=0.01)
        assert f"mean of {len(clips)} {group} clips" in out
    assert [figures["clips"]["real"]["good.mp4"][name] for name in ("size", "frame_rate")] == ["40x32", 25]
    assert "1 of 4 clips are left out" in out and "float32 on cpu, 5 frames" in out
    assert "left out: " in err and "broken.mp4" in err and list(figures["left out"]) == ["broken.mp4"]
    with Image.open(tmp_path / "made.png") as picture:
        assert picture.size[1] > 3 * (2 * 96)
    frames = 2 * 62 + 50  # at 25 a second: 5 of 8 a second four times, 5 of 25 a second ten times
    assert read_video(tmp_path / "made.mp4").frames.shape == (frames, 52, 84, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model=nowhere"], "nowhere"),
        (["--manifest=nowhere.csv"], "nowhere.csv does not exist"),
        (["--frames=6"], "--frames 6 must be 1 + 4k, k at least 1: use 5 or 9"),
        (["--frames=1"], "use 5 or 9"),
        (["--short-side=36"], "--short-side 36 must be a multiple of 8, at least 16: use 32 or 40"),
        (["--world-size=8"], "--world-size 8 must be a multiple of 8, at least 16: use 16 or 24"),
        (["--clips=0"], "leaves nothing to measure"),
        (["--clips=-1"], "at least 0"),
        (["--frame-rate=0"], "above 0"),
        (["--dtype=float16"], "invalid choice"),
        (["--device=abacus"], "--device abacus"),
        (["--picture=a.jpg"], "ends in .png"),
        (["--video=a.avi"], "ends in .mp4"),
        (["--video=nowhere/a.mp4"], "must be a file in a folder that exists"),
    ],
)
def test_bad_options_of_vae_are_one_clear_line(
    options: list[str],
    words: str,
    evaluate: ModuleType,
    autoencoder: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = call(evaluate, monkeypatch, *autoencoder, *options, command="vae")
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("evaluate.py") and words in last


@pytest.fixture
def continued(tiny_pipe: "VideoPipeline", tmp_path: Path) -> list[str]:
    """Options that name a random model, and keep all small."""
    tiny_pipe.save_pretrained(tmp_path / "model")
    return [f"--model={tmp_path / 'model'}", "--clips=2", "--steps=1"]


def test_continuations_beside_the_most_and_the_least_on_screen_in_json_and_to_look_at(
    evaluate: ModuleType,
    continued: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = [f"--json={tmp_path}/made.json", f"--picture={tmp_path}/made.png"]
    options = [*continued, *written, "--known=3", "--context-level=0", "--guidance-scale=2", "--seed=5"]
    options += ["--directions", "forward", "backward", "--methods", "ours", "reencode"]
    assert call(evaluate, monkeypatch, *options, command="extend") == 0
    figures, printed = json.loads((tmp_path / "made.json").read_text()), capsys.readouterr().out
    wanted = {"size": "32x32", "frame_rate": 8, "known": 3, "steps": 1, "seed": 5}
    assert figures["settings"].keys() - wanted == {"guidance_scale", "dtype", "device", "clips"}
    assert figures["settings"] | wanted | {"guidance_scale": 2} == figures["settings"]
    tables = printed.split("\n\n")
    for table, direction, known, new in zip(tables, ("forward", "backward"), (9, 13), (8, 4), strict=True):
        assert f"{direction}: {known} frames known, {new} new, context of 3 latent frames at level 0; mean" in table
        found = figures["directions"][direction]
        assert found["context_level"] == 0 and "clips whose known frames changed: 0" in table
        for name in ("ours", "reencode", "through codec", "boundary repeated"):
            (line,) = [line for line in table.splitlines() if line.startswith(name)]
            psnr = [found[kind][name]["psnr"] for kind in ("mean", "standard error")]
            words = [word for word in line.removeprefix(name).split() if word != "±"]
            assert [float(word) for word in words[:2]] == pytest.approx(psnr, abs=0.006)
        assert f"{direction}: no worse than reencode in any figure" in table
    with Image.open(tmp_path / "made.png") as picture:
        assert picture.size[1] > 4 * 2 * 96


def test_edits_are_measured(
    evaluate: ModuleType,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = [part for part in parts if not part.startswith(("--batch", "--picture"))]
    written = [f"--json={tmp_path / 'a.json'}", f"--picture={tmp_path / 'a.png'}"]
    assert call(evaluate, monkeypatch, *own, *written, "--clips=1", "--strength=0.5", command="edit") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert {name.partition(":")[0] for name in found["shares"]} == {"sdedit", "flowedit", "inpaint"}
    assert found["settings"]["strength"] == {"sdedit": 0.5, "flowedit": 0.5}
    assert "1 clips, red to green" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[1] > 3 * 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strength=2"], "'2' must be a number from 0 to 1"),
        (["--clips=0"], "at least 1"),
        (["--kinds", "recolour"], "invalid choice: 'recolour'"),
        (["--picture=a.jpg"], "ends in .png"),
        (["--model=nowhere"], "nowhere is no model folder"),
    ],
)
def test_bad_options_of_edit_are_one_clear_line(
    evaluate: ModuleType,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = call(evaluate, monkeypatch, *options, command="edit")
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model=nowhere"], "nowhere is no model folder"),
        (["--clips=1"], "at least 2"),
        (["--known=0"], "at least 1"),
        (["--known=1"], "--known 1: a window has 5 latent frames: use 2 to 3"),
        (["--known=4"], "use 2 to 3"),
        (["--steps=0"], "at least 1"),
        (["--guidance-scale=0.5"], "guidance_scale=0.5 must be 1"),
        (["--context-level=1"], "context_level=1.0 must be in [0, 1)"),
        (["--context-level=nan"], "context_level=nan must be in [0, 1)"),
        (["--context-seconds=9"], "context_seconds=9.0 must be above 0 and at most 2"),
        (["--windows=0"], "at least 1"),
        (["--directions=sideways"], "invalid choice: 'sideways'"),
        (["--methods=magic"], "invalid choice: 'magic'"),
        (["--manifest=nowhere.csv"], "nowhere.csv does not exist"),
        (["--judge=nowhere"], "nowhere holds no judge"),
        (["--picture=a.jpg"], "ends in .png"),
        (["--json=nowhere/a.json"], "must be a file in a folder that exists"),
    ],
)
def test_bad_options_of_extend_are_one_clear_line(
    options: list[str],
    words: str,
    evaluate: ModuleType,
    continued: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = call(evaluate, monkeypatch, *continued, *options, command="extend")
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("evaluate.py") and words in last


def test_torch_is_not_imported_for_help_or_a_wrong_option() -> None:
    tool = Path(__file__).parents[1] / "tools" / "evaluate.py"
    for options in (["vae", "--help"], ["vae", "--picture=a.jpg"], ["world", "--seconds=1"], ["extend", "--clips=1"]):
        result = subprocess.run([sys.executable, "-X", "importtime", tool, *options], capture_output=True, text=True)
        assert " torch" not in result.stderr and " data.options" in result.stderr
