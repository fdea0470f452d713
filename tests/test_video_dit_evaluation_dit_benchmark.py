"""Tables, requirements and JSON of transformers: the figures mean nothing here, what they are made of does."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from video_dit.evaluation import dit_benchmark
from video_dit.evaluation.dit_benchmark import (
    ASKED,
    DiTBenchmark,
    benchmark_dit,
    benchmark_epoch,
    benchmark_mixed,
    is_asked,
    speed_requirements,
)
from video_dit.evaluation.dit_candidates import Family, Levels, Size, Work
from video_dit.evaluation.dit_epoch import EpochOptions
from video_dit.evaluation.dit_mixed import Mixed, MixedOptions
from video_dit.evaluation.dit_speed import Arm, DiTSpeedOptions, Phase, Timed

SPEED = DiTSpeedOptions("cpu", 1, 1, "highest", autocast=False)
WORK = Work(1, (2, 2, 2), 4, 64)
OPTIONS = DiTBenchmark(
    ["wan", "cogvideox"], Size(1, 64, 2), WORK, [torch.float32, torch.bfloat16], [False], SPEED, 1e12
)
MIXED = Mixed(
    "sora_small.yaml data.token_budget=1000",
    150_000_000,
    10_000_000,
    {
        "token_budget": 1000,
        "accumulation": 2,
        "zero_stage": 1,
        "optimizer": "adamw",
        "compile": True,
        "checkpointing": True,
        "weights": "bfloat16",
        "device": "a GPU",
        "torch": "2.11",
    },
    (10, 100.0, 250),
    (1, 50.0, 60),
    [1900, 1980],
    [4 * 10**12, 6 * 10**12],
    [10**12, 10**12],
    [0.01, 0.015],
    2**30,
)


def test_everything_asked_is_measured_and_told() -> None:
    lines: list[str] = []
    found = benchmark_dit(OPTIONS, lines.append)
    text = "\n".join(lines)
    assert [one["family"] for one in found["transformers"]] == ["ours", "wan", "cogvideox"]
    parameters = [one["parameters"] for one in found["transformers"]]
    assert parameters == pytest.approx([parameters[0]] * 3, rel=0.03)
    assert len(found["times"]) == 2 * (4 + 4 + 2)
    assert all(one["seconds"] > 0 for one in found["times"])
    assert len(found["requirements"]) == 2 * 2 * 2
    assert all(one["value"] > 0 for one in found["requirements"])
    assert all(one["met"] is None for one in found["requirements"])  # it is asked of more than this
    assert "not asked     forward, float32, eager: 1.5 times as fast as the fastest peer; times: " in text
    assert "float32, eager" in text
    assert "bfloat16, eager" in text
    assert "matmul precision highest for all; training in bf16 with bf16 weights" in text
    (row,) = [line.split() for line in lines[: lines.index("\nbfloat16, eager")] if line.endswith("  cogvideox")]
    assert [place for place, cell in enumerate(row) if cell == "-"] == [2, 4, 6, 8]  # no levels per frame, no GPU
    assert f"required at {ASKED}; measured at 0.1 M parameters and 8 tokens on 1 threads" in text
    json.dumps(found, allow_nan=False)


def test_speed_is_asked_at_one_size_on_one_device() -> None:
    asked = replace(OPTIONS, work=Work(1, (10, 8, 8), 4, 64), speed=replace(SPEED, threads=2))
    assert is_asked(asked, 29_000_000)
    assert not is_asked(asked, 40_000_000)
    assert not is_asked(replace(asked, work=WORK), 29_000_000)
    assert not is_asked(replace(asked, speed=replace(asked.speed, device="cuda")), 29_000_000)
    assert not is_asked(replace(asked, speed=SPEED), 29_000_000)


def timed(family: Family, phase: Phase, levels: Levels, *seconds: float) -> Timed:
    return Timed(Arm(family, phase, levels, torch.float32, False), list(seconds), None if seconds else "no memory")


def test_ours_is_held_against_the_fastest_peer_and_wan() -> None:
    rows = [
        timed("ours", "forward", "one", 1.0, 9.0, 1.0),
        timed("wan", "forward", "one", 1.6),
        timed("ltx", "forward", "one", 1.4),
        timed("ours", "forward", "per frame", 1.0),
        timed("wan", "forward", "per frame", 3.0),
        timed("ltx", "forward", "per frame", 0.1),
        timed("ours", "training", "one", 1.0),
        timed("wan", "training", "one"),
    ]
    fastest, wan, training, training_wan = speed_requirements(rows)
    assert (fastest.value, fastest.met) == (1.4, False)
    assert fastest.text == "forward, float32, eager: 1.5 times as fast as the fastest peer; times"
    assert (wan.value, wan.met) == (3.0, True)
    assert (training.value, training.met) == (training_wan.value, training_wan.met) == (None, None)


@pytest.mark.parametrize(
    ("config", "device", "value", "met"),
    [
        ("sora_small.yaml data.token_budget=1000", "cuda", 50.0, True),
        ("configs/sora_base.yaml", "cuda", 50.0, False),
        ("sora_small.yaml", "cpu", None, None),
        ("own.yaml", "cuda", 50.0, None),
    ],
)
def test_what_a_config_must_reach(config: str, device: str, value: float | None, met: bool | None) -> None:
    found = dit_benchmark.mixed_requirement(replace(MIXED, config=config), 800e12, device)
    assert (found.value, found.met) == (value, met)


def test_mixed_tells_what_its_figures_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dit_benchmark, "in_own_process", lambda *_: MIXED)
    lines: list[str] = []
    found = benchmark_mixed(["sora_small.yaml"], MixedOptions("cpu", 1, 0, 2), 800e12, lines.append)
    text = "\n".join(lines)
    assert "150.0 M parameters and 10.0 M of the text encoder, bfloat16, adamw, ZeRO 1, activations" in text
    assert "ZeRO 1, activations checkpointed, a GPU, torch 2.11" in text
    assert "packs of 1000 tokens x 2, 97.0% filled; a sample has 10, 100, 250 tokens" in text
    assert "2 steps of 12.5 ms on average (10.0 to 15.0)" in text
    assert "155,200 tokens/s, 400 TFLOP/s of the transformer, 480 with the text encoder" in text
    on_gpu = "\n".join(dit_benchmark.mixed_lines(MIXED, 800e12, "cuda"))
    assert "400 TFLOP/s of the transformer (50.0% of 800), 480 with the text encoder (60.0% of 800)" in on_gpu
    assert "(10.0 to 15.0), 1.0 GiB at most" in on_gpu
    assert "ZeRO 1, compiled, activations checkpointed, a GPU" in on_gpu
    assert found["configs"][0]["share_of_peak"] is None  # the peak is that of a GPU
    assert dit_benchmark._mixed_as_json(MIXED, 800e12, "cuda")["share_of_peak"] == pytest.approx(0.5)
    json.dumps(found, allow_nan=False)


def test_an_epoch_in_each_dtype() -> None:
    lines: list[str] = []
    runs = [
        EpochOptions(OPTIONS.size, WORK, dtype, 1024, batches=1, seed=0, compiled=False) for dtype in OPTIONS.dtypes
    ]
    found: dict[str, Any] = benchmark_epoch(None, 30, runs, SPEED, lines.append)
    assert [one["dtype"] for one in found["epochs"]] == ["float32", "bfloat16"]
    assert [len(one["ways"]) for one in found["epochs"]] == [4, 4]
    assert len(found["requirements"]) == 6
    assert all(way["useful_tokens_per_second"] > 0 for one in found["epochs"] for way in one["ways"])
    json.dumps(found, allow_nan=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="--device cuda: "):
        benchmark_dit(replace(OPTIONS, speed=replace(SPEED, device="cuda")), lambda line: None)
