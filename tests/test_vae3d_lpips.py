"""LPIPS from files with the names of the original ones; their values are random here."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae3d.lpips import HEADS_FILE, LPIPS, STAGES, VGG_FILE, WIDTHS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files: torchvision's VGG-16, with classifier weights that are not needed, and the heads of lpips."""
    path = tmp_path_factory.mktemp("lpips")
    network = LPIPS()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in network.features.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        heads = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1) for n, width in enumerate(WIDTHS[1:])}
    vgg = {f"features.{name}": value for name, value in network.features.state_dict().items()}
    torch.save(vgg | {"classifier.0.weight": torch.zeros(2, 2)}, path / VGG_FILE)
    torch.save(heads, path / HEADS_FILE)
    return path


def frames(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 2, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_layers_are_those_of_vgg_16() -> None:
    assert [number for stage in STAGES for number in stage] == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert sum(p.numel() for p in LPIPS().features.parameters()) == 14_714_688  # torchvision's features


@torch.no_grad()
def test_a_distance(folder: Path) -> None:
    distance = LPIPS.from_folder(folder)
    x, y = frames(0), frames(1)
    assert distance(x, x) == 0
    assert distance(x, y) > 0
    torch.testing.assert_close(distance(x, y), distance(y, x))
    assert distance(x, x + 0.05 * y) < distance(x, x + 0.5 * y)


def test_only_the_prediction_learns(folder: Path) -> None:
    distance = LPIPS.from_folder(folder)
    x = frames(0).requires_grad_()
    distance(x, frames(1)).backward()
    assert x.grad is not None
    assert x.grad.any()
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_missing_and_other_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{VGG_FILE} is missing")):
        LPIPS.from_folder(tmp_path)
    (tmp_path / VGG_FILE).write_bytes((folder / VGG_FILE).read_bytes())
    torch.save({"lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}, tmp_path / HEADS_FILE)
    with pytest.raises(ValueError, match="holds other weights") as error:
        LPIPS.from_folder(tmp_path)
    assert "\n" not in str(error.value)
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / VGG_FILE)
    with pytest.raises(ValueError, match="holds other weights"):
        LPIPS.from_folder(tmp_path)
    for garbage in (b"", b"no weights", (folder / HEADS_FILE).read_bytes()[:100]):
        (tmp_path / HEADS_FILE).write_bytes(garbage)
        with pytest.raises(ValueError, match=f"{HEADS_FILE} is damaged"):
            LPIPS.from_folder(tmp_path)
