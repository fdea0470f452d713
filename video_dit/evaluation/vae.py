"""How well an autoencoder reconstructs: unseen renders of the world, and real clips of a manifest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from tqdm import tqdm

from data.manifest import ClipRecord, read_manifest
from data.transforms import fit, nearest_size, to_float, to_uint8
from data.world import sample_scene
from vae3d import LatentCodec
from vae3d.metrics import blocking_in_space, blocking_in_time, error_flicker, psnr, ssim
from video_dit.evaluation.pairs import Pair
from video_dit.layers import fast_dtype, find_device

WORLD_RATE = 8.0
SHOWN = {"world": 2, "real": 6}  # clips of each group that are kept to look at
HEADING = "PSNR dB    SSIM  flicker  blocking in time  in space  clip"


@dataclass(frozen=True)
class VAEOptions:
    """What is measured.

    Args:
        model: a folder of a model, of a run of tools/train_vae.py, or of an autoencoder alone.
        manifest: lists real clips, of which those of ``split`` are measured; None for none.
        clips: renders of unseen scenes, at 8 frames a second.
        frames: of each clip, its first ones: 1 + r·k, k >= 1.
        short_side: pixels, of real clips; their aspect is kept. world_size: both sides of renders.
        frame_rate: to which real clips are resampled; None for their own frames as they are.
        dtype: "float32", "bfloat16", or "auto" for what is fast on the device. device: "auto" for CUDA if it is there.
    """

    model: Path
    manifest: Path | None
    split: str
    clips: int
    frames: int
    short_side: int
    world_size: int
    frame_rate: float | None
    dtype: str
    device: str


@dataclass(frozen=True)
class Figures:
    """Of one clip, or their means; see `vae3d.metrics`. psnr is in dB; flicker that of the error, in [0, 1]; blocking
    that of the reconstruction over that of the original, 1 where there is none."""

    psnr: float
    ssim: float
    flicker: float
    blocking_in_time: float
    blocking_in_space: float

    def line(self, name: str) -> str:
        """A row under `HEADING`."""
        blocking = f"{self.blocking_in_time:16.3f}  {self.blocking_in_space:8.3f}"
        return f"{self.psnr:7.2f}  {self.ssim:6.4f}  {self.flicker:7.5f}  {blocking}  {name}"


def load_codec(options: VAEOptions) -> LatentCodec:
    """The autoencoder on its device.

    Raises:
        ValueError: there is none, or no such device.
    """
    place = find_device(options.device)
    dtypes = {"auto": fast_dtype(place), "float32": torch.float32, "bfloat16": torch.bfloat16}
    alone = (options.model / "config.json").is_file()
    codec = LatentCodec.from_pretrained(options.model, subfolder=None if alone else "vae", dtype=dtypes[options.dtype])
    codec.vae.to(place)
    return codec


def check_sizes(options: VAEOptions, codec: LatentCodec) -> None:
    """Raises ValueError for lengths and sizes that the codec cannot take, or that leave nothing to compare."""
    r, _ = codec.frame_rule
    if options.frames <= r or (options.frames - 1) % r:
        lower = 1 + r * max(1, (options.frames - 1) // r)
        raise ValueError(f"--frames {options.frames} must be 1 + {r}k, k at least 1: use {lower} or {lower + r}")
    for name, size in (("--short-side", options.short_side), ("--world-size", options.world_size)):
        if size < 2 * codec.grid or size % codec.grid:
            lower = codec.grid * max(2, size // codec.grid)
            raise ValueError(
                f"{name} {size} must be a multiple of {codec.grid}, at least {2 * codec.grid}: "
                f"use {lower} or {lower + codec.grid}"
            )


def read_frames(record: ClipRecord, num_frames: int, frame_rate: float | None) -> tuple[Tensor, float]:
    """The first frames of a row of a manifest, uint8 ``(num_frames, h, w, 3)``, and their rate: the file's own frames
    one by one, or those of every ``1 / frame_rate`` seconds.

    Raises:
        data.video.VideoError: the file cannot be read, or is too short.
    """
    from data.video import VideoError, probe_video, read_video  # PyAV may be missing where only the world is measured

    info = probe_video(record.path)
    rate = frame_rate or info.frame_rate
    length = min(info.duration, record.end or math.inf) - record.start
    if length <= 0:
        raise VideoError(record.path, f"start={record.start:g} is past its end at {info.duration:.3f} seconds")
    seconds = min(length, num_frames / rate)
    frames = read_video(record.path, record.start, seconds, frame_rate).frames
    while len(frames) < num_frames and seconds < length:  # a variable rate, slow at the start
        seconds = min(length, 1.5 * seconds)
        frames = read_video(record.path, record.start, seconds, frame_rate).frames
    if len(frames) < num_frames:
        reason = f"too short: {len(frames)} frames at {rate:g} a second, and {num_frames} are asked for"
        raise VideoError(record.path, reason, len(frames))
    return frames[:num_frames], rate


def fit_short_side(frames: Tensor, short_side: int, grid: int) -> Tensor:
    """uint8 ``(t, h, w, 3)`` resized to a short side of ``short_side``, the long one to the multiple of ``grid``
    nearest in aspect; what is too much for that is cut off. Smaller clips are enlarged."""
    height, width = frames.shape[1:3]
    pixels = round(short_side**2 * max(height, width) / min(height, width))
    return fit(frames, *nearest_size(height, width, pixels, grid))


def measure(prediction: Tensor, target: Tensor, r: int, size: int) -> Figures:
    """Figures of one reconstruction; both ``(1, 3, t, h, w)`` in [-1, 1]. r, size: factors of the codec."""
    in_time, of_target = blocking_in_time(prediction, r), blocking_in_time(target, r)
    in_space, space_of_target = blocking_in_space(prediction, size), blocking_in_space(target, size)
    return Figures(
        psnr=psnr(prediction, target).item(),
        ssim=ssim(prediction, target).item(),
        flicker=error_flicker(prediction, target).item(),
        blocking_in_time=(in_time / of_target).item(),
        blocking_in_space=(in_space / space_of_target).item(),
    )


def mean_figures(figures: Sequence[Figures]) -> Figures:
    """Each figure's mean over clips."""
    return Figures(**{field.name: mean(getattr(one, field.name) for one in figures) for field in fields(Figures)})


