"""Captions of clips: from a file beside the video, or by a vision-language model.

The model is any of transformers' image-text-to-text kind, by hub name or folder.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data.journal import Journal
from data.manifest import COLUMNS
from data.shots import Shot
from data.survey import Source
from data.workers import by_processes, by_ray

logger = logging.getLogger(__name__)

QUESTION = (
    "These are frames of one video clip, in order. Describe the clip in one paragraph: what is seen and how it looks, "
    "what moves and how, the place, the light, and how the camera moves. Say only what can be seen."
)


def sidecar_caption(path: Path) -> str:
    """What a .txt or .json beside a video says of it: ``a.txt``, ``a.mp4.txt``, or the text, caption, prompt or
    description of ``a.json``; empty where there is none.

    Raises:
        ValueError: it is no UTF-8 text, or no JSON object.
    """
    for file in (path.with_suffix(".txt"), path.with_name(path.name + ".txt"), path.with_suffix(".json")):
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8-sig")
            if file.suffix == ".json":
                found = json.loads(text)
                text = next((found[name] for name in COLUMNS["text"] if isinstance(found.get(name), str)), "")
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{file} is no {'UTF-8 text' if file.suffix == '.txt' else 'JSON object'}") from error
        if text.strip():
            return " ".join(text.split())
    return ""


@dataclass(frozen=True)
class Part:
    """Of a file, from ``start``, in seconds."""

    path: Path
    start: float
    seconds: float


class Captioner:
    """A model that is shown a few frames and asked what the clip shows.

    Args:
        name: a name on the Hugging Face Hub, or a folder; its processor must have a chat template.
        device: where it runs; in bf16 where that is fast.
        num_frames: frames that it sees of a clip, evenly spread.
        max_tokens: the longest answer.
    Raises:
        ValueError: there is no such model, or it is of another kind.
    """

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        num_frames: int = 4,
        max_tokens: int = 160,
        question: str = QUESTION,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.num_frames, self.max_tokens, self.question = num_frames, max_tokens, question
        try:
            self.processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
            self.model = model.to(device).eval()  # type: ignore[arg-type]
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"--caption-model {name}: no image-text-to-text model that loads ({reason})") from error
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(
                f"--caption-model {name}: its processor has no chat template: choose an instruction-tuned model"
            )

    def __call__(self, part: Part) -> str:
        """What a part of a file shows; nothing, with a warning, where it cannot be read."""
        from data.video import VideoError, read_video

        rate = self.num_frames / part.seconds  # each frame from the middle of its share
        start = part.start + 0.5 / rate
        try:
            return self.caption(read_video(part.path, start, part.start + part.seconds - start, rate).frames)
        except VideoError as error:
            logger.warning("no caption: %s", error)
            return ""

    @torch.no_grad()
    def caption(self, frames: Tensor) -> str:
        """What uint8 ``(t, h, w, 3)`` frames show, in one line; the same each time."""
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": self.question}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)
        answer = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        told = self.processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return " ".join(told.split())


def caption_all(
    chosen: Sequence[tuple[Source, Shot]], model: str | None, device: str, known: Path, engine: str
) -> list[str]:
    """A caption of each shot: what stands beside its file, else what the ``model`` says, if there is one; else nothing.

    Args:
        known: a `Journal` of what the model said in earlier runs; what is new is added.
        engine: "local", where this process asks the model, or "ray" (see `data.workers.by_ray`).
    Raises:
        ValueError: as `sidecar_caption` and `Captioner`.
    """
    beside = {source.path: sidecar_caption(Path(source.path)) for source, _ in chosen}
    texts = [beside[source.path] for source, _ in chosen]
    if not model:
        return texts
    keys = [json.dumps([model, source.path, source.changed, shot.start, shot.end]) for source, shot in chosen]
    journal = Journal(known)
    texts = [text or journal.facts.get(key, "") for text, key in zip(texts, keys, strict=True)]
    parts = [Part(Path(source.path), shot.start, shot.end - shot.start) for source, shot in chosen]
    places = {part: place for place, part in enumerate(parts) if not texts[place]}
    if not places:
        return texts
    make = partial(Captioner, model, device)
    if engine == "ray":
        said = by_ray(make, list(places), 0, num_gpus=1 if device == "cuda" else None)
    else:
        said = by_processes(make(), list(places), 0)
    with tqdm(total=len(places), desc="captions", unit="clip", disable=None) as bar:
        for part, text in said:
            texts[places[part]] = text or ""
            journal.put(keys[places[part]], text)
            bar.update()
    journal.settle()
    return texts
