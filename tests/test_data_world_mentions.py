"""Where captions name objects."""

import pytest

from data.world import sample_scene
from data.world.caption import CAPTION_STYLES
from data.world.mentions import NOUN, mentions
from data.world.words import COLOUR_WORDS, SHAPE_WORDS


@pytest.mark.parametrize("style", CAPTION_STYLES)
def test_the_noun_and_the_colour_beside_it_are_the_objects_own(style: str) -> None:
    pairs = 0
    for seed in range(60):
        scene = sample_scene("train", seed)
        pairs += scene.pair is not None
        for wording in range(3):
            caption = scene.caption(style, wording)
            places = mentions(caption, len(scene.objects))
            assert len(places) == len(scene.objects)
            for obj, begin, end in zip(scene.objects, [0, *places], places, strict=False):
                assert caption[:end].split()[-1] in SHAPE_WORDS[obj.shape]
                beside = caption[begin:end] + NOUN.split(caption[end:])[0]
                assert any(word in beside.replace(",", "").split() for word in COLOUR_WORDS[obj.colour]), caption
    assert pairs, "no object was named in another's clause"
