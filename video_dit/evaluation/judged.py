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
from video_dit.evaluation.cuts import Cut

KEPT_FRAMES = PART - 1  # given frames that the judge sees on each side: all parts after its first are made


def order_from_the_join(cut: Cut) -> list[int]:
    """Frames in the order in which the judge is to see them: some that are given first, so that it finds the objects
    there and follows them into what is made. Backward, time runs backward."""
    early, late = max(0, cut.start - KEPT_FRAMES), min(cut.num_frames, cut.stop + KEPT_FRAMES)
    if cut.direction == "backward":
        return list(range(late - 1, -1, -1))
    again = range(min(cut.start, KEPT_FRAMES)) if cut.direction == "loop" else ()
    return [*range(early, late), *again]


def judge_clips(
    judge: Judge, clips: Tensor, scene: Scene, cut: Cut, frame_rate: float
) -> list[tuple[float | None, float | None]]:
    """Position and identity, as `video_dit.evaluation.measures.Figures` has them, of whole continued clips
    ``(n, t, h, w, 3)`` of one scene, all cut alike."""
    order = order_from_the_join(cut)
    _, _, height, width, _ = clips.shape
    truth = in_order(scene.truth(cut.num_frames, frame_rate).at_aspect(width / height), order, cut)
    readings = read_clips(judge, clips[:, order])
    return [(position_error(reading, truth) if cut.has_truth else None, kept(reading)) for reading in readings]


def in_order(truth: Truth, order: list[int], cut: Cut) -> Truth:
    """Where objects are in the picture in those frames; they count as visible only in made ones."""
    is_made = torch.tensor([cut.start <= number < cut.stop for number in order])
    objects = [
        replace(obj, centres=obj.centres[order], visible=obj.visible[order] & is_made)  # t 2, t
        for obj in truth.objects
    ]
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