@dataclass(frozen=True)
class Source:
    """A clip to be measured: its group, "world" or "real"; its name, which no other has; and how to get its frames,
    uint8 ``(t, h, w, 3)`` on the codec's grid, with their rate. ``load`` raises `data.video.VideoError`, a ValueError.
    """

    group: str
    name: str
    load: Callable[[], tuple[Tensor, float]]


def sources_of(options: VAEOptions, grid: int) -> list[Source]:
    """All clips that are to be measured; ValueError if there are none, or the manifest is no good."""

    def render(seed: int) -> tuple[Tensor, float]:
        size = options.world_size
        return sample_scene("test", seed).render(options.frames, size, size, WORLD_RATE), WORLD_RATE

    def read(record: ClipRecord) -> tuple[Tensor, float]:
        frames, rate = read_frames(record, options.frames, options.frame_rate)
        return fit_short_side(frames, options.short_side, grid), rate

    records = read_manifest(options.manifest, split=options.split) if options.manifest else []
    if not records and not options.clips:
        raise ValueError("--clips 0 without --manifest leaves nothing to measure: give either")
    files = [record.path.name for record in records]
    names = [f"{n}, row {r.row}" if files.count(n) > 1 else n for n, r in zip(files, records, strict=True)]
    return [
        *(Source("world", f"world/{seed}", partial(render, seed)) for seed in range(options.clips)),
        *(Source("real", name, partial(read, record)) for name, record in zip(names, records, strict=True)),
    ]


