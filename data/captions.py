"""Captions of clips: from a file beside the video, or by a vision-language model.

The model is any of transformers' image-text-to-text kind, by hub name or folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data.journal import Journal
from data.last_reader import LastReader
from data.shots import Shot
from data.sidecar import sidecar_caption
from data.survey import Source
from data.video_limits import VideoError
from data.workers import by_processes, by_ray

NO_CAPTION = "without a caption"
WHAT_IS_TOLD = "what is seen and how it looks, what moves and how, the place, the light, and how the camera moves"
QUESTION = (
    "These are frames of one video clip, in order. Describe the clip in one paragraph: "
    f"{WHAT_IS_TOLD}. Say only what can be seen."
)


@dataclass(frozen=True)
class Part:
    """Of a file, from ``start``, in seconds."""

    path: Path
    start: float
    seconds: float


@dataclass(frozen=True)
class Caption:
    """text: what a shot shows, in one line. objection: why there is none."""

    text: str = ""
    objection: str = ""


def load_processor(name: str, device: str) -> Any:
    """What turns pictures and words into a model's inputs, by hub name or folder.

    Raises:
        ValueError: there is none, it cannot ask questions, or there is no such device.
    """
    from transformers import AutoProcessor

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no such GPU here: use --device cpu")
    try:
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(_no_model(name, error)) from error
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"--caption-model {name}: it has no chat template: choose an instruction-tuned model")
    return processor


def _no_model(name: str, error: Exception) -> str:
    return no_model(f"--caption-model {name}", "image-text-to-text", error)


def no_model(given: str, kind: str, error: Exception) -> str:
    """What is said where what is ``given`` as a model of a ``kind`` cannot be loaded."""
    return f"{given}: no {kind} model that loads: {' '.join(str(error).split())}"


class Captioner:
    """A model in bf16 that is shown a few frames and asked what the clip shows.

    Args:
        name: a name on the Hugging Face Hub, or a folder.
        device: "cpu" or "cuda".
        num_frames: frames that it sees of a clip, evenly spread.
        max_tokens: the longest answer.
    Raises:
        ValueError: as `load_processor`, or the model cannot be loaded.
    """

    def __init__(self, name: str, device: str = "cpu", num_frames: int = 4, max_tokens: int = 160) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModelForImageTextToText

        self.num_frames, self.max_tokens = num_frames, max_tokens
        self.reader = LastReader()
        self.processor = load_processor(name, device)
        try:
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.bfloat16)
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ValueError(_no_model(name, error)) from error
        self.model = model.to(device).eval()  # type: ignore[arg-type]

    def __call__(self, part: Part) -> Caption:
        """What a part of a file shows; frames between those that are looked at are not kept."""
        moments = [part.start + part.seconds * (number + 0.5) / self.num_frames for number in range(self.num_frames)]
        try:
            reader = self.reader(part.path)
            return Caption(self.caption(torch.cat([reader.read(moment, 1e-6).frames[:1] for moment in moments])))
        except VideoError as error:
            return Caption(objection=error.reason)

    @torch.no_grad()
    def caption(self, frames: Tensor) -> str:
        """What uint8 ``(t, h, w, 3)`` frames show, in one line; the same each time."""
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": QUESTION}]
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
) -> list[Caption]:
    """Of each shot what stands beside its file, else what the ``model`` says, if there is one.

    Args:
        known: a `Journal` of what the model said in earlier runs; what is new is added.
        engine: "local", where this process asks the model, or "ray" (see `data.workers.by_ray`).
    Raises:
        ValueError: as `Captioner`.
    """
    beside = {path: _beside(Path(path)) for path in {source.path for source, _ in chosen}}
    captions = [beside[source.path] for source, _ in chosen]
    if not model:
        return [caption if caption != Caption() else Caption(objection=NO_CAPTION) for caption in captions]
    keys = [json.dumps([model, source.path, source.changed, shot.start, shot.end]) for source, shot in chosen]
    parts = [Part(Path(source.path), shot.start, shot.end - shot.start) for source, shot in chosen]
    journal = Journal(known)
    places: dict[Part, int] = {}
    for place, key in enumerate(keys):
        if captions[place] == Caption():
            captions[place] = Caption(journal.facts.get(key, ""))
            places |= {parts[place]: place} if not captions[place].text else {}
    if not places:
        return captions
    make, on_gpu = partial(Captioner, model, device), device == "cuda"
    if engine == "ray":
        said = by_ray(make, list(places), 0, num_gpus=1 if on_gpu else None, most=None if on_gpu else 1)
    else:
        said = by_processes(make(), list(places), 0)
    with tqdm(total=len(places), desc="captions", unit="clip", disable=None) as bar:
        for part, caption in said:
            place = places[part]
            captions[place] = caption or Caption(objection="asking the model ends the process")
            if captions[place] == Caption():
                captions[place] = Caption(objection="the model says nothing")
            if captions[place].text:
                journal.put(keys[place], captions[place].text)
            bar.update()
    journal.settle()
    return captions


def _beside(path: Path) -> Caption:
    try:
        return Caption(sidecar_caption(path))
    except (ValueError, OSError) as error:
        return Caption(objection=f"its caption cannot be read: {error}")
