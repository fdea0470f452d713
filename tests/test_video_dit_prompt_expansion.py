"""Prompts told in full for a model: by the world's rules, or by a language model in the style that it learnt."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tiny_language import save_writer

from data.world import sample_scene
from video_dit import VideoPipeline
from video_dit.prompt_expansion import expanded_prompts, training_captions
from video_dit.request import PromptSchedule
from video_dit.rewriter import EXAMPLES, question

ANSWER = "a red ball bounces on sand, the camera is still"
Expand = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def model(tiny_pipe: VideoPipeline, tmp_path: Path) -> Path:
    """A model that reads 200 bytes of a prompt."""
    tiny_pipe.tokenizer.model_max_length = 200
    tiny_pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def expanded(model: Path) -> Expand:
    """The prompts of videos with seeds from 0 on, told in full; and the lines that were said of them."""

    def call(expander: str, *prompts: str, examples: Sequence[str] = ()) -> tuple[list[str], list[str]]:
        lines: list[str] = []
        asked = [(prompt, seed) for seed, prompt in enumerate(prompts)]
        told = expanded_prompts(asked, expander, model, torch.device("cpu"), examples, lines.append)
        return told, lines

    return call


def test_the_world_tells_each_video_its_own(expanded: Expand) -> None:
    told, lines = expanded("world", "a ball jumps", "a ball jumps", "a dog and a cube")
    assert all("sphere bounces" in text for text in told[:2]) and told[0] != told[1] and "cube" in told[2]
    unknown = "the world does not know these words, which are passed over: dog"
    assert lines == [f"prompt: {told[0]}", f"prompt: {told[1]}", unknown, f"prompt: {told[2]}"]
    assert expanded("world", *told) == (told, [f"prompt: {text}" for text in told])


def test_what_the_world_tells_is_no_longer_than_the_model_reads(expanded: Expand) -> None:
    text = "a ball jumps, a cube spins, a cone falls, a torus rises"
    assert 120 < len(expanded("world", text)[0][0].encode()) <= 199  # and a mark of its end
    assert len(expanded("world", f"{text}, a tube stays, the camera is still")[0][0].encode()) <= 199


def test_each_part_of_a_schedule_is_told_in_full(expanded: Expand) -> None:
    (told,), _ = expanded("world", "0: a ball jumps | 2.50: it rolls")
    schedule = PromptSchedule.parse(told)
    assert schedule.starts == (0.0, 2.5) and told.startswith("0: a ") and " | 2.5: a " in told
    assert ["bounces" in text for text in schedule.texts] == [True, False]
    assert schedule.texts[0].split("bounces")[0] == schedule.texts[1].split("rolls")[0]
    assert "|" not in expanded("world", "0: a ball jumps")[0][0]


def test_a_schedule_or_a_prompt_that_is_no_good_is_one_clear_line(expanded: Expand) -> None:
    for prompt, words in (("0: a ball | it rolls", "prompt schedule"), ("a dog", "names no object of the world")):
        with pytest.raises(ValueError, match=words):
            expanded("world", prompt)


def test_a_language_model_says_the_same_for_each_seed(expanded: Expand, tmp_path: Path) -> None:
    """In one line; that it says nothing of use is told."""
    save_writer(tmp_path / "writer", "causal", {question("a ball", "", EXAMPLES, 33): ANSWER}, steps=60)
    save_writer(tmp_path / "mute", "causal")
    assert expanded(str(tmp_path / "writer"), "a ball", "a ball") == ([ANSWER, ANSWER], [f"prompt: {ANSWER}"])
    told, lines = expanded(str(tmp_path / "mute"), "0: a ball | 1: it rolls")
    assert told == ["0: a ball | 1: it rolls"]
    says_nothing = f"stays as it is: --expand-prompt {tmp_path / 'mute'} says nothing of use"
    assert lines == [f"prompt='a ball' {says_nothing}", f"prompt='it rolls' {says_nothing}", f"prompt: {told[0]}"]


def test_it_is_told_what_the_video_shows_before(expanded: Expand, tmp_path: Path) -> None:
    after = "a red ball rolls over sand, the camera pans"
    alone = "a blue ring rolls on grass, low sun"
    answers = {
        question("a ball", "", EXAMPLES, 33): ANSWER,
        question("it rolls", ANSWER, EXAMPLES, 33): after,
        question("it rolls", "", EXAMPLES, 33): alone,
    }
    save_writer(tmp_path / "writer", "causal", answers, steps=120)
    prompts = ["0: a ball | 4: it rolls", "it rolls", "0:  | 4: it rolls"]
    told, _ = expanded(str(tmp_path / "writer"), *prompts)
    assert told == [f"0: {ANSWER} | 4: {after}", alone, f"0:  | 4: {alone}"]  # nothing is made of nothing


def test_it_is_shown_captions_that_are_given(expanded: Expand, tmp_path: Path) -> None:
    given, other = ("a cone spins, on grass",), "a blue ball sleeps under low clouds, the camera waits"
    answers = {question("a ball", "", given, 23): ANSWER, question("a ball", "", EXAMPLES, 33): other}
    save_writer(tmp_path / "writer", "causal", answers, steps=100)
    assert expanded(str(tmp_path / "writer"), "a ball", examples=given)[0] == [ANSWER]
    assert expanded(str(tmp_path / "writer"), "a ball")[0] == [other]


def test_captions_that_a_model_was_trained_on_are_found_in_its_folder(model: Path, tmp_path: Path) -> None:
    def found(settings: str, most: int = 1000) -> list[str]:
        (model / "config.yaml").write_text(settings)
        return training_captions(model, lambda text: len(text) <= most)

    assert training_captions(model, lambda text: True) == []
    world = found("data:\n  manifest: ''\n")
    assert len(world) == 3 and set(world) <= {sample_scene("train", seed).caption() for seed in range(12)}
    rows = ["path,text,split"] + [f"{n}.mp4,caption {n // 2},train" for n in range(20)] + ["20.mp4,unseen,test"]
    (tmp_path / "index.csv").write_text("\n".join(rows))
    manifest = f"data:\n  manifest: {tmp_path / 'index.csv'}\n"
    assert found(manifest) == ["caption 0", "caption 3", "caption 6"]
    assert found(manifest, most=5) == [] and found("data: {}\n") == [] and found("data:\n  manifest: gone.csv\n") == []
    for damaged in ("data: [", "- data", "data", "data:\n  manifest: 5\n", "data:\n  manifest: ${gone}\n", "data: 3"):
        assert found(damaged) == [], damaged
    (model / "config.yaml").write_bytes(b"\xff\xfe\xfa")
    assert training_captions(model, lambda text: True) == []


@pytest.mark.parametrize("damage", ["{", "{}", "[]"])
def test_a_damaged_tokenizer_of_the_video_model_is_one_clear_line(damage: str, expanded: Expand, model: Path) -> None:
    for path in (model / "tokenizer").iterdir():
        path.write_text(damage)
    with pytest.raises(
        ValueError, match=f"--expand-prompt world: {model / 'tokenizer'} holds no tokenizer that loads: "
    ) as error:
        expanded("world", "a ball")
    assert "\n" not in str(error.value)
