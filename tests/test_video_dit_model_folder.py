"""A folder is a whole model, or what it lacks is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_wan import wan

from video_dit import VideoPipeline
from video_dit.model_folder import check_model_folder, find_model


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


def test_a_published_model_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    wan().save_pretrained(tmp_path)
    assert check_model_folder(tmp_path, published=True) == "WanPipeline"
    with pytest.raises(ValueError, match="is a WanPipeline: give the folder of a VideoPipeline, as train"):
        check_model_folder(tmp_path)
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks transformer/: the model is not whole; copy the folder again"):
        check_model_folder(tmp_path, published=True)


def test_two_transformers_are_both_needed(tmp_path: Path) -> None:
    wan(two=True).save_pretrained(tmp_path)
    check_model_folder(tmp_path, published=True)
    next((tmp_path / "transformer_2").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="lacks transformer_2/"):
        check_model_folder(tmp_path, published=True)


@pytest.mark.parametrize("name", ["CogVideoXPipeline", "WanImageToVideoPipeline", None])
def test_another_pipeline_is_named(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    for published, others in ((False, "writes it"), (True, "writes it, or of a WanPipeline")):
        with pytest.raises(ValueError, match=f"is a {name}: give the folder of a VideoPipeline, .*{others}$"):
            check_model_folder(tmp_path, published)


@pytest.mark.parametrize("name", ["gone", "/gone/away", "a/b/c", "./a/b", "a b/c"])
def test_a_folder_is_itself(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert find_model(name) == (Path(name), Path(name))
    assert find_model("owner/model") == (Path("owner/model"), Path("owner/model"))


def test_a_name_on_the_hub_is_found_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded, by name and by the commit that it is called by, after the name has another one as well."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    for commit in ("0" * 40, "1" * 40):
        folder = repository / "snapshots" / commit
        wan().save_pretrained(folder)
        (repository / "refs" / "main").write_text(commit)
        assert find_model("owner/model") == (folder, Path(f"owner/model@{commit}"))
    first = repository / "snapshots" / ("0" * 40)
    assert find_model(Path(f"owner/model@{first.name}")) == (first, Path(f"owner/model@{first.name}"))
    for name in ("owner/other", "owner/model@v2"):
        with pytest.raises(ValueError, match="is no folder here, and the Hugging Face Hub gave no") as error:
            find_model(name)
        assert "\n" not in str(error.value)
    (folder / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    with pytest.raises(ValueError, match="is a CogVideoXPipeline"):
        find_model("owner/model")
