"""Captions of clips by a vision-language model: any of transformers' image-text-to-text kind, by hub name or folder."""


import numpy as np
import torch
from PIL import Image
from torch import Tensor

QUESTION = (
    "These are frames of one video clip, in order. Describe the clip in one paragraph: what is to be seen and how it looks, "
    "what moves and how, the place, the light, and how the camera moves. Say only what can be seen."
)


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
            self.model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype).to(device).eval()
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"--caption {name}: no image-text-to-text model that loads ({reason})") from error
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(f"--caption {name}: its processor has no chat template: choose an instruction-tuned model")

    @torch.no_grad()
    def caption(self, frames: Tensor) -> str:
        """What uint8 ``(t, h, w, 3)`` frames show, in one line; the same each time."""
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), self.num_frames)).round().astype(int))
        images = [Image.fromarray(frames[int(number)].numpy()) for number in chosen]
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
