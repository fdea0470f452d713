"""Which tokens are known, and how noisy each is."""

from collections import Counter

import pytest
import torch

from video_dit.context import (
    CONTEXT_LEVEL_MAX,
    ContextConfig,
    Pattern,
    draw_known,
    draw_pattern,
    known_keyframe_level,
)
from video_dit.noise import NoiseConfig

GRID = 5, 2, 3
KNOWN_KINDS = {"prefix", "suffix", "ends", "frames", "tubes"}


def draw(count: int, grid: tuple[int, int, int] = GRID, config: ContextConfig | None = None) -> list[Pattern]:
    generator = torch.Generator().manual_seed(0)
    config = config or ContextConfig()
    return [draw_pattern(grid, config, NoiseConfig(), 2.0, generator) for _ in range(count)]


def test_shares_are_as_configured() -> None:
    patterns = draw(2000)
    count = Counter("known" if p.kind in KNOWN_KINDS else p.kind for p in patterns)
    assert count["known"] / 2000 == pytest.approx(0.45, abs=0.035)
    assert count["per frame"] / 2000 == pytest.approx(0.15, abs=0.025)
    assert count["one level"] / 2000 == pytest.approx(0.40, abs=0.035)
    null = [p for p in patterns if p.kind in KNOWN_KINDS and (p.levels[~p.made] == 1).all()]
    assert len(null) / 2000 == pytest.approx(0.05, abs=0.015)
    kinds = Counter(p.kind for p in patterns if p.kind in KNOWN_KINDS)
    assert kinds.keys() == KNOWN_KINDS
    for kind, share in (
        ("prefix", 0.34),
        ("suffix", 0.2975),
        ("ends", 0.085),
        ("frames", 0.1275),
        ("tubes", 0.15),
    ):
        assert kinds[kind] / kinds.total() == pytest.approx(share, abs=0.06), kind


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (ContextConfig(1.0, 0.0, 0.0), KNOWN_KINDS),
        (ContextConfig(0.0, 1.0, 0.0), {"per frame"}),
        (ContextConfig(0.0, 0.0, 0.0), {"one level"}),
        (ContextConfig(0.0, 0.0, 1.0), KNOWN_KINDS),
    ],
)
def test_one_share_alone(config: ContextConfig, kinds: set[str]) -> None:
    assert {p.kind for p in draw(200, config=config)} == kinds


def test_a_known_side_is_neither_empty_nor_everything_and_bears_no_loss() -> None:
    for p in draw(1000):
        assert p.levels.shape == p.made.shape == GRID
        assert p.levels.min() >= 0
        assert p.levels.max() <= 1
        if p.kind not in KNOWN_KINDS:
            assert p.made.all()
            continue
        assert p.made.any()
        assert not p.made.all()
        made, known = p.levels[p.made].unique(), p.levels[~p.made].unique()
        assert len(made) == len(known) == 1  # two levels
        assert known <= made or known <= CONTEXT_LEVEL_MAX or known == 1


def test_half_of_the_known_sides_are_nearly_clean() -> None:
    patterns = draw(2000, config=ContextConfig(1.0, 0.0, 0.0))
    known = torch.stack([p.levels[~p.made][0] for p in patterns])
    made = torch.stack([p.levels[p.made][0] for p in patterns])
    expected = 0.5 + 0.5 * (CONTEXT_LEVEL_MAX / made).clamp_max(1).mean()  # the other half: uniform below made
    assert float((known <= CONTEXT_LEVEL_MAX).float().mean()) == pytest.approx(float(expected), abs=0.04)
    assert (known > 0.3).any()


def test_levels_of_the_other_patterns() -> None:
    for p in draw(300, config=ContextConfig(0.0, 0.5, 0.0)):
        frames = p.levels.flatten(1)
        assert torch.equal(frames, frames[:, :1].expand_as(frames))
        assert len(p.levels.unique()) == (1 if p.kind == "one level" else GRID[0])


def test_places_of_the_known_sides() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        known, kind = draw_known(GRID, generator)
        flat = known.flatten(1)
        whole, touched = flat.all(dim=1), flat.any(dim=1)
        if kind == "tubes":
            assert torch.equal(known, known[:1].expand(GRID))  # the same through all time
            one = known[0] if known[0].sum() <= (~known[0]).sum() else ~known[0]
            assert one.any()
            continue
        assert torch.equal(whole, touched)  # whole latent frames
        steps = whole.int().diff().tolist()
        if kind == "prefix":
            assert whole[0]
            assert sorted(steps) == [-1, 0, 0, 0]
        elif kind == "suffix":
            assert whole[-1]
            assert sorted(steps) == [0, 0, 0, 1]
        elif kind == "ends":
            assert whole[0]
            assert whole[-1]
            assert [s for s in steps if s] == [-1, 1]


def test_known_suffix_counts_the_known_latent_frames_of_a_suffix() -> None:
    suffixes = 0
    for p in draw(500, config=ContextConfig(1.0, 0.0, 0.0)):
        if p.kind == "suffix":
            suffixes += 1
            assert 0 < p.known_suffix < GRID[0]
            assert not p.made[-p.known_suffix :].any()
            assert p.made[: -p.known_suffix].all()
        else:
            assert p.known_suffix == 0
    assert suffixes > 50


@pytest.mark.parametrize("grid", [(1, 2, 3), (1, 1, 4), (1, 4, 1), (1, 1, 1), (2, 1, 1), (5, 1, 1), (2, 2, 2)])
def test_small_grids(grid: tuple[int, int, int]) -> None:
    for p in draw(300, grid, ContextConfig(0.8, 0.1, 0.1)):
        assert p.levels.shape == p.made.shape == grid
        assert p.made.any()
        if p.kind == "tubes" and grid[1:] == (1, 1):
            assert p.made.all()  # one token has no part to know
        elif p.kind in KNOWN_KINDS:
            assert not p.made.all()
        if grid[0] == 1 and p.kind != "per frame":
            assert p.kind == "tubes"


def test_keyframes_are_nearly_clean() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.cat([known_keyframe_level(generator) for _ in range(200)])
    assert levels.min() >= 0
    assert 0.09 < levels.max() <= CONTEXT_LEVEL_MAX


def test_the_generator_decides_alone() -> None:
    first, again = draw(20), draw(20)
    for a, b in zip(first, again, strict=True):
        assert a.kind == b.kind
        assert torch.equal(a.levels, b.levels)
        assert torch.equal(a.made, b.made)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"two_levels": -0.1}, r"context.two_levels=-0.1 must be in \[0, 1\]"),
        ({"text_dropout": 1.1}, r"context.text_dropout=1.1 must be in \[0, 1\]"),
        ({"cold_suffix": float("nan")}, r"context.cold_suffix=nan must be in \[0, 1\]"),
        ({"two_levels": 0.9}, r"two_levels \+ per_frame \+ null_context = 1.1 must be at most 1"),
    ],
)
def test_settings_out_of_range_are_named(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextConfig(**option)
