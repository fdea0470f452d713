"""A small text encoder that is taught to read captions of the world, before a transformer learns from it.

Its vocabulary is words and parts of words, learnt from the captions (byte-pair encoding, Sennrich et al., 2016,
arXiv:1508.07909), so a caption has 40 tokens and not 190 bytes; any other text falls apart into bytes. It learns to
tell at each object's noun what that object is and does, and at the end where all takes place; what reads it off is
thrown away after that. docs/training.md, "The text encoder", has what this is worth.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from data.world.caption import RELATIONS
from data.world.labels import MAX_OBJECTS, OBJECT_WORDS, SCENE_WORDS

PAIR_WIDTH = 128
RELATION_WEIGHT = 5.0


def learn_tokenizer(captions: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of so many tokens, the most frequent of these captions; ``</s>`` ends each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=max_length
    )


@dataclass(frozen=True)
class Reading:
    """Logits. objects: of each name in `OBJECT_WORDS`, ``(b, objects, words)``; setting: of each in `SCENE_WORDS`,
    ``(b, words)``; relations: between two objects, ``(b, objects, objects, relations)``."""

    objects: dict[str, Tensor]
    setting: dict[str, Tensor]
    relations: Tensor


class CaptionReader(nn.Module):
    """The encoder, with a linear layer for each kind of word."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        width = encoder.config.d_model
        self.encoder, self.norm = encoder, nn.RMSNorm(width)
        self.objects = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in OBJECT_WORDS.items()})
        self.setting = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in SCENE_WORDS.items()})
        self.first, self.second = nn.Linear(width, PAIR_WIDTH), nn.Linear(width, PAIR_WIDTH)
        self.relations = nn.Linear(PAIR_WIDTH, len(RELATIONS))

    def forward(self, ids: Tensor, mask: Tensor, nouns: Tensor) -> Reading:
        """Of tokens ``(b, m)`` with their mask, and the token at which each object's noun ends, ``(b, objects)``."""
        states = self.norm(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float())  # b m d
        row = torch.arange(len(ids), device=ids.device)
        named, end = states[row[:, None], nouns], states[row, mask.sum(dim=1) - 1]  # b k d, b d
        pairs = F.gelu(self.first(named)[:, :, None] + self.second(named)[:, None])  # b k k width
        return Reading(
            {name: read(named) for name, read in self.objects.items()},
            {name: read(end) for name, read in self.setting.items()},
            self.relations(pairs),
        )

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the encoder, AdamW for all else.

        A T5 knows places by a bias of each head alone, of which there are a few hundred, that must become several units
        large before a head looks at the word beside its own: at AdamW's usual rates that takes thousands of steps.
        """
        parts: dict[str, list[nn.Parameter]] = {"matrices": [], "places": [], "embedding": [], "rest": []}
        for name, parameter in self.named_parameters():
            if "relative_attention_bias" in name:
                kind = "places"
            elif name.startswith("encoder.shared"):
                kind = "embedding"
            else:
                kind = "matrices" if name.startswith("encoder.") and parameter.ndim == 2 else "rest"
            parts[kind].append(parameter)
        rates = {"places": 0.05, "embedding": 0.01, "rest": 0.002}
        groups = [{"params": parts[kind], "lr": lr} for kind, lr in rates.items()]
        return [
            torch.optim.Muon(parts["matrices"], lr=0.007, weight_decay=0.0),
            torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def reading_loss(reading: Reading, labels: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of all that `word_labels` and `relation_labels` (under "relations") say of the scenes; a caption
    that leaves something out is asked all the same, and learns how often it is what."""
    there, pairs = _there(labels["count"])
    losses = [F.cross_entropy(logits[there], labels[name][there]) for name, logits in reading.objects.items()]
    losses += [F.cross_entropy(logits, labels[name]) for name, logits in reading.setting.items()]
    if bool(pairs.any()):
        told, true = reading.relations[pairs], labels["relations"][pairs]
        losses.append(RELATION_WEIGHT * F.binary_cross_entropy_with_logits(told, true))
    return torch.stack(losses).sum()


@torch.no_grad()
def agreement(reading: Reading, labels: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of each kind of word, and of what may hold between two objects, that is read as it is."""
    there, pairs = _there(labels["count"])
    right = {name: (logits.argmax(-1) == labels[name])[there] for name, logits in reading.objects.items()}
    right |= {name: logits.argmax(-1) == labels[name] for name, logits in reading.setting.items()}
    right["relations"] = (reading.relations[pairs] > 0) == labels["relations"][pairs].bool()
    return {name: float(one.float().mean()) for name, one in right.items()}


def _there(count: Tensor) -> tuple[Tensor, Tensor]:
    """Which objects there are of so many ``(b,)``, ``(b, objects)``, and which pairs of two of them."""
    there = torch.arange(MAX_OBJECTS, device=count.device) < count[:, None]
    other = ~torch.eye(MAX_OBJECTS, dtype=torch.bool, device=count.device)
    return there, there[:, :, None] & there[:, None] & other
