"""What is shown and recorded of a run."""

import json
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from video_dit.engine import TrainConfig
from video_dit.progress import Progress, plot_metrics, run_id


def run(folder: Path, start: int, stop: int, show: bool = True) -> None:
    if start:  # TensorBoard's files go by second, process and number, as text: within one second 10 comes before 9
        began = int(time.time())
        while int(time.time()) == began:
            time.sleep(0.05)
    progress = Progress(folder, start, 10, show)
    for done in range(start + 1, stop + 1):
        progress.step(done, {"loss": 1 / done, "tokens/s": 100.0})
        if done % 2 == 0:
            progress.record(done, {"validation/loss": 2 / done})
            progress.say(f"step {done}")
            progress.plot("train/loss", "validation/loss")
    progress.close()


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder: Path, name: str) -> dict[int, float]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_a_run_leaves_curves_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", 0, 4)
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]
    assert [line["validation/loss"] for line in lines if "validation/loss" in line] == [1, 0.5]
    assert curve(tmp_path / "run", "train/loss") == {1: 1, 2: 0.5, 3: pytest.approx(1 / 3), 4: 0.25}
    assert curve(tmp_path / "run", "train/tokens/s") == dict.fromkeys(range(1, 5), 100)
    assert curve(tmp_path / "run", "validation/loss") == {2: 1, 4: 0.5}
    with Image.open(tmp_path / "run" / "loss.png") as picture:
        assert len(picture.convert("L").getcolors()) > 10
    shown = capsys.readouterr()
    assert "step 2" in shown.out + shown.err
    assert "4/10" in shown.err
    assert "loss=0.25" in shown.err


def test_a_resumed_run_forgets_what_came_after_its_start(tmp_path: Path) -> None:
    run(tmp_path, 0, 5)
    before = records(tmp_path)
    run(tmp_path, 3, 6)  # the checkpoint was of step 3
    steps = [line["step"] for line in records(tmp_path) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert records(tmp_path)[: len(before) - 3] == before[:-3]
    assert {1, 2, 4, 5, 6} <= curve(tmp_path, "train/loss").keys()


def test_what_was_recorded_before_is_not_recorded_twice(tmp_path: Path) -> None:
    """As where a run that was stopped between measuring and writing its model does both again."""
    run(tmp_path, 0, 2)
    before = records(tmp_path)
    for _ in range(2):
        progress = Progress(tmp_path, 2, 10, True)
        progress.record(2, {"validation/loss": 1.0})
        progress.close()
    assert records(tmp_path) == before
    assert not list(tmp_path.glob("*.part"))


def test_a_resumed_run_keeps_the_step_of_its_checkpoint_in_tensorboard(tmp_path: Path) -> None:
    run(tmp_path, 0, 5)
    run(tmp_path, 3, 6)
    assert sorted(curve(tmp_path, "train/loss")) == [1, 2, 3, 4, 5, 6]


def test_what_a_checkpoint_has_is_in_tensorboard_though_the_run_is_killed(tmp_path: Path) -> None:
    progress = Progress(tmp_path, 0, 9, show=True)
    for done in range(1, 4):
        progress.step(done, {"loss": 1.0})
    progress.flush()
    assert sorted(curve(tmp_path, "train/loss")) == [1, 2, 3]
    progress.close()


def test_what_is_aside_is_recorded_and_not_in_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path, 0, 1, show=True)
    progress.step(1, {"loss": 0.5}, {"padding": 7})
    progress.close()
    assert records(tmp_path) == [{"step": 1, "train/loss": 0.5, "train/padding": 7}]
    shown = capsys.readouterr().err
    assert "loss=0.5" in shown
    assert "padding" not in shown


def test_sheets_are_shown_under_their_names(tmp_path: Path) -> None:
    sheets = [tmp_path / "step-0000002-0.png", tmp_path / "step-0000002-continued.png"]
    for number, sheet in enumerate(sheets):
        Image.new("RGB", (8 + number, 6), (200, 10, 10)).save(sheet)
    for show in (False, True):
        progress = Progress(tmp_path / "run", 0, 4, show)
        progress.pictures(2, sheets)
        progress.close()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["samples/0", "samples/continued"]
    (picture,) = events.Images("samples/continued")
    assert (picture.step, picture.width, picture.height) == (2, 9, 6)


def test_a_run_goes_to_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that package is installed, which the tests do not ask for."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    progress = Progress(tmp_path, 0, 2, show=True, wandb=True)
    progress.step(1, {"loss": 0.5})
    progress.close()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_weights_and_biases_is_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    TrainConfig()
    with pytest.raises(ValueError, match=r"train.wandb=true needs the package wandb: pip install wandb"):
        TrainConfig(wandb=True)


def test_runs_are_known_by_their_folders(tmp_path: Path) -> None:
    assert run_id(tmp_path / "a") == run_id(tmp_path / "a") != run_id(tmp_path / "b")


def test_other_ranks_show_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", 0, 4, show=False)
    assert not (tmp_path / "run").exists()
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""


@pytest.mark.parametrize("records", [[], [{"step": 1, "a": 0.5}], [{"step": 1, "b": 0.5}]])
def test_a_picture_of_little(tmp_path: Path, records: list[dict]) -> None:
    plot_metrics(records, "a", "b", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 0
