"""How far what the judge reads off clips agrees with what prompts say, or with the truth."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from data.world.caption import Relation
from data.world.judge import WINDOW
from data.world.labels import parted_motion
from data.world.prompt import ObjectWords, Prompt
from data.world.reading import MOST_FOUND, ObjectReading, Reading
from data.world.scene import Scene, Truth
from data.world.words import family_of

ATTRIBUTES = (
    "count",
    "colour",
    "shape",
    "size",
    "material",
    "motion",
    "direction",
    "relations",
    "camera",
    "ground",
    "time of day",
)
FARTHEST = 0.15  # of the picture: an object found is a true one only if its centre is no farther from it
OTHERS = 16

Agreement = Mapping[str, Sequence[bool]]
"""For each of `ATTRIBUTES` that a prompt states, whether each of its statements holds; and "all", whether all do."""


@dataclass(frozen=True)
class Share:
    """How many of the statements asked for are right.

    spread: how much wider the share varies than if each statement were a draw of its own; those about one clip are
    often right or wrong together.
    """

    right: int
    asked: int
    spread: float = 1.0

    @property
    def value(self) -> float:
        """In [0, 1]; NaN if nothing was asked."""
        return self.right / self.asked if self.asked else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, after Wilson (1927), of as many draws as there are statements over `spread`."""
        if not self.asked:
            return math.nan, math.nan
        z, n = 1.96, self.asked / self.spread
        middle = (self.value + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(self.value * (1 - self.value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


def full_prompt(scene: Scene) -> Prompt:
    """Everything that can be said about a scene, each thing once."""
    objects = tuple(
        ObjectWords(obj.shape, obj.colour, obj.size, obj.material, family_of(obj.motion), obj.direction or None)
        for obj in scene.objects
    )
    relations = tuple(one for one in scene.relations if one.word in ("left of", "behind", "larger than"))
    pairs = (scene.pair,) if scene.pair else ()
    return Prompt(objects, scene.camera.motion, scene.ground, scene.time_of_day, relations, pairs)


def asked_of(prompt: Prompt, num_frames: int) -> Prompt:
    """What a prompt says that the judge can tell from so many frames: of fewer than `WINDOW`, what is there and where,
    but not how it and the camera move, nor sizes."""
    if num_frames >= WINDOW:
        return prompt
    objects = tuple(replace(one, size=None, motion=None, direction=None) for one in prompt.objects)
    relations = tuple(one for one in prompt.relations if one.word != "larger than")
    return replace(prompt, objects=objects, camera=None, relations=relations)


def agreement(
    reading: Reading,
    prompt: Prompt,
    owners: Sequence[int | None] | None = None,
    about: Sequence[bool] | None = None,
) -> Agreement:
    """Whether each statement of a prompt holds of a clip; what is said of an object that is not there is wrong.

    owners: for each object of the prompt, which object of the reading it is; by default, those that make most
    statements true. about: which objects of the prompt are asked about one by one (default: all). "all" is whether
    everything holds, whatever `about` says. Raises ValueError for more objects than the judge looks for.
    """
    if len(prompt.objects) > MOST_FOUND:
        raise ValueError(f"a prompt names {len(prompt.objects)} objects; the judge tells at most {MOST_FOUND} apart")
    owners = _best_owners(reading, prompt) if owners is None else owners
    found = [None if owner is None else reading.objects[owner] for owner in owners]
    asked = [True] * len(found) if about is None else about
    told: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    others: list[bool] = []
    told["count"].append(len(reading.objects) == len(prompt.objects))
    for said, seen, counts in zip(prompt.objects, found, asked, strict=True):
        for name, holds in _object_agreement(said, seen).items():
            (told[name] if counts else others).append(holds)
    told["relations"] += [_relation_holds(relation, found) for relation in prompt.relations]
    if prompt.camera is not None:
        camera = reading.words["camera"]
        told["camera"].append(camera == prompt.camera or camera.split(" ")[0] == prompt.camera)
    for name, word, key in (("ground", prompt.ground, "ground"), ("time of day", prompt.time_of_day, "time_of_day")):
        if word is not None:
            told[name].append(reading.words[key] == word)
    told["all"] = [all(others) and all(all(holds) for holds in told.values())]
    return {name: holds for name, holds in told.items() if holds}


def true_owners(reading: Reading, truth: Truth) -> list[int | None]:
    """For each true object, the object of the reading that starts where it does: nearest pairs first."""
    chosen: list[int | None] = [None] * len(truth.objects)
    if not reading.objects:
        return chosen
    places = torch.stack([obj.centres[0] for obj in reading.objects])
    distance = torch.cdist(torch.stack([obj.centres[0] for obj in truth.objects]), places)
    while float(distance.min()) < FARTHEST:
        i, j = divmod(int(distance.argmin()), distance.shape[1])
        chosen[i] = j
        distance[i], distance[:, j] = torch.inf, torch.inf
    return chosen


def centre_errors(reading: Reading, truth: Truth, owners: Sequence[int | None]) -> list[float]:
    """Mean distance from the true centre while it is visible, in widths of the picture, for each object found."""
    errors = []
    in_widths = torch.tensor([1.0, 1.0 / truth.aspect])
    for obj, owner in zip(truth.objects, owners, strict=True):
        if owner is not None and bool(obj.visible.any()):
            away = (reading.objects[owner].centres - obj.centres) * in_widths
            errors.append(float(away.norm(dim=-1)[obj.visible].mean()))
    return errors


def judge_agreements(
    readings: Sequence[Reading], scenes: Sequence[Scene], num_frames: int, frame_rate: float, aspect: float
) -> tuple[list[Agreement], list[float]]:
    """Where the judge is right about clips of known scenes, whose objects are told apart by where they start; and its
    errors about centres."""
    agreements, errors = [], []
    for reading, scene in zip(readings, scenes, strict=True):
        truth = scene.truth(num_frames, frame_rate).at_aspect(aspect)
        owners = true_owners(reading, truth)
        agreements.append(agreement(reading, asked_of(full_prompt(scene), num_frames), owners))
        errors += centre_errors(reading, truth, owners)
    return agreements, errors


def against_others(
    readings: Sequence[Reading], prompts: Sequence[Prompt], about: Sequence[Sequence[bool] | None]
) -> list[Agreement]:
    """Each clip held against up to `OTHERS` prompts that are not its own: what chance gives."""
    n = len(prompts)
    shifts = sorted({1 + round(i * (n - 2) / OTHERS) for i in range(OTHERS)}) if n > 1 else []
    return [
        agreement(reading, prompts[(i + shift) % n], about=about[(i + shift) % n])
        for shift in shifts
        for i, reading in enumerate(readings)
    ]


def shares(agreements: Sequence[Agreement]) -> dict[str, Share]:
    """How often each attribute is right over all clips; "all" is the share of clips whose every statement holds."""
    found = {}
    for name in (*ATTRIBUTES, "all"):
        clips = [(sum(told[name]), len(told[name])) for told in agreements if name in told]
        right, asked = sum(r for r, _ in clips), sum(n for _, n in clips)
        found[name] = Share(right, asked, _spread(clips))
    return found


def _spread(clips: Sequence[tuple[int, int]]) -> float:
    """The design effect of asking several statements about a clip: variance of the ratio right / asked over clips
    (Cochran 1977, eq. 2.39) over that of single draws; at least 1."""
    asked = sum(n for _, n in clips)
    share = sum(r for r, _ in clips) / asked if asked else 0.0
    if len(clips) < 2 or share in (0.0, 1.0):
        return 1.0
    spread = len(clips) / (len(clips) - 1) * sum((r - share * n) ** 2 for r, n in clips) / asked**2
    return max(1.0, spread / (share * (1 - share) / asked))


def kept_identity(readings: Iterable[Reading]) -> Share:
    """How many of the objects found are of the same shape and colour in every part of their clip; those of clips too
    short for two parts are not asked about."""
    found = [obj.identities for reading in readings for obj in reading.objects if len(obj.identities) > 1]
    kept = [len(set(identities)) == 1 for identities in found]
    return Share(sum(kept), len(kept))


def flicker(frames: Tensor) -> float:
    """Mean size of the second difference in time of uint8 frames (t, h, w, 3), t >= 3, in [0, 1]: what is left of
    changes once those that go on evenly are taken away."""
    x = frames.float() / 255.0
    return float((x[2:] - 2.0 * x[1:-1] + x[:-2]).abs().mean() / 2.0)


def frechet_distance(one: Tensor, two: Tensor) -> float:
    """Fréchet distance of the Gaussians of features (n, d) and (m, d), n and m at least 2 (Dowson and Landau, 1982).

    Few samples make it too large: compare only figures of equally many.
    """
    a, b = one.double(), two.double()
    first, second = a.T.cov(correction=0), b.T.cov(correction=0)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0.0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2.0 * mixed)


def _best_owners(reading: Reading, prompt: Prompt) -> list[int | None]:
    """Which object of the reading each object of a prompt is, so that most of what is said is true."""
    scores = [[sum(_object_agreement(said, seen).values()) for seen in reading.objects] for said in prompt.objects]
    places = max(len(prompt.objects), len(reading.objects))
    for row in scores:
        row += [-1] * (places - len(row))  # nothing is there: worse than an object of which all is wrong

    def right(order: Sequence[int]) -> int:
        return sum(scores[i][j] for i, j in enumerate(order))

    def owners(order: Sequence[int]) -> list[int | None]:
        return [j if j < len(reading.objects) else None for j in order]

    def relations(order: Sequence[int]) -> int:
        found = [None if owner is None else reading.objects[owner] for owner in owners(order)]
        return sum(_relation_holds(relation, found) for relation in prompt.relations)

    orders = list(permutations(range(places), len(prompt.objects)))
    most = max(map(right, orders))
    best = [order for order in orders if right(order) == most]
    return owners(max(best, key=relations) if len(best) > 1 else best[0])


def _object_agreement(said: ObjectWords, seen: ObjectReading | None) -> dict[str, bool]:
    """Whether each word said of an object is what is seen."""
    words: dict[str, str] = {}
    if seen is not None:
        motion, direction = parted_motion(seen.words["motion"])
        words = {**seen.words, "motion": motion, "direction": direction}
    return {name: words.get(name) == word for name, word in vars(said).items() if word is not None}


def _relation_holds(relation: Relation, found: Sequence[ObjectReading | None]) -> bool:
    one, two = found[relation.first], found[relation.second]
    if one is None or two is None:
        return False
    beside, deeper = float((one.centres - two.centres)[:, 0].median()), float((one.depths - two.depths).median())
    return {
        "left of": beside < 0,
        "right of": beside > 0,
        "behind": deeper > 0,
        "in front of": deeper < 0,
        "larger than": (one.words["size"], two.words["size"]) == ("large", "small"),
    }[relation.word]
