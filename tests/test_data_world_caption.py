"""The vocabulary, the held-out triples, and captions: each statement is re-derived from the truth."""

import hashlib
from dataclasses import replace
from itertools import product

import pytest

from data.world import is_held_out, sample_scene
from data.world.caption import CAPTION_STYLES, COLOURS, MOTIONS, SHAPES
from data.world.scene import ObjectTruth, Scene, Truth

SCENES = [sample_scene("all", seed) for seed in range(60)]


def stated_motion_is_true(words: str, obj: ObjectTruth, truth: Truth) -> bool:
    """Whether what a clause says about a motion follows from the positions alone."""
    step = obj.positions[8] - obj.positions[0]
    right, _, forward = truth.camera_axes[0]
    sideways, away = float(step @ right), float(step @ forward)
    heights = obj.positions[:, 2]
    level = float(heights.max() - heights.min()) < 1e-4
    if words.startswith(("slides", "rolls")):
        straight = (obj.positions.diff(dim=0) - step / 8).abs().max() < 1e-4
        toward = {
            "to the left": sideways < -0.1,
            "to the right": sideways > 0.1,
            "towards the camera": away < -0.1,
            "away from the camera": away > 0.1,
        }
        _, _, where = words.partition(" ")
        return bool(straight) and level and (not where or toward[where])
    if words == "bounces on the ground":
        return float(heights.max() - heights.min()) > 0.3
    around = obj.positions[:, :2] - (obj.positions[:, :2].amax(0) + obj.positions[:, :2].amin(0)) / 2
    turning = float((around[:-1, 0] * around[1:, 1] - around[:-1, 1] * around[1:, 0]).sum())
    senses = {
        "moves clockwise in a circle": turning < -0.5,
        "moves counterclockwise in a circle": turning > 0.5,
        "moves in a circle": abs(turning) > 0.5,
    }
    return level and senses[words]


def stated_camera_is_true(clause: str, truth: Truth) -> bool:
    step = truth.camera_positions[8] - truth.camera_positions[0]
    sideways, forward = float(step @ truth.camera_axes[0, 0]), float(step @ truth.camera_axes[0, 2])
    return {
        "the camera is still": float(step.norm()) == 0.0,
        "the camera orbits slowly": abs(sideways) > 0.3,
        "the camera orbits slowly to the left": sideways < -0.3,
        "the camera orbits slowly to the right": sideways > 0.3,
        "the camera zooms in slowly": forward > 0.1,
        "the camera zooms out slowly": forward < -0.1,
    }[clause]


def parse(clause: str) -> tuple[str, str, str, str]:
    """Size ("" if not told), colour, shape and motion of an object's clause."""
    article, *words = clause.split(" ")
    assert article == "a"
    size = words.pop(0) if words[0] in ("small", "large") else ""
    return size, words[0], words[1], " ".join(words[2:])


@pytest.mark.parametrize("style", CAPTION_STYLES)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"seed{scene.seed}")
def test_captions_are_true(scene: Scene, style: str) -> None:
    truth = scene.truth(81, 8.0)  # 10 s: a whole turn of every orbit
    caption = scene.caption(style)
    assert caption == caption.lower() and not caption.endswith(".")
    clauses = caption.split(", ")
    if clauses[-1].startswith("the camera"):
        assert stated_camera_is_true(clauses.pop(), truth)
    assert len(clauses) == len(truth.objects)
    for clause, obj in zip(clauses, truth.objects, strict=True):
        size, colour, shape, motion = parse(clause)
        assert (colour, shape) == (obj.colour, obj.shape) and size in ("", obj.size)
        assert stated_motion_is_true(motion, obj, truth), clause


def test_exhaustive_captions_tell_scenes_apart() -> None:
    told: dict[str, tuple[object, ...]] = {}
    for scene in SCENES:
        factors = (
            scene.camera.motion,
            *((o.size, o.colour, o.shape, o.motion, o.direction) for o in scene.objects),
        )
        assert told.setdefault(scene.caption(), factors) == factors


def test_short_captions_leave_things_out_and_cover_the_command_in_the_readme() -> None:
    assert all(len(scene.caption("short")) <= len(scene.caption()) for scene in SCENES)
    assert sum(len(scene.caption("short")) < len(scene.caption()) for scene in SCENES) > len(SCENES) // 3
    scene = next(s for s in SCENES if s.camera.motion == "orbit left" and s.objects[0].motion == "bounce")
    obj = replace(scene.objects[0], shape="sphere", colour="red")
    captions = {replace(scene, objects=(obj,), seed=seed).caption("short") for seed in range(50)}
    assert "a red sphere bounces on the ground, the camera orbits slowly" in captions


def test_another_style_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"style='poem'.*exhaustive, short"):
        SCENES[0].caption("poem")


def test_about_a_tenth_is_held_out_and_every_word_is_still_seen() -> None:
    triples = list(product(SHAPES, COLOURS, MOTIONS))
    assert len(set(triples)) == 5 * 7 * 15
    kept = [triple for triple in triples if not is_held_out(*triple)]
    assert 0.08 < 1 - len(kept) / len(triples) < 0.13
    for column in (0, 1, 2):
        assert {triple[column] for triple in kept} == set((SHAPES, COLOURS, MOTIONS)[column])


def test_the_held_out_triples_never_change() -> None:
    held_out = [triple for triple in product(SHAPES, COLOURS, MOTIONS) if is_held_out(*triple)]
    digest = hashlib.sha256(repr(held_out).encode()).hexdigest()
    assert digest == "dc300fcc02ac6345ab3077709c640ae483fd90939aa7f8195b9d773179edb232", (
        "released weights were trained on the old split"
    )


@pytest.mark.parametrize(
    ("triple", "name"),
    [
        (("ball", "red", "roll"), "shape"),
        (("cube", "pink", "roll"), "colour"),
        (("cube", "red", "fly"), "motion"),
    ],
)
def test_a_word_outside_the_vocabulary_is_one_clear_line(triple: tuple[str, str, str], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=.*use one of"):
        is_held_out(*triple)
