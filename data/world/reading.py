"""What the judge reads off clips, in the world's words."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from data.transforms import resize_area, to_float
from data.world.judge import PART, PIXELS, WINDOW, Found, Judge
from data.world.labels import OBJECT_WORDS, SCENE_WORDS

MOST_FOUND = 6  # objects looked for: more than the world has, so that too many are seen as such
THRESHOLD = 0.4  # how likely a point must be an object's centre


@dataclass(frozen=True)
class ObjectReading:
    """One object as the judge sees it.

    words: for each name of `OBJECT_WORDS`, one of its words. centres: (t, 2) in [0, 1] of the picture. depths: (t,)
    units ahead of the camera. identities: shape and colour as told from parts of `PART` frames alone, from the first
    to the last.
    """

    words: Mapping[str, str]
    centres: Tensor
    depths: Tensor
    identities: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """A clip as the judge sees it.

    words: for each name of `SCENE_WORDS`, one of its words. features: (2d,), of the view and of the mean object.
    """

    objects: tuple[ObjectReading, ...]
    words: Mapping[str, str]
    features: Tensor


@torch.no_grad()
def read_clips(judge: Judge, frames: Tensor) -> list[Reading]:
    """Read uint8 frames (b, t, h, w, 3) at `data.world.judge.FRAME_RATE` frames a second, of any size and duration.

    Words are read off the first `WINDOW` frames; objects are followed to the end, window after window, each
    starting where the one before ended. Raises ValueError for fewer than 2 frames.
    """
    if frames.shape[1] < 2:
        raise ValueError(f"num_frames={frames.shape[1]} is too few to judge a motion: use 2 or more, such as {WINDOW}")
    pixels = _prepared(frames).to(next(judge.parameters()).device)
    total = pixels.shape[2]
    windows: list[Found] = []
    for first in range(0, total - 1, WINDOW - 1):
        part = pixels[:, :, first : first + WINDOW]
        clip = judge.encode(part)
        if not windows:
            places, is_object = find_points(clip.points)
        else:
            places = windows[-1].centres[:, :, -1].clamp(0.0, 1.0)
        windows.append(judge(clip, places, is_object, part.shape[2]))
    centres = torch.cat([w.centres[:, :, min(i, 1) :] for i, w in enumerate(windows)], dim=2)
    depths = torch.cat([w.depths[:, :, min(i, 1) :] for i, w in enumerate(windows)], dim=2).exp()
    parts = []
    for first in dict.fromkeys((*range(0, total - PART + 1, PART - 1), max(0, total - PART))):
        part = pixels[:, :, first : first + PART]
        starts = centres[:, :, first].clamp(0.0, 1.0)
        parts.append(judge(judge.encode(part), starts, is_object, part.shape[2]))
    chosen = {name: logits.argmax(-1).tolist() for name, logits in windows[0].objects.items()}
    setting = {name: logits.argmax(-1).tolist() for name, logits in windows[0].scene.items()}
    told = [[part.objects[name].argmax(-1).tolist() for name in ("shape", "colour")] for part in parts]
    shapes, colours = OBJECT_WORDS["shape"], OBJECT_WORDS["colour"]
    features = windows[0].features.cpu()  # b (k + 1) d
    readings = []
    for i in range(len(frames)):
        own = features[i, :-1][is_object[i].cpu()]
        described = torch.cat((features[i, -1], own.mean(0) if len(own) else torch.zeros_like(features[i, -1])))
        objects = tuple(
            ObjectReading(
                {name: words[chosen[name][i][j]] for name, words in OBJECT_WORDS.items()},
                centres[i, j].cpu(),
                depths[i, j].cpu(),
                tuple((shapes[shape[i][j]], colours[colour[i][j]]) for shape, colour in told),
            )
            for j in torch.nonzero(is_object[i]).flatten().tolist()
        )
        words = {name: words[setting[name][i]] for name, words in SCENE_WORDS.items()}
        readings.append(Reading(objects, words, described))
    return readings


def _prepared(frames: Tensor) -> Tensor:
    """Frames resized to about `PIXELS` pixels, sides a multiple of 8: (b, 3, t, h, w) in [-1, 1]."""
    b, _, h, w, _ = frames.shape
    scale = (PIXELS / (h * w)) ** 0.5
    height, width = (max(16, round(side * scale / 8) * 8) for side in (h, w))
    resized = resize_area(rearrange(frames, "b t h w c -> (b t) h w c"), height, width)
    return to_float(rearrange(resized, "(b t) h w c -> b t h w c", b=b))


def find_points(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks of a map (b, h, w): places (b, k, 2), x and y in [0, 1], and which of the k = `MOST_FOUND` count (b, k)."""
    chance = logits.sigmoid()
    b, h, w = chance.shape
    peak = (chance == F.max_pool2d(chance, 3, 1, 1)) & (chance > THRESHOLD)
    best, index = torch.where(peak, chance, 0.0).flatten(1).topk(MOST_FOUND)
    row, column = index // w, index % w
    around = F.pad(chance, (1, 1, 1, 1))
    clip = torch.arange(b, device=logits.device).unsqueeze(1)
    total, x, y = torch.zeros_like(best), torch.zeros_like(best), torch.zeros_like(best)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            weight = around[clip, row + 1 + i, column + 1 + j] + 1e-6
            total, x, y = total + weight, x + j * weight, y + i * weight
    places = torch.stack(((column + 0.5 + x / total) / w, (row + 0.5 + y / total) / h), dim=-1)
    return places, best > 0.0
