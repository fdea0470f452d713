"""Config files: YAML over typed, frozen dataclasses. The dataclasses stand beside what they configure."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from video_dit.context import ContextConfig
from video_dit.distillation import DistillConfig
from video_dit.engine import TrainConfig
from video_dit.noise import NoiseConfig
from video_dit.request import PromptSchedule
from video_dit.text import TextConfig

Config = TypeVar("Config")

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Raises:
        ValueError: a size, rate or count is not positive, or ``num_frames`` is shorter than the window.
    """

    manifest: str = ""
    """A csv, jsonl or parquet of clips (rows of split ``train`` where it has splits; those of ``val`` are validated on,
    or where there are none the world); empty trains on the world."""
    latents: str = ""
    """A folder of shards that tools/encode.py wrote of these clips; no video is opened then to train on."""
    num_clips: int = 3000
    """Scenes of the world."""
    num_frames: int = 49
    """Frames of a clip, 1 + r·k; longer files of a manifest give several clips."""
    window_frames: int = 33
    """The most frames of a sample, 1 + r·k, cut at random from a clip's latents."""
    sizes: list[list[int]] = field(default_factory=lambda: [[64, 64]])
    """(height, width) of the clips, multiples of the codec's grid times the patch; the first is the usual one."""
    frame_rates: list[float] = field(default_factory=lambda: [8.0])
    """Frames a second of the clips; a manifest takes the first."""
    token_budget: int = 4608
    """Tokens of a pack, which is what one rank takes at a time."""
    cache: str = "cache/latents"
    """Folder for the latents of all clips, made once; empty makes them anew each time."""
    read_seconds: float = 120.0
    """Wall time that reading a clip may take; one that takes longer is left out."""
    workers: int = 1
    """Processes that render or read ahead."""
    validation_packs: int = 4
    sample_prompts: list[str] = field(default_factory=list)
    """Prompts of the sample videos made at each validation; with any, an unseen clip is continued as well."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            if len(size) != 2 or min(size) < 8:
                raise ValueError(f"data.sizes has {list(size)}: each must be [height, width], both at least 8")
        for name in ("num_clips", "token_budget", "validation_packs"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least 1")
        if not self.read_seconds > 0:
            raise ValueError(f"data.read_seconds={self.read_seconds} must be above 0")
        if self.workers < 0:
            raise ValueError(f"data.workers={self.workers} must be 0 or more")
        if not self.sizes or not self.frame_rates or not min(self.frame_rates) > 0:
            raise ValueError("data.sizes and data.frame_rates need at least one positive entry each")
        if not 1 <= self.window_frames <= self.num_frames:
            raise ValueError(f"data.window_frames={self.window_frames} must be in [1, num_frames={self.num_frames}]")
        seconds = self.window_frames / self.frame_rates[0]
        for prompt in self.sample_prompts:  # hours before the first sample is made
            if (start := PromptSchedule.parse(prompt).starts[-1]) >= seconds:
                raise ValueError(
                    f"data.sample_prompts has a prompt that begins at {start:g} s: samples last {seconds:g} s"
                )


@dataclass(frozen=True)
class CodecConfig:
    """path: a folder written by tools/train_vae.py, or a model folder that has ``vae/``."""

    path: str = "checkpoints/sora-tiny"


@dataclass(frozen=True)
class ModelConfig:
    """Size of the transformer (see `VideoDiT`).

    Raises:
        ValueError: a size is not above 0.
    """

    patch_size: int = 2
    hidden_size: int = 256
    num_layers: int = 10
    num_heads: int = 4
    ratio: float = 4.0
    rope_theta: float = 1000.0
    base_tokens: int = 36

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"model.{name}={value} must be above 0")


@dataclass(frozen=True)
class RunConfig:
    """Everything a training run depends on.

    Raises:
        ValueError: the heads of the model cannot be shared out over ``train.sequence_parallel`` ranks; or a student is
            to be made that is no adapter, or of a model that is not on the straight path.
    """

    run_dir: str = "runs/sora"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    vae: CodecConfig = field(default_factory=CodecConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        heads, degree = self.model.num_heads, self.train.sequence_parallel
        if heads % degree:
            raise ValueError(f"train.sequence_parallel={degree} must divide model.num_heads={heads}")
        if not self.distill.steps:
            return
        if not self.train.lora.rank:
            raise ValueError("distill.steps needs an adapter to train: set train.lora.rank, such as 12")
        if self.noise.path != "straight":
            raise ValueError(f"distill.steps does not go with noise.path={self.noise.path}: only with straight")


def find_config(name: str) -> Path:
    """A path as it is, or a bare name such as ``sora_small.yaml`` in ``configs/``.

    Raises:
        ValueError: there is no such file.
    """
    for path in (Path(name), CONFIGS / name):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in CONFIGS.glob("*.yaml")))
    raise ValueError(f"--config {name}: no such file; give a path or one of {known}")


def load_config(schema: type[Config], file: str, overrides: Sequence[str] = ()) -> Config:
    """Read a config file into ``schema``, a frozen dataclass, with ``section.key=value`` overrides; ``section.key=`` is
    the empty text.

    Raises:
        ValueError: the file is missing or no YAML, a key is unknown, a value has the wrong type or is refused by
            its dataclass.
    """
    assert is_dataclass(schema)
    path = find_config(file)
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"override {override!r} must be section.key=value")
    try:
        loaded = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ValueError(f"config {path.name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"config {path.name} must hold lines of key: value, not a list")
    try:
        config = OmegaConf.structured(schema)
        given = [override if override.partition("=")[2] else f"{override}''" for override in overrides]
        merged = OmegaConf.merge(config, loaded, OmegaConf.from_dotlist(given))
        return cast(Config, OmegaConf.to_object(merged))
    except yaml.YAMLError as error:
        raise ValueError(f"overrides {' '.join(overrides)}: no YAML: {' '.join(str(error).split())}") from None
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        key = getattr(error, "full_key", None)
        raise ValueError(f"config {path.name}: {f'{key}: ' if key else ''}{reason}") from None


def command_line(description: str) -> argparse.ArgumentParser:
    """What a training program takes: ``--config FILE [section.key=value …]``, read with ``parse_intermixed_args``.
    Launchers add ``--local_rank``, which is left alone."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", required=True, help="a YAML file, or the name of one in configs/")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser


def config_from_command_line(schema: type[Config], description: str) -> Config:
    """Read what `command_line` describes.

    Raises:
        ValueError: as `load_config`.
    """
    args = command_line(description).parse_intermixed_args()
    return load_config(schema, args.config, args.overrides)


def check_start(section: str, values: Mapping[str, Any], trained: Mapping[str, Any], folder: str) -> None:
    """Raises ValueError where ``values`` of a section are not what the model of ``train.init_from`` was built with."""
    for name, value in values.items():
        if (its := trained.get(name)) != value:
            key = f"{section}.{name}"
            raise ValueError(f"{key}={value} is not that of train.init_from={folder}: use {key}={its}")


def save_config(config: object, path: Path) -> None:
    """Write the resolved config as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