def to_show(sources: Sequence[Source]) -> set[str]:
    """Names of `SHOWN` clips of each group, spread evenly over it: the same ones for every codec."""
    names: set[str] = set()
    for group, count in SHOWN.items():
        members = [source.name for source in sources if source.group == group]
        if members:
            names |= {members[round(i)] for i in torch.linspace(0, len(members) - 1, count).tolist()}
    return names


@dataclass(frozen=True)
class Measured:
    """A clip's figures, its width and height, and its rate."""

    figures: Figures
    size: str
    frame_rate: float


def evaluate_vae(
    options: VAEOptions, say: Callable[[str], None], warn: Callable[[str], None], show: bool = False
) -> tuple[dict, list[Pair]]:
    """Figures of each clip through the autoencoder, and their means.

    Args:
        options: what to measure.
        say: takes each line for people to read as soon as it is there. warn: the same for clips that are left out.
        show: keep the clips of `to_show`.
    Returns:
        What JSON can hold, and the clips kept. ``{"model": …, "settings": {…}, "clips": {group: {name: figures}},
        "mean": {group: figures}, "left out": {name: reason}}`` with the groups "world" and "real" where they have
        clips; figures go by the names in `Figures`, those of a clip beside its "size" (WxH) and "frame_rate".
    Raises:
        ValueError: the model, a length, a size or the manifest is no good, or no clip can be measured.
    """
    codec = load_codec(options)
    check_sizes(options, codec)
    r, _ = codec.frame_rule
    sources = sources_of(options, codec.grid)
    shown = to_show(sources) if show else set()
    measured: dict[str, dict[str, Measured]] = {}
    left_out: dict[str, str] = {}
    pairs: list[Pair] = []
    say(HEADING)
    for source in tqdm(sources, leave=False):
        try:
            frames, rate = source.load()
        except ValueError as error:  # `data.video.VideoError`
            warn(f"left out: {error}")
            left_out[source.name] = str(error)
            continue
        target = to_float(frames)[None].to(codec.vae.device)
        prediction = codec.decode(codec.encode(target))
        figures = measure(prediction, target, r, codec.grid)
        say(figures.line(source.name))
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        measured.setdefault(source.group, {})[source.name] = Measured(figures, size, rate)
        if source.name in shown:
            label = f"{source.name}, {size}, {rate:.4g} a second, {figures.psnr:.1f} dB"
            pairs.append(Pair(label, frames, to_uint8(prediction[0].cpu()), rate))
    if not measured:
        raise ValueError(f"all {len(left_out)} clips are left out: mend --manifest {options.manifest} or ask for less")
    means = {group: mean_figures([one.figures for one in clips.values()]) for group, clips in measured.items()}
    say("")
    for group, figures in means.items():
        say(figures.line(f"mean of {len(measured[group])} {group} clips"))
    if left_out:
        say(f"{len(left_out)} of {len(sources)} clips are left out")
    vae = codec.vae
    computed = f"{str(vae.dtype).removeprefix('torch.')} on {vae.device}"
    rate_of_real = f"at {options.frame_rate:g} a second" if options.frame_rate else "at their own rate"
    say(f"{options.model} in {computed}, {options.frames} frames of each clip")
    say(
        f"world {options.world_size}x{options.world_size} at {WORLD_RATE:g} a second, "
        f"real clips with a short side of {options.short_side} {rate_of_real}"
    )
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    results = {
        "model": settings.pop("model"),
        "settings": settings | {"computed": computed},
        "clips": {
            group: {
                name: {**asdict(one.figures), "size": one.size, "frame_rate": one.frame_rate}
                for name, one in clips.items()
            }
            for group, clips in measured.items()
        },
        "mean": {group: asdict(figures) for group, figures in means.items()},
        "left out": left_out,
    }
    return results, pairs
