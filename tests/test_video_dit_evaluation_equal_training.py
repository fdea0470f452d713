"""Training alike for the same time: any autoencoder learns, a seed gives one result, and clips are kept apart."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.transforms import to_float
from data.video import write_video
from data.world import sample_scene
from vae3d.interop import decode_whole, encode_whole
from vae3d.metrics import psnr
from video_dit.evaluation.candidates import Candidate, of_width, ours
from video_dit.evaluation.equal_training import (
    HELD,
    Footage,
    TrainOptions,
    build_optimizers,
    fast_autocast,
    load_footage,
    mean_and_error,
    mean_psnr,
    run_trials,
    schedule,
    train_for,
)


@pytest.fixture
def own(tmp_path: Path) -> Candidate:
    config = tmp_path / "vae_small.yaml"
    config.write_text("model: {latent_channels: 4, encoder_width: 32, decoder_width: 32, decoder_depth: 1}\n")
    return ours(str(config))


@pytest.fixture
def batches() -> list[Tensor]:
    """Two bright, smooth pictures that grow brighter, uint8 (1, 5, 16, 16, 3)."""
    ramp = torch.linspace(180, 230, 16)[None, :, None] + torch.linspace(0, 20, 16)[None, None, :]
    clip = (ramp + torch.arange(5)[:, None, None])[..., None].expand(-1, -1, -1, 3).to(torch.uint8)
    return [clip[None], clip[None].flip(2)]


@pytest.fixture
def options() -> TrainOptions:
    return TrainOptions(
        seconds=1.0,
        frames=5,
        size=32,
        batch=2,
        rates=(1e-3,),
        seeds=1,
        manifest=None,
        threads=torch.get_num_threads(),
        device="cpu",
        batches=3,
        world_clips=2,
        test_clips=2,
        max_steps=2,
    )


@pytest.mark.parametrize("family", ["ours", "wan", "cogvideox"])
def test_the_loss_falls_and_the_seed_decides_it(own: Candidate, batches: list[Tensor], family: str) -> None:
    candidate = own if family == "ours" else of_width(family, 4)  # type: ignore[arg-type]
    runs = [train_for(candidate.build(), batches, math.inf, seed, 3e-3, max_steps=15) for seed in (0, 0, 1)]
    assert runs[0].losses == runs[1].losses
    assert runs[0].losses != runs[2].losses
    assert len(runs[0].losses) == 15
    assert min(runs[0].losses[-3:]) < 0.5 * max(runs[0].losses[:3])


def test_muon_turns_the_matrices_and_adamw_the_rest(own: Candidate, batches: list[Tensor]) -> None:
    vae = own.build()
    adamw, muon = build_optimizers(vae, 1e-3, "muon")
    assert all(p.ndim == 2 for p in muon.param_groups[0]["params"])
    assert all(p.ndim == 1 for p in adamw.param_groups[0]["params"])
    assert sum(len(one.param_groups[0]["params"]) for one in (adamw, muon)) == len(list(vae.parameters()))
    losses = train_for(vae, batches, math.inf, 0, 1e-3, max_steps=15, optimizer="muon").losses
    assert min(losses[-3:]) < 0.5 * max(losses[:3])


def test_training_ends_when_its_time_is_over(own: Candidate, batches: list[Tensor]) -> None:
    training = train_for(own.build(), batches, 0.3, 0, 1e-3)
    step = training.seconds / len(training.losses)
    assert 0.3 <= training.seconds < 0.3 + 20 * step
    assert len(training.losses) > 1


def test_a_loss_that_is_no_number_ends_it(own: Candidate, batches: list[Tensor]) -> None:
    vae = own.build()
    with torch.no_grad():
        next(vae.parameters()).fill_(math.nan)
    training = train_for(vae, batches, math.inf, 0, 1e-3, max_steps=50)
    assert training.diverged
    assert len(training.losses) == 1
    assert math.isnan(mean_psnr(vae, batches))


def test_the_rate_rises_stays_and_falls() -> None:
    assert schedule(0.0) == 0.1
    assert schedule(0.015) == pytest.approx(0.5)
    assert schedule(0.03) == schedule(0.5) == schedule(0.7) == 1.0
    assert schedule(0.85) == pytest.approx(0.5)
    assert schedule(1.0) == 0.0


def test_psnr_is_that_of_the_means(own: Candidate, batches: list[Tensor]) -> None:
    vae = own.build()
    found = mean_psnr(vae, batches)
    with torch.no_grad(), fast_autocast(vae.device):
        clips = [to_float(batch) for batch in batches]
        decoded = [decode_whole(vae, encode_whole(vae, clip)).float().clamp(-1, 1) for clip in clips]
    scores = [float(psnr(prediction, clip)) for prediction, clip in zip(decoded, clips, strict=True)]
    assert found == pytest.approx(sum(scores) / 2)


def test_clips_of_the_world_are_kept_apart(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the cache lies there
    footage = load_footage(options, 8, print)
    assert (len(footage.train), len(footage.held)) == (3, HELD)
    assert {tuple(batch.shape) for batch in footage.train + footage.held} == {(2, 5, 32, 32, 3)}
    assert {tuple(clip.shape) for clip in footage.test["world"]} == {(5, 64, 64, 3)}
    assert torch.equal(footage.test["world"][1], sample_scene("test", 1).render(5, 64, 64, 8.0))
    assert list(footage.test) == ["world"]


def test_real_clips_are_trained_on_and_tested_by_their_split(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, level in (("seen", 250), ("unseen", 130)):
        write_video(tmp_path / f"{name}.mp4", torch.full((9, 48, 64, 3), level, dtype=torch.uint8), 8.0)
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    lines = ["split,path,text", "train,seen.mp4,a", "test,unseen.mp4,b", "test,torn.mp4,c"]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    said: list[str] = []
    footage = load_footage(replace(options, manifest=tmp_path / "clips.csv", batches=12), 16, said.append)
    assert [tuple(clip.shape) for clip in footage.test["real"]] == [(5, 64, 80, 3)]
    assert footage.test["real"][0].float().mean() == pytest.approx(130, abs=3)
    real = [batch for batch in footage.train if batch.float().std() < 3]
    assert 0 < len(real) < 12
    assert all(abs(batch.float().mean() - 250) < 3 for batch in real)
    assert len(said) == 1
    assert "torn.mp4" in said[0]
    (tmp_path / "clips.csv").write_text("\n".join([*lines, *("test,seen.mp4,b", "test,unseen.mp4,b") * 2]))
    footage = load_footage(replace(options, manifest=tmp_path / "clips.csv", batches=1, test_clips=3), 16, said.append)
    means = [clip.float().mean().item() for clip in footage.test["real"]]  # of five: the first, the third, the last
    assert means == pytest.approx([130, 130, 130], abs=3)
    assert len(footage.test["world"]) == 3
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    (tmp_path / "unseen.mp4").unlink()
    with pytest.raises(ValueError, match="no clip of split test can be read"):
        load_footage(replace(options, manifest=tmp_path / "clips.csv", batches=1), 16, said.append)


def test_the_best_rate_is_taken_for_all_seeds(own: Candidate, options: TrainOptions, batches: list[Tensor]) -> None:
    footage = Footage(batches, batches, {"world": [batch[0] for batch in batches]})
    said: list[str] = []
    chosen = replace(options, rates=(1e-9, 3e-3, 1e-8), seeds=3, max_steps=12)
    searched, final = run_trials(own, footage, chosen, said.append)
    assert [trial.rate for trial in searched] == [1e-9, 3e-3, 1e-8]
    assert max(searched, key=lambda trial: trial.held).rate == 3e-3
    assert [(trial.rate, trial.seed) for trial in final] == [(3e-3, 0), (3e-3, 1), (3e-3, 2)]
    assert final[0].held == searched[1].held
    assert all(trial.test["world"] == pytest.approx(trial.held) for trial in final)  # the same clips here
    assert len(said) == 3 + 3


def test_one_that_always_diverges_has_no_result(own: Candidate, options: TrainOptions, batches: list[Tensor]) -> None:
    footage = Footage(batches, batches, {})
    searched, final = run_trials(own, footage, replace(options, rates=(1e30,), max_steps=30), print)
    assert searched[0].held == -math.inf
    assert final == []


def test_mean_and_standard_error() -> None:
    assert mean_and_error([3.0]) == (3.0, None)
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)
