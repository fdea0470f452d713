"""A model on disk, or on the Hugging Face Hub: a diffusers folder with all parts of a pipeline."""

import json
import re
from pathlib import Path

from vae3d.interop import HUB_NAME, download

PIPELINE_FILE = "from video_dit.pipeline import VideoPipeline  # noqa: F401\n"
"""``pipeline.py`` of the folder, by which diffusers finds the class."""
OURS, WAN = "VideoPipeline", "WanPipeline"
WEIGHTED = ("transformer", "transformer_2", "vae", "text_encoder")
FILES = (
    "model_index.json",
    *(f"{part}/*.{suffix}" for part in WEIGHTED for suffix in ("json", "safetensors")),
    *("tokenizer/*.json", "tokenizer/*.model", "scheduler/*.json", "few_steps/*.safetensors", "config.yaml"),
)


def find_model(name: str | Path) -> tuple[Path, Path]:
    """The folder of a model, and what to call it so that it is found again as it is now.

    Args:
        name: a folder, or where there is none of that name, a repository on the Hub: "owner/name", or with a revision
            "owner/name@revision". It is downloaded if it was not before, and called by its commit.
    Raises:
        ValueError: there is no such repository, no connection, or it is no model that is understood.
    """
    found = re.fullmatch(rf"({HUB_NAME})(?:@([\w.-]+))?", str(name))
    if found is None or Path(name).exists():
        return Path(name), Path(name)
    repository, revision = found.groups()
    index = download(repository, FILES[:1], revision)
    model_parts(index, published=True)  # before all the rest is downloaded
    return download(repository, FILES, index.name), Path(f"{repository}@{index.name}")


def check_model_folder(folder: str | Path, published: bool = False) -> str:
    """The class of the pipeline that ``folder`` holds: `VideoPipeline`, or, if ``published`` ones are taken,
    `WanPipeline` of diffusers.

    Raises:
        ValueError: it is another one, or not whole; the message names what is missing.
    """
    folder = Path(folder)
    name, parts = model_parts(folder, published)
    for part in sorted({*parts, "transformer", "vae", "text_encoder", "tokenizer", "scheduler"}):
        inside = folder / part
        if not any(inside.glob("*.json")) or (part in WEIGHTED and not any(inside.glob("*.safetensors"))):
            fix = "train.py writes all parts" if name == OURS else "copy the folder again"
            raise ValueError(f"{folder} lacks {part}/: the model is not whole; {fix}")
    return name


def model_parts(folder: Path, published: bool) -> tuple[str, list[str]]:
    """The class of a folder's pipeline and the names of its parts, by its index; ValueError as of
    `check_model_folder`."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no model folder: it has no model_index.json; give one that train.py wrote")
    try:
        told = dict(json.loads(index.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{index} is damaged ({error}): copy the folder again") from None
    name = told.get("_class_name")
    if name != OURS and not (published and name == WAN):
        others = f", or of a {WAN}" if published else ""
        raise ValueError(f"{folder} is a {name}: give the folder of a {OURS}, as train.py writes it{others}")
    return name, [part for part, value in told.items() if isinstance(value, list) and value[:1] != [None]]
