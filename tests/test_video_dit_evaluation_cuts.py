"""Cuts: what is given and what is made, for each direction."""

import pytest
import torch

from video_dit.evaluation.cuts import DIRECTIONS, Cut, assembled, boundary_repeated, cut_clip, given_of, sides

each = pytest.mark.parametrize("direction", DIRECTIONS)


def numbered(num_frames: int) -> torch.Tensor:
    """Frames of which each shows its number, uint8 ``(t, 2, 2, 3)``."""
    return torch.arange(num_frames, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)


@pytest.mark.parametrize(
    ("direction", "total", "known", "frames", "start", "stop"),
    [
        ("forward", 9, 4, 33, 13, 33),
        ("backward", 9, 4, 33, 0, 16),
        ("forward", 9, 2, 33, 5, 33),
        ("backward", 9, 7, 33, 0, 4),
        ("connect", 9, 4, 33, 5, 24),
        ("loop", 9, 4, 32, 13, 32),
        ("forward", 36, 4, 141, 13, 141),
        ("connect", 36, 5, 141, 9, 132),
    ],
)
def test_what_is_given_of_a_clip(direction: str, total: int, known: int, frames: int, start: int, stop: int) -> None:
    assert cut_clip(direction, total, known, 4) == Cut(direction, frames, start, stop)


@each
@pytest.mark.parametrize("known", [2, 3, 4, 7])
def test_the_pipeline_can_make_just_that_many_frames(direction: str, known: int) -> None:
    """Beside a clip, whole groups of 4; between two, one frame less, since the last is the first of the second."""
    cut = cut_clip(direction, 18, known, 4)
    between = direction in ("connect", "loop")
    assert (cut.num_made + between) % 4 == 0 and cut.num_made > 0
    before, after = sides(known)
    if direction in ("forward", "connect"):
        assert cut.start == 1 + 4 * ((before if between else known) - 1) >= 5
    if direction in ("backward", "connect"):
        assert cut.num_frames - cut.stop == 1 + 4 * (after if between else known)
    if direction == "loop":
        assert cut.start >= 1 + 4 * after


@each
def test_given_and_made_frames_are_the_clip(direction: str) -> None:
    cut = cut_clip(direction, 9, 4, 4)
    frames = numbered(cut.num_frames)
    order = [number for run in (*cut.given, cut.made) for number in range(cut.num_frames)[run]]
    assert sorted(order) == list(range(cut.num_frames)) and cut.num_given + cut.num_made == cut.num_frames
    assert torch.equal(assembled(given_of(frames, cut), frames[cut.made], cut), frames)
    is_made = [number in range(cut.start, cut.stop) for number in range(cut.num_frames)]
    assert len(cut.joins) == (2 if direction in ("connect", "loop") else 1)
    for one, other in cut.joins:
        assert is_made[one] != is_made[other] and (one + 1) % cut.num_frames == other


@each
def test_a_clip_with_another_gap_gives_its_ends(direction: str) -> None:
    cut = cut_clip(direction, 9, 4, 4)
    given = given_of(numbered(cut.num_given + 1), cut)
    if given.before is not None:
        assert given.before[:, 0, 0, 0].tolist() == list(range(len(given.before)))
    if given.after is not None and direction != "loop":
        assert int(given.after[-1, 0, 0, 0]) == cut.num_given
    assert sum(len(part) for part in (given.before, given.after) if part is not None) == cut.num_given * (
        2 if direction == "loop" else 1
    )


@each
def test_of_a_longer_clip_the_frames_next_to_the_made_ones_are_given(direction: str) -> None:
    cut = cut_clip(direction, 9, 4, 4)
    frames = numbered(cut.num_frames + 20)
    assert torch.equal(assembled(given_of(frames, cut), frames[cut.made], cut), frames[: cut.num_frames])


@each
def test_a_still_is_of_the_nearest_given_frame(direction: str) -> None:
    cut = cut_clip(direction, 9, 4, 4)
    clip = boundary_repeated(given_of(numbered(cut.num_frames), cut), cut)[:, 0, 0, 0].tolist()
    first, last = clip[cut.start], clip[cut.stop - 1]
    assert set(clip[cut.made]) == {first, last}
    for one, other in cut.joins:
        assert clip[one] == clip[other] or (direction == "loop" and other == 0)
    if direction == "loop":
        assert last == 0
