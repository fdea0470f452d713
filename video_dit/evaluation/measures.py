"""How good a continued clip is: pure functions of uint8 frames ``(t, h, w, 3)`` in order of time.

Black clips and ones that stand still have figures as well: what is below `vae3d.metrics.SEEN` counts as that.
"""

from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from data.transforms import to_float
from vae3d.metrics import SEEN, psnr
from video_dit.evaluation.cuts import Cut

SIDE = 16  # pixels of the pictures in which repetition is looked for
DRIFT_SECONDS = 10.0


@dataclass(frozen=True)
class Expected:
    """What true frames give, beside which figures of made ones are read. seam: of the clip that is all through the
    codec. joined_seam: of what is given as it is, joined to the rest through the codec. motion: the mean step of the
    rest through the codec. repetition: see there."""

    seam: float
    joined_seam: float
    motion: float
    repetition: float


def expected_of_truth(truth: Tensor, decoded: Tensor, cut: Cut, frame_rate: float) -> Expected:
    """Of the true clip and of the same through the codec, both whole. Of a loop, whose end the truth does not have, the
    truth that goes on from what is given: its one join counts."""
    forward = Cut("forward", cut.num_frames, cut.start, cut.stop) if cut.direction == "loop" else cut
    joined = truth.clone()
    joined[cut.made] = decoded[cut.made]
    motion = float(steps(decoded[cut.made]).mean())
    return Expected(seam(decoded, forward), seam(joined, forward), motion, repetition(truth, cut.made, frame_rate))


def expected_of_given(given: Tensor, decoded: Tensor, frame_rate: float) -> Expected:
    """Of given frames ``(t, h, w, 3)``, t >= 4, and of the same through the codec, where the truth is not known: what
    follows is taken to move and to repeat itself as they do. Seams are those in their middle."""
    middle = len(given) // 2
    cut = Cut("forward", len(given), middle, len(given))
    repeated = repetition(given, slice(0, len(given)), frame_rate)
    return replace(expected_of_truth(given, decoded, cut, frame_rate), repetition=repeated)


@dataclass(frozen=True)
class Judged:
    """What the judge sees of a continuation; None where it cannot tell.

    position: distance of the objects from where they truly are, in widths of the picture. position_2s: that of objects
        that slide or orbit, 2 s from what is given on its one side.
    identity: 1 where all objects keep shape and colour beyond the join, else 0. colours: 1 where those made frames that
        are farthest from what is given, seen by themselves, show as many objects as they should, in their colours,
        else 0.
    """

    position: float | None = None
    position_2s: float | None = None
    identity: float | None = None
    colours: float | None = None


UNJUDGED = Judged()


@dataclass(frozen=True)
class Figures:
    """How good a continuation is; None where it cannot be told.

    psnr: of the made frames to the truth, dB; 100 at most.
    seam: the step across the join over the median of those between given frames, the mean over joins, over the same of
        the true clip through the codec. What is given keeps all detail, and no codec does: the truth itself, its new
        frames through the codec, has more than 1.
    seam_to_codec: as ``seam``, but over what that clip has; 1 is no seam but the codec's. What stands still has none.
    motion: mean step between made frames over that of the same frames of the truth through the codec; next to 0 stands
        still, and flicker counts as well.
    colour_shift: of the made frames' mean colour to that of the truth, in [0, 1].
    colour_drift: see `colour_drift`, percent of the range in 10 s.
    position, position_2s, identity, colours: see `Judged`.
    repetition: see `repetition`; less that of the truth.
    """

    psnr: float | None
    seam: float
    seam_to_codec: float
    motion: float
    colour_shift: float | None
    colour_drift: float
    position: float | None
    position_2s: float | None
    identity: float | None
    colours: float | None
    repetition: float


