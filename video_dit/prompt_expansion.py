"""Prompts told in full, as the captions that a model was trained on, before a video is made of them."""

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoTokenizer
from yaml import YAMLError

from data.manifest import read_manifest
from data.world import sample_scene
from data.world.expansion import Expansion, expand
from vae3d.interop import DAMAGE, one_line
from video_dit.request import PromptSchedule
from video_dit.rewriter import EXAMPLES, Rewriter, can_read

WORLD = "world"
SHOWN = 3  # captions that a language model is shown


def expanded_prompts(
    asked: Sequence[tuple[str, int]],
    expander: str,
    model: Path,
    device: torch.device,
    examples: Sequence[str],
    say: Callable[[str], None],
) -> list[str]:
    """Prompts or prompt schedules told in full, as `told_prompts`.

    Args:
        say: takes a line for each that is new, and what there is to know of it.
    Raises:
        ValueError: as `told_prompts`.
    """
    told = told_prompts(asked, expander, model, device, examples)
    for line in dict.fromkeys(line for text, notes in told for line in (*notes, f"prompt: {text}")):
        say(line)
    return [text for text, _ in told]


def told_prompts(
    asked: Sequence[tuple[str, int]], expander: str, model: Path, device: torch.device, examples: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Prompts or prompt schedules told in full, the same each time, each with what there is to know of it.

    Args:
        asked: prompts, each with the seed of its video, by which the world's rules draw what it leaves unsaid.
        expander: "world", whose rules need no model, or a language model by folder or name on the Hugging Face Hub,
            which is let go before this returns.
        model: folder of the video model, whose tokenizer knows how much of a caption it reads.
        examples: captions in whose style a language model writes; if there are none, some that the video model was
            trained on, where its folder tells, else `EXAMPLES`.
    Raises:
        ValueError: as `data.world.expansion.expand`, `Rewriter` and `PromptSchedule.parse`, or the video model's
            tokenizer cannot be loaded.
    """
    schedules = [PromptSchedule.parse(prompt) for prompt, _ in asked]
    try:
        tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    except (*DAMAGE, ImportError) as error:
        damaged = f"{model / 'tokenizer'} holds no tokenizer that loads: {one_line(error)}: copy the folder again"
        raise ValueError(f"--expand-prompt {expander}: {damaged}") from None
    fits = partial(can_read, tokenizer)
    if expander == WORLD:
        found = [expand(one.texts, seed, fits) for one, (_, seed) in zip(schedules, asked, strict=True)]
    else:
        shown = examples or training_captions(model, fits) or EXAMPLES
        found = _rewritten(schedules, Rewriter(expander, device, shown, tokenizer))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return [
        (_told(schedule.starts, expansion.texts), expansion.notes)
        for schedule, expansion in zip(schedules, found, strict=True)
    ]


def training_captions(model: Path, fits: Callable[[str], bool]) -> list[str]:
    """Some that a model was trained on, of those that it reads to their end; none where its folder does not tell of
    which clips, or what tells of them is not there or damaged."""
    settings = model / "config.yaml"
    try:
        manifest = OmegaConf.select(OmegaConf.load(settings), "data.manifest") if settings.is_file() else None
        if not isinstance(manifest, str):
            return []
        of_clips = (record.text for record in read_manifest(manifest, "train")) if manifest else _of_the_world()
        captions = [caption for caption in dict.fromkeys(of_clips) if caption.strip() and fits(caption)]
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return []
    return captions[:: max(1, len(captions) // SHOWN)][:SHOWN]


def _of_the_world() -> Iterator[str]:
    return (sample_scene("train", seed).caption() for seed in range(4 * SHOWN))


def _rewritten(schedules: Sequence[PromptSchedule], rewrite: Rewriter) -> list[Expansion]:
    """By a language model, which is told what stood before in a schedule; and is asked once for what is the same."""
    known: dict[PromptSchedule, Expansion] = {}
    for schedule in schedules:
        if schedule in known:
            continue
        texts: list[str] = []
        notes = []
        for text in schedule.texts:
            caption = rewrite(text, texts[-1] if texts else "") if text.strip() else text
            if caption is None:
                notes.append(f"prompt={text!r} stays as it is: {rewrite.given} says nothing of use")
            texts.append(text if caption is None else caption)
        known[schedule] = Expansion(tuple(texts), tuple(notes))
    return [known[schedule] for schedule in schedules]


def _told(starts: Sequence[float], texts: Sequence[str]) -> str:
    """Inverse of `PromptSchedule.parse`."""
    if len(texts) == 1 and PromptSchedule.parse(texts[0]).texts == tuple(texts):
        return texts[0]
    times = [np.format_float_positional(start, trim="-") for start in starts]
    return " | ".join(f"{time}: {text}" for time, text in zip(times, texts, strict=True))
