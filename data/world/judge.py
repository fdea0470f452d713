"""The judge: a small network that reads off a clip what is in it, where it is, and what it does.

It looks for centres of objects in the first frame (as points, after CenterNet, arXiv:1904.07850), follows each
through the clip by matching what it found there against every frame, looks at each from close by, as a camera that
goes with it would (`data.world.glimpse`), and reads the words off what it followed.
Frames are seen two at a time by 2D convolutions that exchange channels with the steps before and after (TSM,
arXiv:1811.08383): most of what a 3D convolution sees, for far less. What moves, the camera or an object, mostly moves
by less than a pixel a frame: convolutions are slow to learn such motion, so they are given the flow
(`data.world.flow`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.world.camera import unproject
from data.world.flow import flow_around, flow_of_parts, slope_products, solved_flow
from data.world.glimpse import Glimpse
from data.world.labels import OBJECT_WORDS, SCENE_WORDS, from_the_start
from data.world.layers import TIME_STRIDE, AttentionBlock, TimeShiftBlock

FRAME_RATE = 8.0
WINDOW = 33  # frames that it reads words off
PART = 17  # frames that suffice for what an object is: shape, colour, material
PIXELS = 64 * 64
FLOW_CELLS = 8  # along each side of the picture, for the camera's move
FILE = "judge.safetensors"


class ClipFeatures(NamedTuple):
    """What is computed of a clip of t frames, in s = ceil(t / 2) steps, before anything is followed.

    maps: (b, s, h/4, w/4, d). overview: (b, s, d), of the whole picture. slope_products: between steps and within each,
    (b, s, 10, h/4, w/4). frames: (b, 3, 2s, h, w) in [-1, 1], the last one repeated if t is odd. points: logits of
    starting points (b, h/2, w/2).
    """

    maps: Tensor
    overview: Tensor
    slope_products: Tensor
    frames: Tensor
    points: Tensor


@dataclass(frozen=True)
class Found:
    """What the network says of given starting points, before words are chosen.

    objects: for each name of `OBJECT_WORDS`, logits (b, k, classes); scene: for each name of `SCENE_WORDS`, logits
    (b, classes). matches: the two rounds of logits (b, k, steps, cells) over the cells of every second frame.
    centres: (b, k, t, 2) in [0, 1] of the picture. depths: (b, k, t) log of units. paths: (b, k, t, 4) and view:
    (b, t, 3), how objects and camera have moved, as `data.world.labels.scene_labels` tells it. features: (b, k + 1, d),
    of each object and, last, of the view.
    """

    objects: Mapping[str, Tensor]
    scene: Mapping[str, Tensor]
    matches: tuple[Tensor, Tensor]
    centres: Tensor
    depths: Tensor
    paths: Tensor
    view: Tensor
    features: Tensor


class Judge(nn.Module):
    """Reads clips of about `PIXELS` pixels and `FRAME_RATE` frames a second, sides a multiple of 8.

    Args:
        width: channels of the features at stride 4.
        deep_width: channels at stride 8, and of what follows an object.
        depth: blocks at stride 8.
    """

    def __init__(self, width: int = 64, deep_width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.settings = {"width": width, "deep_width": deep_width, "depth": depth}
        half = width // 2
        self.fine = nn.Conv2d(3 * TIME_STRIDE, half, 5, 2, 2, bias=False)
        self.fine_norm = nn.BatchNorm2d(half)
        self.coarse = nn.Conv2d(half, width, 3, 2, 1)
        self.flow = nn.Conv2d(6, width, 3, padding=1)
        self.block = TimeShiftBlock(width)
        self.down = nn.Conv2d(width, deep_width, 2, 2)
        self.deep_blocks = nn.ModuleList(TimeShiftBlock(deep_width) for _ in range(depth))
        self.up = nn.Conv2d(deep_width, width, 1)
        self.join = TimeShiftBlock(width)
        self.join_norm = nn.BatchNorm2d(width)
        self.points = nn.Sequential(
            nn.Conv2d(width + half, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 32, 3, padding=1), nn.ReLU()
        )
        self.point_logits = nn.Conv2d(32, 1, 1)
        nn.init.constant_(self.point_logits.bias, -4.0)  # type: ignore[arg-type]
        self.key = nn.Linear(width, width)
        self.first_query = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.next_query = nn.Linear(deep_width, width)
        self.first_look, self.next_look = (nn.Linear(2 * width + 6, deep_width) for _ in range(2))
        self.follow = nn.ModuleList(AttentionBlock(deep_width, 4) for _ in range(2))
        self.describe = nn.ModuleList(AttentionBlock(deep_width, 4) for _ in range(2))
        self.overview = nn.Linear(4 * deep_width, deep_width)
        self.sweep = nn.Linear(6 * FLOW_CELLS**2, deep_width)
        self.watch = nn.ModuleList([AttentionBlock(deep_width, 4)])
        self.time_embedding = nn.Parameter(0.02 * torch.randn((WINDOW + 1) // TIME_STRIDE, deep_width))
        self.position_head = nn.Linear(deep_width, 3 * TIME_STRIDE)
        nn.init.zeros_(self.position_head.weight)
        self.place = nn.Linear(6 * TIME_STRIDE, deep_width)
        self.around = nn.Linear(6 * 9, deep_width)
        self.glimpse = Glimpse(half, deep_width)
        self.path_head = nn.Linear(deep_width, 4 * TIME_STRIDE)
        nn.init.zeros_(self.path_head.weight)
        self.path = nn.Linear(4 * TIME_STRIDE, deep_width)
        self.meet = AttentionBlock(deep_width, 4)
        self.view_head = nn.Linear(deep_width, 3 * TIME_STRIDE)
        self.norm = nn.LayerNorm(2 * deep_width)
        self.object_heads = nn.ModuleDict({k: nn.Linear(2 * deep_width, len(v)) for k, v in OBJECT_WORDS.items()})
        self.scene_heads = nn.ModuleDict({k: nn.Linear(2 * deep_width, len(v)) for k, v in SCENE_WORDS.items()})

    def encode(self, frames: Tensor) -> ClipFeatures:
        """Of frames (b, 3, t, h, w) in [-1, 1], t at most `WINDOW`."""
        b, last = len(frames), frames[:, :, -1:]
        frames = torch.cat((frames, last), dim=2) if frames.shape[2] % TIME_STRIDE else frames
        steps = frames.shape[2] // TIME_STRIDE
        pairs = rearrange(frames, "b c (s p) h w -> (b s) (p c) h w", p=TIME_STRIDE)
        pairs = pairs.contiguous(memory_format=torch.channels_last)
        fine = F.relu(self.fine_norm(self.fine(pairs)))  # (b s) c h/2 w/2
        pictures = rearrange(frames, "b c (s p) h w -> b c s p h w", p=TIME_STRIDE)
        between = slope_products(pictures.mean(3), 4)  # b s 5 h/4 w/4
        within = slope_products(rearrange(pictures, "b c s p h w -> (b s) c p h w"), 4).mean(1)  # (b s) 5 h/4 w/4
        slow = solved_flow(F.avg_pool2d(between.flatten(0, 1), 3, 1, 1, count_include_pad=False))
        flow = torch.cat((slow, solved_flow(within)), dim=1)  # (b s) 6 h/4 w/4
        x = self.block(self.coarse(fine) + self.flow(flow), steps)  # (b s) d h/4 w/4
        deep = self.down(x)  # (b s) c h/8 w/8
        for block in self.deep_blocks:
            deep = block(deep, steps)
        x = F.relu(self.join_norm(self.join(x + _doubled(self.up(deep)), steps)))
        grid = rearrange(F.adaptive_avg_pool2d(deep, 2), "(b s) c i j -> b s (c i j)", b=b)
        points = self.points(torch.cat((_doubled(x[::steps]), fine[::steps]), dim=1))
        maps = rearrange(x, "(b s) d h w -> b s h w d", b=b)
        products = torch.cat((between, rearrange(within, "(b s) p h w -> b s p h w", b=b)), dim=2)
        overview = self.overview(grid) + self.sweep(_with_sums(flow_of_parts(between, FLOW_CELLS)))
        return ClipFeatures(maps, overview, products, frames, self.point_logits(points)[:, 0])

    def forward(self, clip: ClipFeatures, starts: Tensor, present: Tensor, num_frames: int) -> Found:
        """Follow and describe what is at starts (b, k, 2), x and y in [0, 1] of the first frame's picture.

        present: (b, k), which of the starts are objects; the others affect nothing, and what is said of them means
        nothing. num_frames: t, of the frames that were encoded.
        """
        steps, (rows, columns) = clip.maps.shape[1], clip.maps.shape[2:4]
        first = rearrange(clip.maps[:, 0], "b h w d -> b d h w")
        seeds = F.grid_sample(first, (starts * 2.0 - 1.0).unsqueeze(2), align_corners=False)
        seeds = repeat(seeds, "b d k 1 -> b k s d", s=steps)
        cells = _cell_centres(rows, columns, starts.device)  # cells 2
        values = rearrange(clip.maps, "b s h w d -> b s (h w) d")
        keys = self.key(values)
        picture = cells.new_tensor([columns, rows]).expand(*seeds.shape[:3], 2) / 16.0

        def look(matched: Tensor, centres: Tensor) -> Tensor:
            moved = 8.0 * (centres - starts.unsqueeze(2))
            return torch.cat((matched, seeds, centres, moved, picture), dim=-1)

        times = self.time_embedding[:steps]

        first_match, matched, centres = _match(self.first_query(seeds), keys, values, cells)
        tracks = _along_steps(self.follow[:1], self.first_look(look(matched, centres)) + times)  # b k s d
        second_match, matched, centres = _match(self.next_query(tracks), keys, values, cells)
        tracks = _along_steps(self.follow[1:], tracks + self.next_look(look(matched, centres)))

        delta = rearrange(self.position_head(tracks), "b k s (f c) -> b k (s f) c", c=3)
        cell = delta.new_tensor([1.0 / columns, 1.0 / rows])
        centres = repeat(centres, "b k s c -> b k (s f) c", f=TIME_STRIDE) + delta[..., :2] * cell
        depths = delta[..., 2] + 1.6  # b k t
        at, ahead = centres.detach(), depths.detach().exp()
        view = _along_steps(self.watch, (clip.overview + times).unsqueeze(1))  # b 1 s d
        moved = rearrange(self.view_head(view), "b 1 s (f c) -> b (s f) c", c=3)
        places = unproject(at, ahead.unsqueeze(-1), columns / rows)  # b k t 3
        places = from_the_start(places, moved.detach().unsqueeze(1))
        gone = places - places[:, :, :1]
        placed = rearrange(torch.cat((0.5 * places, 2.0 * gone), -1), "b k (s f) c -> b k s (f c)", f=TIME_STRIDE)
        around = flow_around(clip.slope_products, reduce(at, "b k (s f) c -> b k s c", "mean", f=TIME_STRIDE))
        near = self.glimpse(clip.frames, at, ahead, present)
        tracks = torch.cat((tracks + self.place(placed) + self.around(around) + near + view, view), dim=1)
        tracks = _along_steps(self.describe[:1], tracks)
        paths = F.pad(gone, (0, 1)) + rearrange(self.path_head(tracks[:, :-1]), "b k s (f c) -> b k (s f) c", c=4)
        walked = self.path(rearrange(2.0 * paths.detach(), "b k (s f) c -> b k s (f c)", f=TIME_STRIDE))
        tracks = torch.cat((tracks[:, :-1] + walked, tracks[:, -1:]), dim=1)  # b (k + 1) s d
        there = repeat(F.pad(present, (0, 1), value=True), "b k -> (b s) k", s=steps)
        together = self.meet(rearrange(tracks, "b k s d -> (b s) k d"), there)
        tracks = _along_steps(self.describe[1:], rearrange(together, "(b s) k d -> b k s d", s=steps))
        pooled = self.norm(torch.cat((tracks.mean(2), tracks.amax(2)), dim=-1))
        return Found(
            objects={name: head(pooled[:, :-1]) for name, head in self.object_heads.items()},
            scene={name: head(pooled[:, -1]) for name, head in self.scene_heads.items()},
            matches=(first_match, second_match),
            centres=centres[:, :, :num_frames],
            depths=depths[:, :, :num_frames],
            paths=paths[:, :, :num_frames],
            view=moved[:, :num_frames],
            features=tracks.mean(2),
        )

    def save(self, folder: str | Path) -> None:
        """Write `FILE`: weights in 16 bits, with the sizes of the network in the header."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        parameters = dict(self.named_parameters())
        weights = {k: v.half() if k in parameters else v for k, v in self.state_dict().items()}
        metadata = {name: str(value) for name, value in self.settings.items()}
        save_file(weights, Path(folder) / FILE, metadata)

    @classmethod
    def load(cls, folder: str | Path) -> "Judge":
        """The judge saved in a folder, ready to read. Raises ValueError if there is none that fits."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no judge: give a folder that has {FILE}, or train one: tools/train_judge.py"
            )
        try:
            with safe_open(path, framework="pt") as file:
                judge = cls(**{name: int(value) for name, value in (file.metadata() or {}).items()})
            judge.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is damaged, or of another version of the judge: {reason}") from None
        return judge.eval()


def _cell_centres(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 2): x and y of each cell's centre in [0, 1]."""
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = (torch.arange(columns, device=device) + 0.5) / columns
    return torch.stack((x.repeat(rows), y.repeat_interleave(columns)), dim=-1)


def _match(queries: Tensor, keys: Tensor, values: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where queries (b, k, s, d) are among the cells of each step: logits (b, k, s, cells), what is there
    (b, k, s, d), and the mean place (b, k, s, 2)."""
    logits = torch.einsum("bksd,bscd->bksc", queries, keys) * queries.shape[-1] ** -0.5
    weights = logits.softmax(-1)
    return logits, torch.einsum("bksc,bscd->bksd", weights, values), weights @ cells


def _along_steps(layers: nn.ModuleList, tracks: Tensor) -> Tensor:
    """Layers over the steps of tracks (b, k, s, d)."""
    x = rearrange(tracks, "b k s d -> (b k) s d")
    for layer in layers:
        x = layer(x)
    return rearrange(x, "(b k) s d -> b k s d", b=len(tracks))


def _with_sums(flow: Tensor) -> Tensor:
    """Flow (b, s, c), and beside it how far that has led since the first step: (b, s, 2c)."""
    return torch.cat((flow, 0.1 * flow.cumsum(1)), dim=-1)


def _doubled(x: Tensor) -> Tensor:
    """(n, c, h, w) with each pixel four times: (n, c, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
