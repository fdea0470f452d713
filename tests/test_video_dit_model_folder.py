"""A folder is a whole model, or what it lacks is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from video_dit import VideoPipeline
from video_dit.model_folder import check_model_folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda folder: (folder / "model_index.json").write_text("[1]"), "model_index.json is damaged"),
        (lambda folder: shutil.rmtree(folder / "vae"), "lacks vae/"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "lacks tokenizer/"),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "lacks scheduler/"),
        (lambda folder: next((folder / "transformer").glob("*.safetensors")).unlink(), "lacks transformer/"),
        (lambda folder: (folder / "text_encoder" / "model.safetensors").unlink(), "lacks text_encoder/"),
    ],
)
def test_a_folder_with_missing_parts_is_named(
    tiny_pipe: VideoPipeline, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    check_model_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        check_model_folder(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_index_names_all_parts(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "VideoPipeline"
    assert {name for name, value in index.items() if isinstance(value, list)} == {
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
    }
