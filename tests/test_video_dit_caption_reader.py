"""A text encoder that learns to read captions: its vocabulary, what is read off it, and the loss."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from data.world import sample_scene
from data.world.caption import CAPTION_STYLES, RELATIONS
from data.world.labels import MAX_OBJECTS, OBJECT_WORDS, SCENE_WORDS, relation_labels, word_labels
from video_dit.caption_reader import CaptionReader, Reading, agreement, learn_tokenizer, reading_loss
from video_dit.text import TextConfig, t5_encoder, tokenize

SCENES = [sample_scene("train", seed) for seed in range(12)]
CAPTIONS = [scene.caption(style) for scene in SCENES for style in CAPTION_STYLES]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return learn_tokenizer(CAPTIONS, vocabulary=500, max_length=128)


@pytest.fixture(scope="module")
def labels() -> dict[str, Tensor]:
    """Of all scenes."""
    rows = [word_labels(scene) | {"relations": relation_labels(scene)} for scene in SCENES]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("text", [CAPTIONS[0], "Zwei Möwen über dem Meer, 3 €", "猫 🐈"])
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]).removeprefix(" ") == text


def test_captions_are_much_shorter_than_their_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 500
    assert sum(len(tokenizer(caption)["input_ids"]) for caption in CAPTIONS) < sum(map(len, CAPTIONS)) / 3


def test_prompts_are_packed_with_it_and_the_null_text_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    packed = tokenize(tokenizer, ["", CAPTIONS[0]], all_groups=False)
    assert packed.segments.lengths == [1, len(tokenizer(CAPTIONS[0])["input_ids"])]


def certain(labels: dict[str, Tensor], sure: float) -> Reading:
    """What says just what the labels do."""
    return Reading(
        {name: sure * torch.nn.functional.one_hot(labels[name], len(words)) for name, words in OBJECT_WORDS.items()},
        {name: sure * torch.nn.functional.one_hot(labels[name], len(words)) for name, words in SCENE_WORDS.items()},
        sure * (labels["relations"] - 0.5),
    )


def test_the_loss_of_what_is_true_is_nothing_and_of_what_is_not_is_large(labels: dict[str, Tensor]) -> None:
    assert reading_loss(certain(labels, 50.0), labels) < 1e-3
    assert set(agreement(certain(labels, 50.0), labels).values()) == {1.0}
    one = int((labels["count"] == 1).nonzero()[0])
    for name in (*OBJECT_WORDS, *SCENE_WORDS):
        wrong = {key: value.clone() for key, value in labels.items()}
        words = len((OBJECT_WORDS | SCENE_WORDS)[name])
        place = (one, 0) if name in OBJECT_WORDS else (one,)
        wrong[name][place] = (wrong[name][place] + 1) % words
        assert reading_loss(certain(wrong, 50.0), labels) > 0.5, name
        absent = {key: value.clone() for key, value in labels.items()}
        if name in OBJECT_WORDS:
            absent[name][one, 1:] = 1
            assert reading_loss(certain(absent, 50.0), labels) < 1e-3, "objects that are not there are not asked"


def test_relations_are_asked_of_two_objects_that_are_there(labels: dict[str, Tensor]) -> None:
    several = int((labels["count"] > 1).nonzero()[0])
    for place, counts in (((several, 0, 1), True), ((several, 0, 0), False), ((several, 0, MAX_OBJECTS - 1), False)):
        if place[2] == MAX_OBJECTS - 1 and labels["count"][several] == MAX_OBJECTS:
            continue
        wrong = labels | {"relations": labels["relations"].clone()}
        wrong["relations"][place] = 1 - wrong["relations"][place]
        assert (reading_loss(certain(wrong, 50.0), labels) > 0.05) == counts, place


def test_relation_labels_are_those_that_hold() -> None:
    scene = next(scene for scene in SCENES if len(scene.objects) > 1 and scene.relations)
    held = relation_labels(scene)
    assert held.sum() == len(scene.relations)
    assert all(held[told.first, told.second, RELATIONS.index(told.word)] == 1 for told in scene.relations)


def test_all_learns_from_the_loss_and_each_parameter_has_one_rate(
    tokenizer: PreTrainedTokenizerFast, labels: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    encoder = t5_encoder(TextConfig(width=32, num_layers=2, num_heads=2, hidden=64), len(tokenizer))
    reader = CaptionReader(encoder)
    held = [p for optimizer in reader.optimizers() for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(reader.parameters()))
    batch = tokenizer([scene.caption() for scene in SCENES], padding=True, truncation=True, return_tensors="pt")
    nouns = torch.ones(len(SCENES), MAX_OBJECTS, dtype=torch.int64)
    reading = reader(batch["input_ids"], batch["attention_mask"], nouns)
    before = reading_loss(reading, labels)
    before.backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for optimizer in reader.optimizers():
        optimizer.step()
    with torch.no_grad():
        after = reading_loss(reader(batch["input_ids"], batch["attention_mask"], nouns), labels)
    assert after < before


def test_what_stands_behind_the_text_changes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    encoder = t5_encoder(TextConfig(width=32, num_layers=2, num_heads=2, hidden=64), len(tokenizer))
    reader = CaptionReader(encoder).eval()
    batch = tokenizer(sorted(CAPTIONS, key=len)[:: len(CAPTIONS) - 1], padding=True, return_tensors="pt")
    alone = tokenizer(min(CAPTIONS, key=len), return_tensors="pt")
    nouns = torch.zeros(2, MAX_OBJECTS, dtype=torch.int64)
    with torch.no_grad():
        padded = reader(batch["input_ids"], batch["attention_mask"], nouns)
        whole = reader(alone["input_ids"], alone["attention_mask"], nouns[:1])
    for name, logits in whole.setting.items():
        torch.testing.assert_close(padded.setting[name][:1], logits, atol=1e-5, rtol=1e-4)
