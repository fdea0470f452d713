"""A language model that rewrites short prompts as full captions: any of `transformers`' that writes text."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from data.captions import WHAT_IS_TOLD, no_model
from vae3d.interop import DAMAGE, one_line
from video_dit.layers import fast_dtype

EXAMPLES = (
    "a dog runs along a beach, its wet brown fur shaking at every step, low waves breaking behind it, late sun from "
    "the left, the camera follows it from the side",
    "a woman pours tea into a white cup, her hands in the sleeves of a blue sweater, steam rising before a dark "
    "kitchen wall, soft light from a window, the camera is still",
    "a train crosses a stone bridge, four red carriages behind a black engine, pale smoke drifting over a green "
    "valley, morning mist, the camera pulls back slowly from above",
)
INSTRUCTION = (
    "Rewrite the short prompt of a video as a full caption of that video, in the style of the examples. Keep all that "
    f"the prompt says. Where it leaves things open, choose what goes with it: {WHAT_IS_TOLD}. Answer with the caption "
    "alone, one paragraph of at most {words} words."
)
BEFORE = " Until then the video shows: {before} Keep what the prompt does not change."
SHORT, CAPTION = "Short:", "Caption:"
LABEL = r"^[^.:]{0,60}\b(?:caption|prompt|description|answer|version)\b[^.:]{0,20}:\s*"
QUOTES = " \"'\u2018\u2019\u201c\u201d\u00ab\u00bb"
MOST_WORDS = 120


def load_language_model(name: str, device: torch.device) -> tuple[Any, Any]:
    """The tokenizer and the model, a causal or a sequence-to-sequence one, by folder or name on the Hugging Face Hub.

    Raises:
        ValueError: there is none, it cannot be loaded, or it writes no text.
    """
    given = f"--expand-prompt {name}"
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise ValueError(f"{given}: no such folder: give a text model's, its name on the Hugging Face Hub, or world")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
        if not causal and config.model_type not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            raise ValueError("it is of the type " + config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        kind = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
        loaded: Any = kind.from_pretrained(name, dtype=fast_dtype(device), output_loading_info=True)
        model, loading = loaded
        if loading["missing_keys"]:
            raise ValueError(f"it has no weights for {sorted(loading['missing_keys'])[0]}")
    except (*DAMAGE, ImportError) as error:
        reason = ValueError(f"a file of it lacks {error}") if isinstance(error, KeyError) else error
        raise ValueError(no_model(given, "text", reason)) from None
    return tokenizer, model.to(device).eval()


class Rewriter:
    """Asks a model for captions, always by its likeliest words: the same each time.

    Args:
        name: a folder, or a name on the Hugging Face Hub.
        examples: captions in whose style it is to write; what stands before the first comma of each is shown as the
            prompt that it belongs to.
        text_tokenizer: of the video model, which reads as much of a caption as its ``model_max_length``.
    Raises:
        ValueError: as `load_language_model`.
    """

    def __init__(
        self, name: str, device: torch.device, examples: Sequence[str], text_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.given = f"--expand-prompt {name}"
        self.tokenizer, self.model = load_language_model(name, device)
        self.examples, self.text_tokenizer = examples, text_tokenizer
        room = text_tokenizer.model_max_length / tokens_a_word(text_tokenizer, examples)
        self.words = max(8, min(MOST_WORDS, int(0.9 * room)))
        self.tokens = int(1.5 * self.words * tokens_a_word(self.tokenizer, examples))

    def __call__(self, prompt: str, before: str = "") -> str | None:
        """A caption that the video model reads to its end, or None where the model says nothing of use.

        Args:
            before: the caption of what the video shows until then.
        Raises:
            ValueError: the question is longer than the model reads, or its chat template fails.
        """
        answer = tidied(self._answer(question(prompt, before, self.examples, self.words)), prompt)
        caption = shortened(answer, lambda text: can_read(self.text_tokenizer, text))
        return caption if makes_sense(caption, prompt) else None

    @torch.no_grad()
    def _answer(self, asked: str) -> str:
        if self.tokenizer.chat_template:
            try:
                inputs = self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": asked}],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    enable_thinking=False,  # which templates of models that think ask for
                )
            except (*DAMAGE, ImportError, TemplateError) as error:
                reason = f"its chat template fails: {one_line(error)}"
                raise ValueError(f"{self.given}: {reason}: choose another model") from None
        else:
            inputs = self.tokenizer(asked, return_tensors="pt")
        ids, mask = (inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        both = not self.model.config.is_encoder_decoder  # what it reads and writes is one text
        places = getattr(self.model.config, "max_position_embeddings", None)
        length = ids.shape[1] + (self.tokens if both else 0)
        if places is not None and length > places:
            raise ValueError(f"{self.given}: it takes {places} tokens, and the question {length}: choose another model")
        pad = self.tokenizer.pad_token_id
        told = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=self.tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
        )[0, ids.shape[1] if both else 1 :]  # or what the decoder begins with
        answer = str(self.tokenizer.decode(told, skip_special_tokens=True))
        return answer if len(told) < self.tokens else shortened(answer, lambda text: text != answer)


def question(prompt: str, before: str, examples: Sequence[str], words: int) -> str:
    """What a model is asked, ending where the caption is to begin.

    Args:
        before: the caption of what the video shows until then, if there is one.
        words: the most that the caption may have.
    """
    asked = INSTRUCTION.format(words=words)
    if before:
        asked += BEFORE.format(before=before.rstrip(".") + ".")
    shown = [f"{SHORT} {re.split('[,.;]', caption)[0]}\n{CAPTION} {caption}" for caption in examples]
    return "\n\n".join([asked, *shown, f"{SHORT} {prompt}\n{CAPTION}"])


def tidied(answer: str, prompt: str) -> str:
    """The first paragraph of an answer on one line, without what leads up to it: thoughts, headings, marks, quotes, the
    prompt again."""
    kept: list[str] = []
    thoughts = re.compile(r"<think>.*?(?:</think>|$)", flags=re.DOTALL)
    for line in thoughts.sub("", answer).splitlines():
        text = " ".join(re.sub(r"\*\*|__|`", "", line).split())
        text = re.sub(r"^(?:[#>*-]+|\d+[.)]) ", "", text)
        again = text.casefold().startswith(SHORT.casefold())
        if kept and (not text or again):
            break
        text = "" if again or text.endswith(":") else re.sub(LABEL, "", text, flags=re.IGNORECASE)
        if text.strip(QUOTES + ".").casefold() != prompt.strip(QUOTES + ".").casefold():
            kept += [text] if text else []
    said = " ".join(kept).strip(QUOTES)
    echo = re.match(rf"{re.escape(prompt)}\s*[:\u2013\u2014-]\s+", said, flags=re.IGNORECASE)
    return " ".join(said[echo.end() if echo else 0 :].strip(QUOTES).split()).replace(" |", ",").replace("|", ",")


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """As much of the beginning of a text as fits: whole sentences, else clauses, else words."""
    if fits(text):
        return text
    for ends in (r"(?<=[.!?]) ", r"[,;] ", r" "):
        for end in reversed([found.start() for found in re.finditer(ends, text)]):
            if fits(text[:end]):
                return text[:end]
    return ""


def makes_sense(caption: str, prompt: str) -> bool:
    """Whether a caption may be one: no shorter than the prompt, and not the same few words again and again."""
    words = re.findall(r"\w+", caption.casefold())
    return len(words) >= max(1, len(re.findall(r"\w+", prompt))) and len(set(words)) >= len(words) / 3


def can_read(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text encoder reads a text to its end."""
    return len(tokenizer(text, verbose=False)["input_ids"]) <= tokenizer.model_max_length


def tokens_a_word(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """On an average."""
    tokens = sum(len(tokenizer(text, verbose=False)["input_ids"]) for text in texts)
    return tokens / sum(len(text.split()) for text in texts)
