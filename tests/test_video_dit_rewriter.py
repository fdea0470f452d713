"""A language model asked for full captions: what it says, what is left of it, and models that say nothing."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_language import save_writer
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from video_dit.rewriter import (
    EXAMPLES,
    Rewriter,
    can_read,
    load_language_model,
    makes_sense,
    question,
    shortened,
    tidied,
)

CPU = torch.device("cpu")
PROMPT = "a ball jumps"
ANSWER = "a red ball bounces on wet sand, low sun from the left, the camera is still"


@pytest.fixture
def reader() -> PreTrainedTokenizerBase:
    """That of a video model which reads 256 bytes."""
    return ByT5Tokenizer(extra_ids=0, model_max_length=256)


@pytest.mark.parametrize("kind", ["causal", "chat", "seq2seq"])
def test_a_model_that_has_learnt_to_answer_is_heard(kind: str, reader: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Its caption alone, the same each time, in a folder or under a name that is one."""
    words = 43  # so many have room
    save_writer(tmp_path, kind, {question(PROMPT, "", EXAMPLES, words): f'**Caption:** "{ANSWER}"'}, steps=60)
    rewrite = Rewriter(str(tmp_path), CPU, EXAMPLES, reader)
    assert rewrite.words == words
    assert rewrite(PROMPT) == rewrite(PROMPT) == ANSWER


@pytest.mark.parametrize("kind", ["causal", "chat", "seq2seq"])
def test_a_model_that_has_learnt_nothing_is_not(kind: str, reader: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save_writer(tmp_path, kind)
    assert Rewriter(str(tmp_path), CPU, EXAMPLES, reader)(PROMPT) is None


def test_a_caption_is_no_longer_than_the_video_model_reads(tmp_path: Path) -> None:
    reader = ByT5Tokenizer(extra_ids=0, model_max_length=64)
    save_writer(tmp_path, "causal", {question(PROMPT, "", EXAMPLES, 10): ANSWER}, steps=60)
    rewrite = Rewriter(str(tmp_path), CPU, EXAMPLES, reader)
    assert rewrite.words == 10
    said = rewrite(PROMPT)
    assert said == "a red ball bounces on wet sand, low sun from the left"
    assert can_read(reader, said) and not can_read(reader, ANSWER)


def test_a_model_that_reads_too_little_is_one_clear_line(reader: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save_writer(tmp_path, "causal", places=64)
    with pytest.raises(ValueError, match=r"it takes 64 tokens, and the question \d+: choose another model"):
        Rewriter(str(tmp_path), CPU, EXAMPLES, reader)(PROMPT)


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% if %}", "{{ messages + 1 }}"])
def test_a_chat_template_that_fails_is_one_clear_line(
    template: str, reader: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    save_writer(tmp_path, "chat")
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=f"--expand-prompt {tmp_path}: its chat template fails: .") as error:
        Rewriter(str(tmp_path), CPU, EXAMPLES, reader)(PROMPT)
    assert "\n" not in str(error.value)


def test_the_question_ends_where_the_caption_begins() -> None:
    asked = question(PROMPT, "A dog sleeps.", ("a cat sits, in the sun",), 40)
    assert asked.endswith(f"Short: a cat sits\nCaption: a cat sits, in the sun\n\nShort: {PROMPT}\nCaption:")
    assert "at most 40 words" in asked and "Until then the video shows: A dog sleeps. Keep" in asked
    assert "Until then" not in question(PROMPT, "", EXAMPLES, 40)


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A red ball bounces.", "A red ball bounces."),
        ("  A red ball\nbounces.  \n\nIt is 5:30.", "A red ball bounces."),
        ('Sure! Here is the caption:\n\n**"A red ball, low sun."**\n\nLet me know!', "A red ball, low sun."),
        ("Here's an expanded caption: a red ball at 5:30 in the morning", "a red ball at 5:30 in the morning"),
        ("Caption: A red ball.\nShort: a dog\nCaption: a brown dog", "A red ball."),
        ("Short: a ball jumps\nCaption: a red ball bounces", "a red ball bounces"),
        ("A ball jumps.\nA red ball bounces.", "A red ball bounces."),
        ("A ball jumps: a red ball bounces", "a red ball bounces"),
        ("a ball jumps on the grass", "a ball jumps on the grass"),
        ("<think>What ball?\n\nRed.</think>\n\n- a red ball bounces", "a red ball bounces"),
        ("<think>What ball?", ""),
        ("1. a red ball | bounces", "a red ball, bounces"),
        ("“a `red` ball”", "a red ball"),
        ("a ball jumps", ""),
        (" \n", ""),
    ],
)  # fmt: skip
def test_what_is_around_a_caption_goes(answer: str, caption: str) -> None:
    assert tidied(answer, PROMPT) == caption


def test_what_is_too_long_ends_with_a_sentence_a_clause_or_a_word() -> None:
    for most, kept in ((99, "A ball. It jumps, high up"), (20, "A ball."), (5, "A"), (0, "")):
        assert shortened("A ball. It jumps, high up", lambda text, most=most: len(text) <= most) == kept
    assert shortened("a ball, a cone", lambda text: len(text) < 12) == "a ball"


def test_sense_is_more_than_one_word_again_and_again() -> None:
    assert makes_sense(ANSWER, PROMPT) and makes_sense("ein roter Ball springt", PROMPT) and makes_sense("红球", "")
    assert not makes_sense("", PROMPT) and not makes_sense("ball", PROMPT) and not makes_sense("", "")
    assert not makes_sense("red ball " * 10, PROMPT) and not makes_sense(".,;!", "")


def test_what_is_no_text_model_is_one_clear_line(tmp_path: Path) -> None:
    """Nothing there, no model, one that writes nothing, weights that are cut off or of another size, no tokenizer."""
    save_writer(tmp_path / "whole", "causal")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path / "clip")
    (tmp_path / "empty").mkdir()
    for name in ("damaged", "cut", "other", "mute", "no size", "no words"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
    (tmp_path / "damaged" / "config.json").write_text("{")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    for path in (tmp_path / "mute").glob("tokenizer*"):
        path.unlink()
    config = tmp_path / "no size" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": "x"'))
    (tmp_path / "no words" / "tokenizer.json").write_text("{}")
    sayings = {
        "gone": "no such folder: give a text model's, its name on the Hugging Face Hub, or world",
        "clip": "no text model that loads: it is of the type clip_text_model",
        **dict.fromkeys(
            ("empty", "damaged", "cut", "other", "mute", "no size", "no words"), "no text model that loads: "
        ),
    }
    for name, saying in sayings.items():
        with pytest.raises(ValueError, match=f"--expand-prompt {tmp_path / name}: {saying}") as error:
            load_language_model(str(tmp_path / name), CPU)
        assert "\n" not in str(error.value)


def test_an_encoder_writes_nothing(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=384, **sizes)).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it has no weights for decoder"):
        load_language_model(str(tmp_path), CPU)
