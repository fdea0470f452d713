"""What the judge of the world says of continued clips: where their objects are, and whether they stay what they are."""

from collections import Counter
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor

from data.world.judge import PART, Judge
from data.world.reading import Reading, read_clips
from data.world.scene import Scene, Truth
from data.world.score import centre_errors, true_owners
from data.world.words import family_of
from video_dit.evaluation.cuts import Cut
from video_dit.evaluation.measures import Judged

AFTER = 2.0  # seconds from the join
MOVING = ("slide", "orbit")  # motions that are asked about: along a line and around
KEPT_FRAMES = PART - 1  # given frames that the judge sees on each side: all parts after its first are made


def order_from_the_join(cut: Cut) -> list[int]:
    """Frames in the order in which the judge is to see them: some that are given first, so that it finds the objects
    there and follows them into what is made. Backward, time runs backward."""
    early, late = max(0, cut.start - KEPT_FRAMES), min(cut.num_frames, cut.stop + KEPT_FRAMES)
    if cut.direction == "backward":
        return list(range(late - 1, -1, -1))
    again = range(min(cut.start, KEPT_FRAMES)) if cut.direction == "loop" else ()
    return [*range(early, late), *again]


def judge_clips(judge: Judge, clips: Tensor, scene: Scene, cut: Cut, frame_rate: float) -> list[Judged]:
    """What the judge sees of whole continued clips ``(n, t, h, w, 3)`` of one scene, all cut alike."""
    order = order_from_the_join(cut)
    _, _, height, width, _ = clips.shape
    whole = scene.truth(cut.num_frames, frame_rate).at_aspect(width / height)
    truth = in_order(whole, order, cut)
    later = frame_after(cut, frame_rate)
    moved = None if later is None else moved_at(truth, order.index(later))
    far = cut.farthest(PART)
    alone: list[Reading | None] = [None] * len(clips)
    if cut.has_truth and cut.num_made >= PART:
        alone = [*read_clips(judge, clips[:, far])]
    return [
        Judged(
            position=position_error(reading, truth) if cut.has_truth else None,
            position_2s=None if moved is None else position_error(reading, moved),
            identity=kept(reading),
            colours=None if seen is None else same_colours(seen, whole, far.start),
        )
        for reading, seen in zip(read_clips(judge, clips[:, order]), alone, strict=True)
    ]


def in_order(truth: Truth, order: list[int], cut: Cut) -> Truth:
    """Where objects are in the picture in those frames; they count as visible only in made ones."""
    is_made = torch.tensor([cut.start <= number < cut.stop for number in order])
    objects = [
        replace(obj, centres=obj.centres[order], visible=obj.visible[order] & is_made)  # t 2, t
        for obj in truth.objects
    ]
    return replace(truth, objects=tuple(objects))


def frame_after(cut: Cut, frame_rate: float) -> int | None:
    """The made frame that is `AFTER` seconds from the given one at the join; None if there are two joins, or none is
    made so far away."""
    frames = round(AFTER * frame_rate)
    if len(cut.joins) != 1 or frames > cut.num_made:
        return None
    return cut.start - 1 + frames if cut.start else cut.stop - frames


def moved_at(truth: Truth, number: int) -> Truth:
    """The truth of which only objects of `MOVING` count, and those in one frame alone."""
    is_then = torch.arange(len(truth.objects[0].visible)) == number
    objects = [replace(obj, visible=obj.visible & is_then & (family_of(obj.motion) in MOVING)) for obj in truth.objects]
    return replace(truth, objects=tuple(objects))


def position_error(reading: Reading, truth: Truth) -> float | None:
    """Mean distance of the objects from where they truly are while that is visible, in widths of the picture; None if
    the judge found none of them in the first frame."""
    errors = centre_errors(reading, truth, true_owners(reading, truth))
    return mean(errors) if errors else None


def kept(reading: Reading) -> float | None:
    """1 if each object is, in most parts of the clip, of the shape and colour that it has in the first part, else 0;
    None if there is no object, or only one part."""
    found = [obj.identities for obj in reading.objects if len(obj.identities) > 1]
    return float(all(parts[0] == Counter(parts[1:]).most_common(1)[0][0] for parts in found)) if found else None


def same_colours(reading: Reading, truth: Truth, first: int) -> float:
    """1 if the judge sees, in frames that begin with frame ``first``, as many objects as are truly visible in it, and
    of their colours, else 0."""
    seen = Counter(obj.words["colour"] for obj in reading.objects)
    return float(seen == Counter(obj.colour for obj in truth.objects if bool(obj.visible[first])))
