"""Samples against their prompts: which prompts, which objects count, and that a sample depends on its seed alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

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
    assert told_in_full(part, options, cpu) is part
    options = replace(options, expand_prompt="world")
    told = told_in_full(part, options, cpu)
    assert replace(told, texts=part.texts) == part
    assert told.texts[0] != told.texts[1] and all("red" in text and "camera" in text for text in told.texts)
    later = told_in_full(replace(part, first_seed=1), options, cpu)
    assert later.texts[0] == told.texts[1] != later.texts[1]


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
