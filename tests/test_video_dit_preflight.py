"""The report on a run's clips and packs, against what the run then takes."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from data.dataset import ClipShape
from data.packing import cost
from data.shards import write_index, write_shard
from data.video import write_video
from vae3d import LatentCodec, VideoVAE
from video_dit.config import DataConfig, RunConfig
from video_dit.engine import TrainConfig
from video_dit.preflight import data_report, first_epoch, pack_lines
from video_dit.sources import encoding, pack_plan, training_clips

SMALL: dict[str, Any] = {
    "num_clips": 60,
    "num_frames": 9,
    "window_frames": 9,
    "sizes": [[32, 32], [32, 48]],
    "frame_rates": [8.0],
    "token_budget": 80,
}


def reported(config: RunConfig, codec: LatentCodec, ranks: int = 1) -> list[str]:
    """Of the clips that the run would train on."""
    source = training_clips(config, codec)
    return data_report(config, source, pack_plan(config, codec, source, ranks * config.train.accumulation), ranks)


@pytest.fixture
def codec(tiny_vae: VideoVAE) -> LatentCodec:
    return LatentCodec(tiny_vae)


def run_config(accumulation: int = 1, **data: Any) -> RunConfig:
    return RunConfig(data=DataConfig(**SMALL | data), train=TrainConfig(accumulation=accumulation))


def line(lines: list[str], start: str) -> str:
    """The only line that starts so."""
    (found,) = (one for one in lines if one.startswith(start))
    return found


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_the_world_is_reported(codec: LatentCodec) -> None:
    config = run_config(frame_rates=[8.0, 4.0])
    report = reported(config, codec)
    assert line(report, "clips:") == "clips: 60 scenes of the world"
    source = training_clips(config, codec)
    counts = Counter((s.width, s.height, s.frame_rate) for s in map(source.shape, range(60)))
    told = report[report.index("shapes:") + 1 :][: len(counts)]
    assert told == [f"  {w}x{h} at {fps:g} fps, 9 frames: {n} clips" for (w, h, fps), n in counts.most_common()]
    seconds = sum(9 / fps * n for (_, _, fps), n in counts.items())
    assert numbers(line(report, "durations:"))[0] == pytest.approx(seconds, abs=0.05)
    assert "1.1 to 2.2 s" in line(report, "durations:")


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (2, 3)])
def test_packs_are_those_of_the_run(codec: LatentCodec, ranks: int, accumulation: int) -> None:
    config = run_config(accumulation)
    plan = pack_plan(config, codec, training_clips(config, codec), ranks * accumulation)
    packs = first_epoch(plan)
    assert sorted(view.index for pack in packs for view in pack) == list(range(60))
    assert all(view.epoch == 0 for pack in packs for view in pack)
    report = reported(config, codec, ranks)
    fills = [100 * sum(view.tokens for view in pack) / 80 for pack in packs]
    views = [len(pack) for pack in packs]
    figures = [len(packs), 80, sum(fills) / len(packs), min(fills), 60 / len(packs), min(views), max(views)]
    assert numbers(line(report, "packs:")) == pytest.approx(figures, abs=0.06)
    each = ranks * accumulation
    apart = []
    for step in range(len(packs) // each):
        costs = [0.0] * ranks
        for place in range(each):
            costs[place % ranks] += cost(packs[step * each + place], plan.attention_cost)
        apart.append(100 * (max(costs) / (sum(costs) / ranks) - 1))
    figures = [len(packs) / each, each, ranks, sum(apart) / len(apart), max(apart)]
    assert numbers(line(report, "steps:")) == pytest.approx(figures, abs=0.06)
    assert (max(apart) > 0) == (ranks > 1)


def test_a_step_may_be_more_than_an_epoch(codec: LatentCodec) -> None:
    config = run_config(num_clips=3)
    plan = pack_plan(config, codec, training_clips(config, codec), 16)
    assert re.search(r"steps: 0\.\d an epoch, of 16 packs on 8 ranks", pack_lines(plan, 8)[1])
    assert "of 16 packs on 4 groups of 2 ranks" in pack_lines(plan, 4, degree=2)[1]


def test_rows_that_are_left_out_are_counted_by_reason_with_examples(codec: LatentCodec, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(20, 32, 48, 3, dtype=torch.uint8), 8.0)
    (tmp_path / "text.mp4").write_text("no video")
    rows = ["path,text,start", "a.mp4,all of it,", *(f"gone-{n}.mp4,gone,{n}" for n in range(5))]
    rows += ["a.mp4,the end,2.2", "text.mp4,words,"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    report = reported(run_config(manifest=str(tmp_path / "clips.csv")), codec)
    assert report[:4] == [
        f"clips: 2 from 1 of the 8 rows of data.manifest={tmp_path}/clips.csv",
        "  left out: 5 rows, no such file: row 3 (gone-0.mp4, from 0 s), row 4 (gone-1.mp4, from 1 s), "
        "row 5 (gone-2.mp4, from 2 s), …",
        "  left out: 1 row, too short for 5 frames at 8 fps: row 8 (a.mp4, from 2.2 s)",
        "  left out: 1 row, cannot be read: not a video (Invalid data found when processing input): "
        "row 9 (text.mp4, from 0 s)",
    ]
    assert "  48x32 at 8 fps, 9 frames: 2 clips" in report


def test_shapes_beyond_the_usual_are_summed_up(codec: LatentCodec) -> None:
    report = reported(run_config(frame_rates=[4.0 + rate / 2 for rate in range(30)], token_budget=400), codec)
    shapes = report[report.index("shapes:") + 1 : report.index(line(report, "durations:"))]
    assert len(shapes) == 11
    assert sum(numbers(shape)[-1] for shape in shapes) == 60
    assert re.match(r"  \d+ more: \d+ clips", shapes[-1])


def test_shards_are_reported(codec: LatentCodec, tmp_path: Path) -> None:
    config = run_config(latents=str(tmp_path))
    shape = ClipShape(9, 32, 32, 8.0)
    write_shard(tmp_path, 0, [(n, ["text"], shape, {"latents": torch.zeros(1)}) for n in range(3)])
    assert write_index(tmp_path, 1, encoding(config, codec))
    report = reported(config, codec)
    assert report[:3] == [
        f"clips: 3 in the shards of data.latents={tmp_path}",
        "shapes:",
        "  32x32 at 8 fps, 9 frames: 3 clips",
    ]


def test_a_run_without_a_batch_is_an_error_with_its_reason(codec: LatentCodec) -> None:
    with pytest.raises(ValueError, match=r"data.token_budget=10 must hold the longest view: use at least \d+") as error:
        reported(run_config(token_budget=10), codec)
    assert "\n" not in str(error.value)
