"""distdl.speech.decoding.look_ahead: a word that is begun is worth the best that it may become."""

import numpy as np
import pytest

from distdl.speech.decoding.look_ahead import BETWEEN, LONG, LookAhead
from distdl.speech.text import Characters

LETTERS = Characters("aeht ")
VALUES = {"the": -1.0, "that": -3.0, "a": -2.0, "hat": -4.0}


@pytest.fixture
def look_ahead():
    return LookAhead(LETTERS, VALUES, VALUES.__getitem__, unknown=-10.0)


def value(look_ahead, text):
    place = BETWEEN
    for unit in LETTERS.encode(text) if text != "the " else [*LETTERS.encode("the"), 5]:
        place = int(look_ahead.grow(np.array([place]), np.array([unit]))[0, 0])
    return look_ahead.values[place]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("t", -1), ("th", -1), ("tha", -3), ("the", -1), ("the ", 0), ("the a", -2), ("the h", -4), ("e", -10)],
)
def test_a_beginning_is_worth_the_best_word_that_begins_so(look_ahead, text, expected):
    assert value(look_ahead, text) == expected


def test_letters_beyond_a_words_usual_length_stand_for_more_unknown_words(look_ahead):
    long = LONG * sum(map(len, VALUES)) / len(VALUES)

    assert value(look_ahead, "thee") == -10
    assert value(look_ahead, "theethee") == pytest.approx(-10 * 8 / long)
    assert value(look_ahead, "theetheethe") == pytest.approx(-10 * 11 / long)
    assert value(look_ahead, "theethee the") == -1


def test_many_prefixes_and_units_are_asked_for_at_once(look_ahead):
    units = np.arange(1, 6)
    places = look_ahead.grow(np.array([BETWEEN]), units)[0]

    table = look_ahead.grow(places, units)

    one_by_one = [[look_ahead.grow(np.array([p]), np.array([u]))[0, 0] for u in units] for p in places]
    assert table.tolist() == one_by_one


def test_more_beginnings_than_there_was_room_for_are_kept(look_ahead):
    letters = Characters("abcdefghij")
    words = [f"{a}{b}{c}{d}" for a in "abcdef" for b in "abcdef" for c in "abcdef" for d in "abcdefg"]
    wide = LookAhead(letters, words, lambda word: float(-words.index(word)), unknown=-1e4)

    places = np.array([BETWEEN])
    for length in range(1, 5):
        places = np.unique(wide.grow(places, np.arange(1, 7)))
        assert len(places) == 6**length

    assert sorted(wide.values[places]) == sorted(-words.index(word) for word in words if "g" not in word)


class Pieces:
    """Two hundred that begin a word, and a letter."""

    units = ("", *(f"▁w{number}" for number in range(200)), "x")
    begins_word = (False, *[True] * 200, False)
    spelling = ("", *(f"w{number}" for number in range(200)), "x")

    def __len__(self):
        return len(self.units)


def test_where_a_word_begins_the_one_before_does_not_matter():
    values = {f"w{number}": -1.0 - number for number in range(200)}
    look_ahead = LookAhead(Pieces(), values, values.__getitem__, unknown=-1e4)
    begins, x = np.arange(1, 201), np.array([201])

    first = look_ahead.grow(np.array([BETWEEN]), begins)[0]
    outside = look_ahead.grow(first, x)[:, 0]

    assert look_ahead.values[first].tolist() == list(values.values())
    assert look_ahead.values[outside].max() <= -1e4
    for places in (first, outside):
        assert (look_ahead.grow(places, begins) == first).all()
