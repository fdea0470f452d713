"""Scenes: what is in a clip, drawn from (split, seed), and the exact truth about it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from data.world.camera import Camera, camera_path, project
from data.world.caption import (
    CAMERAS,
    CAPTION_STYLES,
    GROUNDS,
    TIMES_OF_DAY,
    Relation,
    is_held_out,
    keyed_random,
    scene_caption,
)
from data.world.motion import SceneObject, frame_times, positions, scales, spins
from data.world.placement import (
    CHECKED_RATE,
    CHECKED_SECONDS,
    between,
    choice,
    draw_words,
    pair_of,
    place,
    weighted,
)
from data.world.render import covered, render_scene

SPLITS = ("train", "val", "test", "all")
COUNT_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
CAMERA_WEIGHTS = (0.34, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11)  # as CAMERAS
GROUND_WEIGHTS = (0.4, 0.3, 0.3)  # as GROUNDS
TIME_WEIGHTS = (0.6, 0.22, 0.18)  # as TIMES_OF_DAY
SUN_ELEVATIONS = {"day": (0.75, 1.0), "dusk": (0.42, 0.55), "night": (0.70, 0.95)}

BESIDE, BEHIND = 0.10, 0.5  # of a square picture, units: by how much relations hold


@dataclass(frozen=True)
class ObjectTruth:
    """Where one object is, frame by frame.

    positions: (t, 3) float32, the centre in units. centres: (t, 2) float32, the centre in the picture, x
    from the left and y from the top, each in [0, 1] when inside. radii: (t,) float32, the radius of its size in
    units. spins: (t,) float32, radians about the vertical since time 0, counterclockwise seen from above.
    uncovered: (t,) bool, no other object hides the centre. visible: (t,) bool, uncovered and inside the picture.
    """

    shape: str
    colour: str
    size: str
    material: str
    motion: str
    direction: str
    positions: torch.Tensor
    centres: torch.Tensor
    radii: torch.Tensor
    spins: torch.Tensor
    uncovered: torch.Tensor
    visible: torch.Tensor


@dataclass(frozen=True)
class Truth:
    """The truth about a clip whose picture is `aspect` (width / height) wide.

    camera_positions: (t, 3) units. camera_axes: (t, 3, 3), rows right, up, forward. times: (t,) seconds.
    """

    objects: tuple[ObjectTruth, ...]
    camera_positions: torch.Tensor
    camera_axes: torch.Tensor
    times: torch.Tensor
    aspect: float

    def at_aspect(self, aspect: float) -> "Truth":
        """The same clip in a picture of another aspect, width / height; ValueError if that is not > 0."""
        if not aspect > 0:
            raise ValueError(f"aspect={aspect} must be width / height: use a number above 0")
        objects = []
        for obj in self.objects:
            centres, inside = project(obj.positions, self.camera_positions, self.camera_axes, aspect)
            objects.append(replace(obj, centres=centres, visible=obj.uncovered & inside))
        return Truth(tuple(objects), self.camera_positions, self.camera_axes, self.times, aspect)

    @property
    def depths(self) -> torch.Tensor:
        """How far each object is ahead of the camera: (objects, t) units."""
        ahead = self.camera_axes[:, 2]  # t 3
        return torch.stack([((obj.positions - self.camera_positions) * ahead).sum(-1) for obj in self.objects])


@dataclass(frozen=True)
class Scene:
    """One clip's content: a pure function of (split, seed). Render it at any size, duration and frame rate.

    sun_azimuth, sun_elevation: radians; azimuth to the right of the viewer's back at time 0; at night, the
    moon's. pair: the objects that collide (the first moves, the second is hit), or of which the first passes
    behind the second.
    """

    objects: tuple[SceneObject, ...]
    camera: Camera
    sun_azimuth: float
    sun_elevation: float
    split: str
    seed: int
    ground: str = "sand"
    time_of_day: str = "day"
    pair: tuple[int, int] | None = None

    def render(
        self, num_frames: int, height: int, width: int, frame_rate: float, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """Frames: uint8 (t, h, w, 3) on `device`. Raises ValueError for sizes below 8 or no frames."""
        return render_scene(self, num_frames, height, width, frame_rate, device=device)

    def caption(self, style: str = "exhaustive", wording: int = 0) -> str:
        """A true description in one of `data.world.caption.CAPTION_STYLES`; ValueError for another style. Each number
        ``wording`` says it in words of its own.

        It holds for the first `CHECKED_SECONDS`; later what moves may come to rest elsewhere or leave the picture.
        """
        return scene_caption(self, style, wording)

    def truth(self, num_frames: int, frame_rate: float) -> Truth:
        """Where everything is in each frame, in a square picture; `.at_aspect` gives it for another one.

        Raises ValueError for num_frames < 1 or frame_rate <= 0.
        """
        times = frame_times(num_frames, frame_rate)
        camera_positions, camera_axes = camera_path(self.camera, times)
        objects = []
        for obj in self.objects:
            path = positions(obj, times)
            centres, inside = project(path, camera_positions, camera_axes, aspect=1.0)
            uncovered = ~covered(obj, self.objects, camera_positions, times)
            objects.append(
                ObjectTruth(
                    shape=obj.shape,
                    colour=obj.colour,
                    size=obj.size,
                    material=obj.material,
                    motion=obj.motion,
                    direction=obj.direction,
                    positions=path.float(),
                    centres=centres.float(),
                    radii=(obj.radius * scales(obj, times)).float(),
                    spins=spins(obj, times).float(),
                    uncovered=uncovered,
                    visible=uncovered & inside,
                )
            )
        return Truth(tuple(objects), camera_positions.float(), camera_axes.float(), times.float(), aspect=1.0)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """What holds between two objects, both ways round, for the first `CHECKED_SECONDS`."""
        truth = self.truth(int(CHECKED_SECONDS * CHECKED_RATE) + 1, CHECKED_RATE)
        found = []
        for i, one in enumerate(truth.objects):
            for j, two in enumerate(truth.objects):
                if i == j:
                    continue
                if float((two.centres[:, 0] - one.centres[:, 0]).min()) > BESIDE:
                    found += [Relation(i, "left of", j), Relation(j, "right of", i)]
                if float((truth.depths[i] - truth.depths[j]).min()) > BEHIND:
                    found += [Relation(i, "behind", j), Relation(j, "in front of", i)]
                if float((one.radii / two.radii).min()) > 1.2:
                    found.append(Relation(i, "larger than", j))
        return tuple(found)

    def facts(self, num_frames: int, height: int, width: int, frame_rate: float) -> dict[str, Any]:
        """All that is known of a clip, in plain values, numbers to five decimals: what a file beside it should say.

        Each object has, for each frame, its centre [x, y] as in `ObjectTruth`, its depth (units ahead of the camera)
        and whether its centre is visible. Relations hold between objects by their index.
        """
        truth = self.truth(num_frames, frame_rate).at_aspect(width / height)
        return {
            "split": self.split,
            "seed": self.seed,
            "width": width,
            "height": height,
            "frame_rate": frame_rate,
            "num_frames": num_frames,
            "captions": {style: self.caption(style) for style in CAPTION_STYLES},
            "camera": self.camera.motion,
            "ground": self.ground,
            "time_of_day": self.time_of_day,
            "relations": [asdict(relation) for relation in self.relations],
            "objects": [
                {name: getattr(obj, name) for name in ("shape", "colour", "size", "material", "motion", "direction")}
                | {"centres": _plain(obj.centres), "depths": _plain(depths), "visible": obj.visible.tolist()}
                for obj, depths in zip(truth.objects, truth.depths, strict=True)
            ],
        }


def _plain(values: torch.Tensor) -> list:
    return values.double().mul(1e5).round().div(1e5).tolist()


def sample_scene(split: str, seed: int) -> Scene:
    """Draw a scene, as a pure function of (split, seed).

    "train" and "val" hold no object of a held-out triple, "test" holds at least one, "all" draws freely.
    Raises ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is no split of the world: use one of {', '.join(SPLITS)}")
    first = keyed_random(split, seed, "count and setting")
    count = 1 + weighted(first, COUNT_WEIGHTS)
    camera_motion = CAMERAS[weighted(first, CAMERA_WEIGHTS)]
    ground, time_of_day = GROUNDS[weighted(first, GROUND_WEIGHTS)], TIMES_OF_DAY[weighted(first, TIME_WEIGHTS)]
    attempt = 0
    while True:
        stream = keyed_random(split, seed, "scene", attempt)
        words = draw_words(stream, count)
        held_out = [is_held_out(word.shape, word.colour, word.motion) for word in words]
        wanted = {"train": not any(held_out), "val": not any(held_out), "test": any(held_out), "all": True}[split]
        placed = place(words, camera_motion, stream) if wanted else None
        if placed is not None:
            objects, camera = placed
            sun_azimuth = choice(stream, (-1.0, 1.0)) * between(stream, 0.6, 1.4)
            elevation = between(stream, *SUN_ELEVATIONS[time_of_day])
            return Scene(objects, camera, sun_azimuth, elevation, split, seed, ground, time_of_day, pair_of(words))
        attempt += 1
