"""Train a text encoder to read captions of the world: ``python tools/train_text.py --out runs/text``.

Writes its tokenizer and weights into one folder, which ``train.py … text.encoder=runs/text`` keeps frozen. It learns
from captions alone, of scenes of split "train"; a folder that is whole is left as it is.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from data.dataset import WorldClips
from data.options import at_least
from data.packing import load_ahead
from data.seeding import draw_integer, keyed_generator
from data.sheet import checked_folder
from data.world import sample_scene
from data.world.labels import MAX_OBJECTS, OBJECT_WORDS, SCENE_WORDS, relation_labels, word_labels
from data.world.mentions import mentions
from video_dit.caption_reader import CaptionReader, agreement, learn_tokenizer, reading_loss
from video_dit.checkpoint import replace_folder
from video_dit.layers import fast_dtype, find_device
from video_dit.text import TextConfig, t5_encoder

WORDINGS = 8
WARMUP, DECAY = 50, 0.4  # steps; share of the steps over which the rates fall to 0
LABELS = ("count", *OBJECT_WORDS, *SCENE_WORDS, "relations")
VALIDATION = 256  # scenes of split "val"


@dataclass(frozen=True)
class Told:
    """A scene: its captions, and what `CaptionReader` is to read, as numbers: a worker would send each tensor through a
    file of its own, and a process may not have thousands open."""

    captions: list[str]
    labels: dict[str, Any]


@dataclass(frozen=True)
class Scenes(Dataset):
    """Scenes of a split by seed, for workers to draw."""

    clips: WorldClips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, seed: int) -> Told:
        scene = sample_scene(self.clips.split, seed)
        captions = [scene.caption(self.clips.style(seed, wording), wording) for wording in range(WORDINGS)]
        labels = word_labels(scene) | {"relations": relation_labels(scene)}
        return Told(captions, {name: label.tolist() for name, label in labels.items()})


def draw_scenes(split: str, count: int, workers: int) -> list[Told]:
    """The first scenes of a split."""
    clips = WorldClips(split, count, num_frames=1, sizes=[[64, 64]], frame_rates=[8.0])
    loader = load_ahead(Scenes(clips), range(count), min(workers, count))
    return list(tqdm(loader, total=count, desc=f"scenes of split {split}", unit="scene"))


@dataclass(frozen=True)
class Batch:
    """Captions as `CaptionReader.forward` takes them, and their labels."""

    ids: Tensor
    mask: Tensor
    nouns: Tensor
    labels: dict[str, Tensor]


def collate(tokenizer: PreTrainedTokenizerFast, chosen: list[tuple[Told, str]], device: torch.device) -> Batch:
    """Scenes with the caption that is read of each."""
    tokens = tokenizer([caption for _, caption in chosen], padding=True, truncation=True, return_tensors="pt")
    nouns = torch.zeros(len(chosen), MAX_OBJECTS, dtype=torch.int64)
    for row, (told, caption) in enumerate(chosen):
        for place, end in enumerate(mentions(caption, told.labels["count"])):
            nouns[row, place] = tokens.char_to_token(row, end - 1)
    labels = {name: torch.tensor([told.labels[name] for told, _ in chosen], device=device) for name in LABELS}
    return Batch(tokens["input_ids"].to(device), tokens["attention_mask"].to(device), nouns.to(device), labels)


def draws(scenes: list[Told], size: int) -> Iterator[list[tuple[Told, str]]]:
    """Random scenes, each with a random caption, for ever."""
    generator = keyed_generator("text")
    while True:
        chosen = [scenes[draw_integer(len(scenes), generator)] for _ in range(size)]
        yield [(told, told.captions[draw_integer(len(told.captions), generator)]) for told in chosen]


def validate(reader: CaptionReader, tokenizer: PreTrainedTokenizerFast, scenes: list[Told]) -> str:
    """What share of each kind of word it reads as it is, in captions of unseen scenes."""
    device = next(reader.parameters()).device
    batch = collate(tokenizer, [(told, told.captions[0]) for told in scenes], device)
    with torch.no_grad():
        right = agreement(reader(batch.ids, batch.mask, batch.nouns), batch.labels)
    return ", ".join(f"{name} {share:.1%}" for name, share in right.items())


def train(args: argparse.Namespace) -> None:
    """Draw the scenes, learn the vocabulary, train, validate and save."""
    checked_folder(f"--out {args.out}", args.out)
    if (args.out / "model.safetensors").is_file():
        print(f"{args.out} is trained: left as it is")
        return
    if args.out.exists() and any(args.out.iterdir()):
        raise ValueError(f"--out {args.out} holds something else: give a new folder")
    device = find_device(args.device)
    scenes, unseen = (draw_scenes(split, n, args.workers) for split, n in (("train", args.scenes), ("val", VALIDATION)))
    config = TextConfig()
    captions = (caption for told in scenes for caption in told.captions)
    tokenizer = learn_tokenizer(captions, args.vocabulary, config.max_length)
    torch.manual_seed(0)
    reader = CaptionReader(t5_encoder(config, len(tokenizer))).to(device)
    optimizers = reader.optimizers()
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    bf16 = fast_dtype(device) == torch.bfloat16
    bar = tqdm(zip(range(args.steps), draws(scenes, args.batch), strict=False), total=args.steps, desc="text")
    for step, chosen in bar:
        left = (args.steps - step) / max(1.0, DECAY * args.steps)
        for optimizer, full in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP, left)
            optimizer.zero_grad()
        batch = collate(tokenizer, chosen, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            reading = reader(batch.ids, batch.mask, batch.nouns)
        loss = reading_loss(reading, batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        bar.set_postfix({"loss": f"{loss.item():.2f}"}, refresh=False)
    print(f"unseen scenes: {validate(reader, tokenizer, unseen)}")
    tokenizer.backend_tokenizer.no_truncation()  # calls leave theirs behind, and they would be saved
    tokenizer.backend_tokenizer.no_padding()
    with replace_folder(args.out) as draft:
        tokenizer.save_pretrained(draft)
        reader.encoder.save_pretrained(draft)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; exits with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="train_text.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=at_least(1), default=6_000, help="to learn from (default: %(default)s)")
    parser.add_argument("--steps", type=at_least(1), default=400, help="default: %(default)s")
    parser.add_argument("--batch", type=at_least(1), default=128, help="captions a step (default: %(default)s)")
    parser.add_argument("--vocabulary", type=at_least(300), default=600, help="tokens (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/text"), help="default: %(default)s")
    parser.add_argument("--workers", type=at_least(0), default=2, help="processes that draw (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    return parser.parse_args(arguments)


def main() -> int:
    """Exit code 2 for what the user got wrong."""
    for library in (diffusers.utils.logging, transformers.utils.logging):  # their bars would cut ours in two
        library.disable_progress_bar()
    try:
        train(parse_arguments())
    except ValueError as error:
        print(f"train_text.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
