"""Words: verbs in their forms, phrases, and tables in which no word means two things."""

import pytest

from data.world import words
from data.world.words import family_of, inflected, marked_verbs, participle, third_person


@pytest.mark.parametrize(
    ("verb", "third", "ing"),
    [
        ("roll", "rolls", "rolling"),
        ("slide", "slides", "sliding"),
        ("hop", "hops", "hopping"),
        ("pass", "passes", "passing"),
        ("go", "goes", "going"),
        ("hit", "hits", "hitting"),
    ],
)
def test_forms_of_verbs(verb: str, third: str, ing: str) -> None:
    assert (third_person(verb), participle(verb)) == (third, ing)


def test_all_verbs_of_a_phrase_change_together_and_nothing_else() -> None:
    phrase = "*slide{way} and *hit"
    assert marked_verbs(phrase) == ("slide", "hit")
    assert inflected(phrase, "third") == "slides{way} and hits"
    assert inflected(phrase, "ing") == "sliding{way} and hitting"
    assert inflected(phrase, "is") == "is sliding{way} and hitting"
    assert inflected("does not move", "third") == "does not move"


def test_slides_are_one_family() -> None:
    assert family_of("slide left") == "slide" and family_of("pass behind") == "pass behind"


@pytest.mark.parametrize("name", ["SHAPE_WORDS", "COLOUR_WORDS", "SIZE_WORDS", "MATERIAL_WORDS", "RELATION_PHRASES"])
def test_no_word_means_two_things(name: str) -> None:
    every = [word for entry in getattr(words, name).values() for word in entry]
    assert len(set(every)) == len(every)


def test_adjectives_and_nouns_are_told_apart() -> None:
    tables = (words.SHAPE_WORDS, words.COLOUR_WORDS, words.SIZE_WORDS, words.MATERIAL_WORDS)
    every = [word for table in tables for entry in table.values() for word in entry]
    assert len(set(every)) == len(every) and all(word.isalpha() for word in every)
