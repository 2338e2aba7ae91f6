"""Normalised transcripts: what the rules change, and that nothing changes twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.transcripts import TextRules

STRIPPED = TextRules(case="lower", strip_punctuation=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  STOP!", "don't stop"),
        ("'Tis rock ’n’ roll, isn’t it?", "tis rock n roll isn't it"),
        ("a well-known — and “quoted” — thing…", "a well known and quoted thing"),
        ("Straße, ÄRGER; naïve", "straße ärger naïve"),
        ("cafe\u0301", "caf\u00e9"),  # composed
        ("10 % of $5", "10 of 5"),
    ],
)
def test_case_and_punctuation(text, expected):
    assert STRIPPED(text) == expected


def test_without_rules_only_spaces_change():
    assert TextRules()(" Well,\tthat's\n it. ") == "Well, that's it."
    assert TextRules(case="upper")("é") == "É"


@pytest.mark.parametrize("text", ["", " \n", "... !", "—"])
def test_a_transcript_of_which_nothing_is_left_is_none(text):
    with pytest.raises(ValueError, match="its transcript is empty"):
        STRIPPED(text)


def test_characters_outside_of_the_alphabet_are_named():
    rules = TextRules(case="lower", characters="abc'")

    assert rules("A cab") == "a cab"
    with pytest.raises(ValueError, match="not allowed: d é"):
        rules("abcdé")


@given(st.text())
def test_what_is_normalised_stays_as_it_is(text):
    try:
        once = STRIPPED(text)
    except ValueError:
        return

    assert STRIPPED(once) == once
