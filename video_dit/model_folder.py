"""A model on disk: a diffusers folder with all parts of `VideoPipeline`."""

import json
from pathlib import Path

PIPELINE_FILE = "from video_dit.pipeline import VideoPipeline  # noqa: F401\n"
"""``pipeline.py`` of the folder, by which diffusers finds the class."""


def check_model_folder(folder: str | Path) -> None:
    """Raises ValueError, naming what is missing, unless ``folder`` holds a whole `VideoPipeline`."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no model folder: it has no model_index.json; give one that train.py wrote")
    try:
        parts = [name for name, value in dict(json.loads(index.read_text())).items() if isinstance(value, list)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{index} is damaged ({error}): copy the folder again") from None
    weighted = {"transformer", "vae", "text_encoder"}
    for part in sorted({*parts, *weighted, "tokenizer", "scheduler"}):
        inside = folder / part
        if not any(inside.glob("*.json")) or (part in weighted and not any(inside.glob("*.safetensors"))):
            raise ValueError(f"{folder} lacks {part}/: the model was not saved whole; train.py writes all parts")
