"""Model folders: what is whole is loaded, and what is not is refused in one line, never left random."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from video_dit import VideoPipeline
from video_dit.loading import load_model

PARTS = ("transformer", "vae", "text_encoder")


@pytest.fixture
def folder(tiny_pipe: VideoPipeline, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match=str(folder)) as error:
        load_model(folder, torch.float32)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_folder_is_the_pipeline_that_was_saved(
    tiny_pipe: VideoPipeline, folder: Path, dtype: torch.dtype
) -> None:
    found = load_model(folder, dtype)
    for part in PARTS:
        module, saved = getattr(found, part), getattr(tiny_pipe, part)
        assert not module.training and next(module.parameters()).dtype == dtype
        for name, tensor in saved.state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor.to(module.state_dict()[name].dtype)), name
    assert found.noise == tiny_pipe.noise and found.frame_rate == tiny_pipe.frame_rate


@pytest.mark.parametrize("part", PARTS)
def test_a_weight_that_is_missing_is_named(folder: Path, part: str) -> None:
    kept = load_file(weights(folder, part))
    name = next(name for name in kept if "norm" not in name and "shared" not in name)
    save_file(
        {other: tensor for other, tensor in kept.items() if other != name}, weights(folder, part), {"format": "pt"}
    )
    assert name in refusal(folder)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_cut_off_is_refused(folder: Path, part: str) -> None:
    file = weights(folder, part)
    file.write_bytes(file.read_bytes()[:1000])
    refusal(folder)


def test_a_config_that_does_not_fit_is_refused(folder: Path) -> None:
    for part, changed in (("text_encoder", {"model_type": "bert"}), ("transformer", {"hidden_size": 64})):
        file = folder / part / "config.json"
        before = file.read_text()
        file.write_text(json.dumps(json.loads(before) | changed))
        refusal(folder)
        file.write_text(before)
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    refusal(folder)
