"""What a benchmark found, as lines and as JSON."""

import json
import math

from vae3d import VideoVAE
from video_dit.evaluation.candidates import Candidate, Profile
from video_dit.evaluation.equal_training import Trial
from video_dit.evaluation.results import (
    HEADING,
    Entry,
    Row,
    Trained,
    mean_as_text,
    row_as_json,
    stream_as_json,
    trained_as_json,
)
from video_dit.evaluation.speed import Memory, Stream, Timing

SETTINGS = {"latent_channels": 4, "latents_mean": [0.0] * 4}
ENTRY = Entry(
    Candidate("ours, x", "ours", "ours", VideoVAE, SETTINGS), Profile(2_500_000, 4, 8, (1, 4, 5, 8, 8), 9e3, 34e3), "x"
)
DECODE = Timing([0.5, 0.25, 1.0], True, Memory(300 * 2**20, 420 * 2**20))
ENCODE = Timing([30.0], False, Memory(300 * 2**20, 310 * 2**20))


def test_a_line_has_all_figures_under_their_headings() -> None:
    line = Row(ENTRY, DECODE, ENCODE, None).line()
    figures = ("2.50", "4x8x8 z4", "34.0", "9.0", "0.500 3 warm", "30.000 1 cold", "420 (120)", "310 (10)", "ours, x")
    places = [line.index(figure) for figure in figures]
    assert places == sorted(places)
    assert line.index("0.500") + 5 == HEADING.index("dec s") + 5
    assert line.index("34.0") + 4 == HEADING.index("kFLOP/px dec") + 12
    assert line.index("ours, x") == HEADING.index("autoencoder")


def test_one_that_failed_says_why() -> None:
    row = Row(ENTRY, None, None, "no memory")
    assert row.line().endswith("ours, x failed: no memory")
    assert row_as_json(row)["failed"] == "no memory"
    assert "decode_seconds" not in row_as_json(row)


def test_json_names_the_units() -> None:
    found = row_as_json(Row(ENTRY, DECODE, ENCODE, None))
    assert found["class"] == "VideoVAE"
    assert found["settings"] == {"latent_channels": 4}
    assert (found["decode_kflop_per_pixel"], found["encode_kflop_per_pixel"]) == (34.0, 9.0)
    assert (found["decode_seconds"], found["encode_seconds"]) == (0.5, 30.0)
    assert found["decode_peak_bytes"] - found["decode_bytes_before"] == 120 * 2**20
    assert (found["decode_after_a_warm_up"], found["encode_after_a_warm_up"]) == (True, False)
    stream = stream_as_json(5.0, Stream(121, 2.0, Memory(10, 30)))
    expected = {"clip_seconds": 5.0, "frames": 121, "decode_seconds": 2.0, "bytes_before": 10, "peak_bytes": 30}
    assert stream == expected
    assert stream_as_json(5.0, "no memory") == {"clip_seconds": 5.0, "failed": "no memory"}
    json.dumps([found, stream], allow_nan=False)


def test_training_has_its_mean_and_error() -> None:
    searched = [Trial(1.0, 0, 5, 9.0, -math.inf, {}), Trial(1e-3, 0, 100, 9.0, 24.0, {})]
    final = [Trial(1e-3, seed, 100, 9.0, 24.0, {"world": 20.0 + 2 * seed, "real": 18.0}) for seed in (0, 1)]
    trained = Trained(ENTRY, searched, final)
    assert trained.scores("world") == [20.0, 22.0]
    assert trained.line() == "    2.50   0.001     100      9  world 21.00 ± 1.00  real 18.00 ± 0.00  ours, x"
    found = trained_as_json(trained)
    assert found["learning_rate"] == 1e-3
    assert found["psnr_db"]["world"] == {"mean": 21.0, "standard_error": 1.0}
    assert [trial["held_psnr_db"] for trial in found["trials_of_each_rate"]] == [None, 24.0]
    assert [trial["seed"] for trial in found["trials_of_each_seed"]] == [0, 1]
    json.dumps(found, allow_nan=False)


def test_a_seed_that_diverged_is_told_and_ends_nothing() -> None:
    final = [Trial(1e-3, seed, 100, 9.0, -math.inf, {"world": score}) for seed, score in ((0, 20.0), (1, math.nan))]
    trained = Trained(ENTRY, [], final)
    assert trained.line().endswith("world nan  ours, x")
    found = trained_as_json(trained)
    assert found["psnr_db"]["world"] == {"mean": None, "standard_error": None}
    assert [trial["psnr_db"] for trial in found["trials_of_each_seed"]] == [{"world": 20.0}, {"world": None}]
    json.dumps(found, allow_nan=False)


def test_one_value_has_no_error() -> None:
    assert mean_as_text([20.0]) == "20.00"