def measure(
    clip: Tensor,
    truth: Tensor | None,
    expected: Expected,
    cut: Cut,
    frame_rate: float,
    judged: Judged = UNJUDGED,
) -> Figures:
    """Figures of a whole continued clip.

    Args:
        truth: the whole true clip, or None where it is not known.
        expected: of the truth, or of the given frames.
        judged: what the judge says.
    """
    made, wanted = clip[cut.made], None if truth is None else truth[cut.made]
    return Figures(
        psnr=None if wanted is None else float(psnr(to_float(made)[None], to_float(wanted)[None])),
        seam=seam(clip, cut) / expected.seam,
        seam_to_codec=seam(clip, cut) / expected.joined_seam,
        motion=max(float(steps(made).mean()), SEEN) / max(expected.motion, SEEN),
        colour_shift=None if wanted is None else colour_difference(made, wanted),
        colour_drift=colour_drift(clip, truth, cut, frame_rate),
        repetition=repetition(clip, cut.made, frame_rate) - expected.repetition,
        **asdict(judged),
    )


def steps(frames: Tensor) -> Tensor:
    """Mean absolute difference of each frame to the next ``(t - 1,)``, for pixels in [-1, 1]."""
    return to_float(frames).diff(dim=1).abs().mean(dim=(0, 2, 3))


def seam(frames: Tensor, cut: Cut) -> float:
    """The step across the join over the median of the steps between given frames, the mean over joins; all count as
    what can be seen at least, so that a still clip has 1."""
    across = torch.cat([steps(frames[list(join)]) for join in cut.joins]).clamp_min(SEEN)
    between_given = torch.cat([steps(frames[run]) for run in cut.given]).clamp_min(SEEN)
    return float(across.mean() / between_given.quantile(0.5))


def mean_colour(frames: Tensor) -> Tensor:
    """``(3,)`` in [0, 1]."""
    return frames.float().mean(dim=(0, 1, 2)) / 255


def colour_difference(frames: Tensor, other: Tensor) -> float:
    """Absolute difference of the mean colours of two clips, the mean over channels, in [0, 1]."""
    return float((mean_colour(frames) - mean_colour(other)).abs().mean())


def colour_drift(clip: Tensor, truth: Tensor | None, cut: Cut, frame_rate: float) -> float:
    """How far the mean colour goes astray in 10 s: percent of the range, the mean over channels.

    Where it has gone farthest, in the second of `Cut.farthest`, it is compared to the truth of the same second; where
    that is not known, to the second of given frames at each join. The difference is divided by the time that has been
    made up to there, so a short clip's error, not all of which is drift, weighs more.
    """
    far = cut.farthest(max(1, round(frame_rate)))
    second = far.stop - far.start
    if truth is not None:
        wanted = truth[far]
    else:
        near = [clip[max(0, a + 1 - second) : a + 1] for a, b in cut.joins if b == cut.start]
        near += [clip[b : b + second] for a, b in cut.joins if a == cut.stop - 1]
        wanted = torch.cat(near)
    elapsed = cut.num_made / frame_rate / len(cut.joins)
    return 100 * colour_difference(clip[far], wanted) * DRIFT_SECONDS / elapsed


def repetition(frames: Tensor, made: slice, frame_rate: float) -> float:
    """How much a clip does again what it did before: the highest correlation, in [0, 1], of its changes from frame to
    frame with those of some other time, more than half a second away.

    A lag counts if it lays a second or more of changes over others and one of each pair is ``made``. What stands still
    repeats nothing. Whatever goes to and fro repeats in truth too.
    """
    pixels = rearrange(to_float(frames), "c t h w -> t c h w")
    changes = F.adaptive_avg_pool2d(pixels, SIDE).diff(dim=0).flatten(1)  # t-1 d
    number = torch.arange(len(changes))
    is_made = (number + 1 >= made.start) & (number < made.stop)
    products = changes @ changes.T  # t-1 t-1
    energy, floor = products.diagonal(), SEEN**2 * changes.shape[1]
    best, second = 0.0, max(2, round(frame_rate))
    for lag in range(max(1, round(frame_rate / 2)) + 1, len(changes) - second + 1):
        one = is_made[:-lag] | is_made[lag:]
        count = int(one.sum())
        if count < second:
            continue
        sizes = energy[:-lag][one].sum().clamp_min(floor * count) * energy[lag:][one].sum().clamp_min(floor * count)
        best = max(best, float(products.diagonal(lag)[one].sum() / sizes.sqrt()))
    return best
