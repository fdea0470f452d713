"""tools/train_judge.py: it learns, resumes exactly, and reports what the judge is worth."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from data.world.judge import FILE, PART, WINDOW, Judge
from data.world.labels import OBJECT_WORDS, SCENE_WORDS
from vae3d import VideoVAE


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("train_judge")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What clips are rendered into, once for all tests."""
    return tmp_path_factory.mktemp("cache")


def train(
    tool: ModuleType, cache: Path, vae: VideoVAE, out: Path, steps: int, *options: str
) -> dict[str, torch.Tensor]:
    """The weights after so many steps."""
    vae.save_pretrained(cache / "codec" / "vae")
    words = ["--clips=24", "--validation=3", "--batch=2", "--save-every=2", "--workers=0", f"--steps={steps}"]
    tool.train(tool.parse_arguments([*words, f"--vae={cache / 'codec'}", f"--cache={cache}", f"--out={out}", *options]))
    return load_file(out / FILE)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tool: ModuleType,
    cache: Path,
    tiny_vae: VideoVAE,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tool, "Judge", SmallJudge)
    whole = train(tool, cache, tiny_vae, tmp_path, 4)
    (state,) = cache.glob("world-*/*/state.pt")
    (tmp_path / FILE).unlink()
    assert train(tool, cache, tiny_vae, tmp_path, 4).keys() == whole.keys(), "a finished run saves the judge again"
    with pytest.raises(ValueError, match="--steps 4, not 5"):
        train(tool, cache, tiny_vae, tmp_path, 5)
    with pytest.raises(ValueError, match="--init-from None, not"):
        train(tool, cache, tiny_vae, tmp_path, 4, f"--init-from={tmp_path}")
    monkeypatch.setattr(tool, "Judge", Deeper)
    with pytest.raises(ValueError, match="another version of the judge"):
        train(tool, cache, tiny_vae, tmp_path, 4)
    monkeypatch.setattr(tool, "Judge", SmallJudge)
    state.unlink()

    saved: list[Path] = []
    monkeypatch.setattr(SmallJudge, "save", stop_after(saved, SmallJudge.save))
    with pytest.raises(KeyboardInterrupt):  # at the first save
        train(tool, cache, tiny_vae, tmp_path, 4)
    assert saved
    again = train(tool, cache, tiny_vae, tmp_path, 4)
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
    told = capsys.readouterr()
    assert "through the autoencoder: count" in told.out + told.err and "centre error" in told.out + told.err


class SmallJudge(Judge):
    """The network at a size for tests."""

    def __init__(self, width: int = 16, deep_width: int = 32, depth: int = 1) -> None:
        super().__init__(width, deep_width, depth)


class Deeper(SmallJudge):
    def __init__(self) -> None:
        super().__init__(depth=2)


def stop_after(saved: list[Path], save: Callable[[Judge, Path], None]) -> Callable[[Judge, Path], None]:
    def save_once(judge: Judge, folder: Path) -> None:
        save(judge, folder)
        saved.append(folder)
        if len(saved) == 1:
            raise KeyboardInterrupt

    return save_once


def test_the_loss_falls_on_one_batch(tool: ModuleType, cache: Path) -> None:
    folder = cache / "few"
    tool.render_clips(range(4), folder, 0)
    batch = tool.collate([tool.varied(seed, folder, folder, 0) for seed in (0, 1)])
    assert batch["frames"].shape == (2, 3, WINDOW, 64, 64) and batch["frames"].abs().max() <= 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = SmallJudge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    totals = []
    for _ in range(25):
        loss, parts = tool.judge_loss(judge, batch)
        places = {"points", "centres", "depths", "paths", "view", "match", "rematch"}
        assert places | {*OBJECT_WORDS, *SCENE_WORDS} == parts.keys()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.6 * totals[0]
    part = tool.part_of(batch, 5)
    _, parts = tool.judge_loss(judge, part)
    assert part["frames"].shape[2] == part["centres"].shape[2] == PART
    assert not {"motion", "size", "camera"} & parts.keys()


def test_a_batch_that_shows_no_object_teaches_what_it_can(tool: ModuleType, cache: Path) -> None:
    folder = cache / "few"
    tool.render_clips(range(2), folder, 0)
    batch = tool.collate([tool.varied(seed, folder, folder, 0) for seed in (0, 1)])
    judge = SmallJudge()
    loss, parts = tool.judge_loss(judge, batch | {"visible": torch.zeros_like(batch["visible"])})
    loss.backward()
    assert parts["motion"] == parts["centres"] == 0.0 < parts["camera"]
    assert all(p.grad is None or p.grad.isfinite().all() for p in judge.parameters())


def test_the_best_map_of_points_has_its_peaks_at_the_centres(tool: ModuleType) -> None:
    centres, present = torch.tensor([[[0.3, 0.6], [0.8, 0.2]]]), torch.tensor([[True, True]])
    flat = torch.full((1, 32, 32), -6.0)
    right, wrong = flat.clone(), flat.clone()
    right[0, 19, 9] = right[0, 6, 25] = 6.0  # y, x of the cells that hold the centres
    wrong[0, 9, 19] = wrong[0, 25, 6] = 6.0
    losses = [float(tool.point_loss(logits, centres, present)) for logits in (right, flat, wrong)]
    assert losses[0] < 0.2 < losses[1] < losses[2]


def test_places_are_shared_among_the_nearest_cells(tool: ModuleType) -> None:
    shares = tool.cell_shares(torch.tensor([[[[0.5, 0.125], [0.02, 0.98]]]]), (4, 8))[0, 0]  # s cells
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    x, y = (torch.arange(8) + 0.5) / 8, (torch.arange(4) + 0.5) / 4
    place = torch.stack(((shares.view(2, 4, 8).sum(1) * x).sum(-1), (shares.view(2, 4, 8).sum(2) * y).sum(-1)), -1)
    torch.testing.assert_close(place[0], torch.tensor([0.5, 0.125]))
    assert (shares > 0).sum(-1).tolist() == [2, 1]


def test_more_clips_in_a_batch_than_there_are_is_one_clear_line(tool: ModuleType, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"--batch 8 is more.*than 12"):
        next(tool.batches(range(12), 8, cache, cache, 0))


def test_what_is_wrong_is_found_before_anything_is_rendered(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "render_clips", None)
    (tmp_path / "file").write_bytes(b"")
    for words, reason in (
        ([f"--out={tmp_path / 'file'}"], "--out .*file is a file"),
        ([f"--cache={tmp_path / 'file/x'}"], "--cache .*file is a file"),
        (["--batch=17", "--clips=48"], "--batch 17 is more.*than 48"),
        ([f"--init-from={tmp_path}"], "holds no judge"),
        ([f"--vae={tmp_path}"], re.escape(str(tmp_path))),
    ):
        with pytest.raises(ValueError, match=reason):
            tool.train(tool.parse_arguments([f"--cache={tmp_path}", *words]))
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments(["--lr=-1"])
    assert stop.value.code == 2


def test_steps_are_kept_where_the_judge_cannot_be_saved(
    tool: ModuleType, cache: Path, tiny_vae: VideoVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "Judge", SmallJudge)
    for state in cache.glob("world-*/*/state.pt"):  # of another test
        state.unlink()
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(SmallJudge, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train(tool, cache, tiny_vae, tmp_path, 2)
    (state,) = cache.glob("world-*/*/state.pt")
    assert torch.load(state, weights_only=True)["step"] == 2
