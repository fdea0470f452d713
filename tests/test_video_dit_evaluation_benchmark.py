"""A whole benchmark of small autoencoders: the figures mean nothing here, what they are made of does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from video_dit.evaluation import benchmark
from video_dit.evaluation.benchmark import VAEBenchmark, benchmark_vae, entries_of, measure, streams_of
from video_dit.evaluation.candidates import count_parameters
from video_dit.evaluation.equal_training import TrainOptions
from video_dit.evaluation.requirements import ASKED
from video_dit.evaluation.speed import SpeedOptions

MODEL = "model: {latent_channels: 4, encoder_width: 72, decoder_width: 72, decoder_depth: 1, encoder_depth: 1}\n"


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """In this process: a fresh one takes seconds to start, and is tried in test_video_dit_evaluation_speed.py."""
    return function(*arguments)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VAEBenchmark:
    monkeypatch.chdir(tmp_path)  # the cache of clips lies there
    monkeypatch.setattr(benchmark, "in_own_process", call)
    (tmp_path / "vae_a.yaml").write_text(MODEL)
    (tmp_path / "vae_b.yaml").write_text(MODEL.replace("72", "40"))
    threads = torch.get_num_threads()
    return VAEBenchmark(
        configs=["vae_a.yaml"],
        against=["wan"],
        kinds=["shrunk"],
        speed=SpeedOptions(5, 32, 32, torch.float32, threads, 1, "cpu"),
        memory_seconds=[0.5, 1.0],
        train=TrainOptions(
            1.0, 5, 32, 1, (1e-3,), 2, None, threads, "cpu", batches=1, world_clips=1, test_clips=1, max_steps=1
        ),
    )


def test_everything_asked_is_measured_and_told(options: VAEBenchmark) -> None:
    lines: list[str] = []
    found = benchmark_vae(options, lines.append)
    text = "\n".join(lines)
    ours, wan = found["autoencoders"]
    assert (ours["name"], ours["kind"], wan["name"], wan["kind"]) == ("ours, vae_a", "ours", "wan, width 4", "shrunk")
    assert wan["parameters"] == pytest.approx(ours["parameters"], rel=0.15)
    for one in (ours, wan):
        assert one["decode_seconds"] > 0
        assert text.count(one["name"]) >= 3
    assert [stream["clip_seconds"] for stream in found["streams"]["vae_a.yaml"]] == [0.5, 1.0]
    assert [one["name"] for one in found["training"]] == ["ours, vae_a", "wan, width 4"]
    assert [len(one["trials_of_each_seed"]) for one in found["training"]] == [2, 2]
    assert found["settings"]["speed"]["dtype"] == "float32"
    assert found["settings"]["train"]["frames"] == 5
    assert f"required at {ASKED}; measured at 5 frames of 32x32" in text
    assert len(found["requirements"]) == 7
    assert {one["text"] for one in found["requirements"] if one["met"] is not None} == {
        one["text"] for one in found["requirements"] if ("wan, shrunk" in one["text"] or "memory" in one["text"])
    }
    json.dumps(found, allow_nan=False)


def test_published_ones_stand_once_and_shrunk_ones_for_each_of_ours(options: VAEBenchmark) -> None:
    both = replace(options, configs=["vae_a.yaml", "vae_b.yaml"], kinds=["published", "shrunk"])
    entries = entries_of(both)
    assert [(entry.candidate.family, entry.candidate.kind, entry.config) for entry in entries] == [
        ("ours", "ours", "vae_a.yaml"),
        ("ours", "ours", "vae_b.yaml"),
        ("wan", "published", ""),
        ("wan", "shrunk", "vae_a.yaml"),
        ("wan", "shrunk", "vae_b.yaml"),
    ]
    assert all(entry.profile.parameters == count_parameters(entry.candidate) for entry in entries)


def test_one_that_fails_does_not_end_the_others(options: VAEBenchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not enough\nmemory")

    monkeypatch.setattr(benchmark, "in_own_process", fail)
    lines: list[str] = []
    entry = entries_of(options)[0]
    assert measure(entry, options.speed).failed == "not enough memory"
    assert streams_of(entry, options, lines.append) == dict.fromkeys((0.5, 1.0), "not enough memory")
    assert lines[0] == "ours, vae_a: 0.5 s streamed failed: not enough memory"


def test_nothing_to_stream_and_nothing_to_train(options: VAEBenchmark) -> None:
    found = benchmark_vae(replace(options, against=[], memory_seconds=[], train=None), lambda line: None)
    assert found["streams"] == {"vae_a.yaml": []}
    assert found["training"] == []
    assert [one["kind"] for one in found["autoencoders"]] == ["ours"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 6}, "--train-frames 6 must be 1 \\+ 4k for ours, vae_a: use 5 or 9"),
        ({"manifest": Path("none.csv")}, "manifest none.csv does not exist"),
        ({"size": 20}, "--train-size: height 20 must be a multiple of 8 for ours, vae_a: use 16 or 24"),
    ],
)
def test_crops_that_are_refused(options: VAEBenchmark, change: dict[str, Any], message: str) -> None:
    assert options.train
    with pytest.raises(ValueError, match=message):
        benchmark_vae(replace(options, train=replace(options.train, **change)), refuse_to_measure)


def refuse_to_measure(line: str) -> None:
    """What is wrong with the training is told before anything is measured, which may take long."""
    raise AssertionError(line)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_device_that_is_not_there(options: VAEBenchmark) -> None:
    with pytest.raises(ValueError, match="--device cuda: "):
        benchmark_vae(replace(options, speed=replace(options.speed, device="cuda")), lambda line: None)
