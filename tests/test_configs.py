"""Every YAML in configs/ loads, and opens with the command that uses it."""

import importlib.util
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from video_dit.config import CONFIGS, RunConfig, load_config
from video_dit.model import VideoDiT

FILES = sorted(CONFIGS.glob("*.yaml"))


def schema_of(path: Path) -> type:
    """The dataclass a config is read into; the autoencoder's stands in its tool."""
    if not path.name.startswith("vae"):
        return RunConfig
    spec = importlib.util.spec_from_file_location("train_vae", CONFIGS.parent / "tools" / "train_vae.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VAEConfig


def test_there_are_configs() -> None:
    assert {f"sora_{size}.yaml" for size in ("tiny", "small", "base", "large")} | {"vae_tiny.yaml"} <= {
        path.name for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads_and_opens_with_its_command(path: Path) -> None:
    program = "tools/train_vae.py" if path.name.startswith("vae") else "train.py"
    assert path.read_text().startswith(f"# deepspeed {program} --config {path.name}")
    load_config(schema_of(path), path.name)


@pytest.mark.parametrize(("name", "millions"), [("sora_small", 150), ("sora_base", 700), ("sora_large", 3000)])
def test_sizes_are_about_what_their_names_stand_for(name: str, millions: int) -> None:
    config = load_config(RunConfig, f"{name}.yaml")
    with torch.device("meta"):
        model = VideoDiT(text_dim=config.text.width, **asdict(config.model))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.1)
    head_dim = config.model.hidden_size // config.model.num_heads
    assert head_dim in (64, 128)
    assert config.model.hidden_size % 128 == 0
