"""Samples against their prompts: which prompts, which objects count, and that a sample depends on its seed alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_language import save_writer

from data.world import is_held_out
from video_dit import VideoPipeline
from video_dit.evaluation.world import (
    ClipFormat,
    PromptSet,
    WorldOptions,
    held_out_objects,
    make_samples,
    prompt_sets,
    read_prompts,
    through_codec,
    told_in_full,
)


@pytest.fixture
def options(tmp_path: Path) -> WorldOptions:
    return WorldOptions(
        model=tmp_path / "model",
        judge=tmp_path / "judge",
        picture=tmp_path / "picture.png",
        prompts=8,
        prompt_file=None,
        style="exhaustive",
        expand_prompt=None,
        size=None,
        seconds=4.0,
        scheduler=None,
        steps=2,
        guidance_scale=4.0,
        seed=7,
        batch=16,
    )


def test_held_out_prompts_hold_a_held_out_triple_and_seen_ones_none(options: WorldOptions) -> None:
    seen, held_out = prompt_sets(replace(options, style="terse"))
    assert (len(seen.texts), len(held_out.texts)) == (4, 4)
    for part, wanted in ((seen, False), (held_out, True)):
        for text, scene in zip(part.texts, part.scenes, strict=True):
            assert any(is_held_out(obj.shape, obj.colour, obj.motion) for obj in scene.objects) is wanted
            assert text == scene.caption("terse")


def test_only_objects_of_a_held_out_triple_count_in_their_table(options: WorldOptions) -> None:
    seen, held_out = prompt_sets(replace(options, prompts=40))
    assert held_out_objects(seen, read_prompts(seen.texts)) == [None] * 20
    prompts = read_prompts(held_out.texts)
    for scene, prompt, about in zip(held_out.scenes, prompts, held_out_objects(held_out, prompts), strict=True):
        wanted = sum(is_held_out(obj.shape, obj.colour, obj.motion) for obj in scene.objects)
        assert about is not None
        assert sum(about) == wanted >= 1 and len(about) == len(prompt.objects)


def test_prompts_may_be_told_in_full_for_the_model(options: WorldOptions, tiny_pipe: VideoPipeline) -> None:
    """Each by the seed of its sample, in which those of the second set go on from the first."""
    tiny_pipe.tokenizer.model_max_length = 200
    tiny_pipe.save_pretrained(options.model)
    part, cpu = PromptSet("two", ["a red ball", "a red ball"], []), torch.device("cpu")
    sets, lines = [part, replace(part, first_seed=1)], list[str]()
    assert told_in_full(sets, options, cpu, lines.append) == sets
    options = replace(options, expand_prompt="world")
    told, later = told_in_full(sets, options, cpu, lines.append)
    assert replace(told, texts=part.texts) == part and later.first_seed == 1
    assert told.texts[0] != told.texts[1] and all("red" in text and "camera" in text for text in told.texts)
    assert later.texts[0] == told.texts[1] != later.texts[1]
    assert not lines


def test_what_there_is_to_know_of_prompts_told_in_full_is_said(
    options: WorldOptions, tiny_pipe: VideoPipeline, tmp_path: Path
) -> None:
    """Once, for all sets."""
    tiny_pipe.save_pretrained(options.model)
    save_writer(tmp_path / "mute", "causal")
    sets, lines = [PromptSet("one", ["a ball"], []), PromptSet("two", ["a cube", "a ball"], [], 1)], list[str]()
    options = replace(options, expand_prompt=str(tmp_path / "mute"))
    assert told_in_full(sets, options, torch.device("cpu"), lines.append) == sets
    notes = [
        f"prompt={text!r} stays as it is: --expand-prompt {tmp_path / 'mute'} says nothing of use"
        for text in ("a ball", "a cube")
    ]
    assert lines == notes


def test_samples_do_not_depend_on_the_batch(options: WorldOptions, tiny_pipe: VideoPipeline) -> None:
    part = PromptSet("two", ["a red ball", "a blue cube rolls", "a cone"], [])
    shape = ClipFormat(9, 32, 32)
    made = [make_samples(tiny_pipe, part, shape, replace(options, batch=batch)) for batch in (1, 3)]
    assert made[0].shape == (3, 9, 32, 32, 3) and made[0].dtype == torch.uint8
    assert (made[0].int() - made[1].int()).abs().max() <= 1
    assert not torch.equal(made[0][0], made[0][1])


def test_clips_through_the_codec_keep_shape_and_range(tiny_pipe: VideoPipeline) -> None:
    clips = torch.randint(256, (2, 5, 32, 48, 3), dtype=torch.uint8)
    decoded = through_codec(tiny_pipe.codec, clips)
    assert decoded.shape == clips.shape and decoded.dtype == torch.uint8
    torch.testing.assert_close(decoded[1:], through_codec(tiny_pipe.codec, clips[1:]))
