"""Every YAML in configs/ loads, and opens with the command that uses it."""

import importlib.util
from pathlib import Path

import pytest

from video_dit.config import CONFIGS, RunConfig, load_config

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
    assert {"sora_tiny.yaml", "sora_small.yaml", "vae_tiny.yaml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads_and_opens_with_its_command(path: Path) -> None:
    program = "tools/train_vae.py" if path.name.startswith("vae") else "train.py"
    assert path.read_text().startswith(f"# deepspeed {program} --config {path.name}")
    load_config(schema_of(path), path.name)


def test_sora_small_is_about_150_million_parameters() -> None:
    import torch

    from video_dit.model import VideoDiT

    config = load_config(RunConfig, "sora_small.yaml")
    with torch.device("meta"):
        model = VideoDiT(
            hidden_size=config.model.hidden_size,
            num_layers=config.model.num_layers,
            num_heads=config.model.num_heads,
            text_dim=config.text.width,
        )
    assert 130e6 < sum(p.numel() for p in model.parameters()) < 170e6
