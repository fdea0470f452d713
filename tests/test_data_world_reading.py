"""Readings: points found on maps, words for any size and duration, and what the shipped judge says of true clips."""

from pathlib import Path

import pytest
import torch
from torch import nn

from data.world import sample_scene
from data.world.judge import FILE, WINDOW, Judge
from data.world.labels import OBJECT_WORDS, SCENE_WORDS
from data.world.reading import MOST_FOUND, find_points, read_clips
from data.world.scene import Scene
from data.world.score import centre_errors, judge_agreements, shares, true_owners
from vae3d import LatentCodec
from video_dit.evaluation.world import through_codec

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "judge"


@pytest.fixture(scope="module")
def shipped() -> Judge:
    return Judge.load(SHIPPED)


def test_peaks_are_found_between_the_cells() -> None:
    h, w = 24, 40
    # none on the border between two cells, where both would be peaks
    true = torch.tensor([[0.21, 0.3], [0.71, 0.52], [0.91, 0.85]])
    y, x = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
    away = ((x[None, None] - true[:, :1, None]) * w) ** 2 + ((y[None, :, None] - true[:, 1:, None]) * h) ** 2
    chance = (0.9 * torch.exp(-away / 3.0)).amax(0).clamp(min=1e-4)
    places, is_object = find_points(chance.logit()[None].repeat(2, 1, 1))
    assert places.shape == (2, MOST_FOUND, 2) and is_object.sum(1).tolist() == [3, 3]
    distance = torch.cdist(true, places[0][is_object[0]])
    assert distance.min(1).values.max() < 0.4 / w


def test_an_empty_map_has_no_object() -> None:
    assert not find_points(torch.full((1, 16, 16), -5.0))[1].any()


@pytest.mark.parametrize(("t", "h", "w"), [(2, 64, 64), (9, 30, 50), (33, 96, 96), (50, 48, 80)])
def test_clips_of_any_size_and_duration(shipped: Judge, t: int, h: int, w: int) -> None:
    scenes = [sample_scene("val", seed) for seed in (0, 1)]
    for reading in read_clips(shipped, torch.stack([scene.render(t, h, w, 8.0) for scene in scenes])):
        assert reading.words.keys() == SCENE_WORDS.keys()
        for obj in reading.objects:
            assert all(obj.words[name] in words for name, words in OBJECT_WORDS.items())
            assert obj.centres.shape == (t, 2) and obj.depths.shape == (t,) and (obj.depths > 0).all()
            assert len(obj.identities) == {2: 1, 9: 1, 33: 2, 50: 4}[t]


def test_one_frame_is_too_few(shipped: Judge) -> None:
    with pytest.raises(ValueError, match="num_frames=1"):
        read_clips(shipped, torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8))


def test_the_shipped_judge_keeps_to_its_size() -> None:
    assert (SHIPPED / FILE).stat().st_size <= 4_000_000


def test_a_clip_in_which_nothing_is_found() -> None:
    judge = Judge(width=16, deep_width=32, depth=1).eval()
    nn.init.constant_(judge.point_logits.bias, -20.0)  # type: ignore[arg-type]
    (reading,) = read_clips(judge, torch.zeros(1, 50, 32, 32, 3, dtype=torch.uint8))
    assert reading.objects == () and reading.features.isfinite().all()


@pytest.fixture(scope="module")
def unseen() -> list[Scene]:
    return [sample_scene("test", seed) for seed in range(500, 532)]


# A few points below what was measured on more clips (checkpoints/judge/README.md).
@pytest.mark.parametrize(
    ("size", "decoded", "least"),
    [
        ((64, 64), False, {"colour": 0.96, "count": 0.93, "shape": 0.92, "motion": 0.93, "camera": 0.95}),
        ((64, 64), True, {"colour": 0.95, "count": 0.90, "shape": 0.90, "motion": 0.92, "camera": 0.93}),
        ((48, 80), True, {"colour": 0.93, "count": 0.87, "shape": 0.87, "motion": 0.87, "camera": 0.93}),
    ],
    ids=["as rendered", "through the autoencoder", "wide, through the autoencoder"],
)
def test_the_shipped_judge_is_right_about_unseen_clips(
    size: tuple[int, int],
    decoded: bool,
    least: dict[str, float],
    shipped: Judge,
    unseen: list[Scene],
) -> None:
    clips = torch.stack([scene.render(WINDOW, *size, 8.0) for scene in unseen])
    if decoded:
        codec = LatentCodec.from_pretrained(SHIPPED.parent / "sora-tiny")
        clips = through_codec(codec, clips)
    agreements, errors = judge_agreements(read_clips(shipped, clips), unseen, WINDOW, 8.0, size[1] / size[0])
    right = shares(agreements)
    assert not {name: right[name].value for name, bound in least.items() if right[name].value < bound}
    assert sum(errors) / len(errors) < 0.018


def test_objects_are_followed_past_a_window(shipped: Judge) -> None:
    """Ten seconds of a slide across the picture, from window to window."""
    scene = next(
        s
        for s in map(sample_scene, ["val"] * 500, range(500))
        if len(s.objects) == 1 and s.objects[0].motion == "slide right" and s.camera.motion == "still"
    )
    (reading,) = read_clips(shipped, scene.render(81, 64, 64, 8.0)[None])
    truth = scene.truth(81, 8.0)
    (error,) = centre_errors(reading, truth, true_owners(reading, truth))
    moved = float(truth.objects[0].centres[-1, 0] - truth.objects[0].centres[0, 0])
    assert error < 0.06 < 0.2 < moved
