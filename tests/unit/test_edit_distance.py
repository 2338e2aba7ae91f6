"""distdl.speech.edit_distance: distances by their definition, counts and rates by jiwer."""

import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.speech import edit_distance
from distdl.speech.edit_distance import align, character_errors, distance, of_many, word_errors

sentences = st.lists(st.sampled_from(["a", "b", "c", "ab", "the"]), max_size=12).map(" ".join)
spoken = sentences.filter(bool)


@pytest.fixture(scope="module")
def jiwer():
    return pytest.importorskip("jiwer")


def by_recursion(one, other):
    """The definition, without any of the tricks."""
    rows = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        above, rows[0] = rows[0], i
        for j, b in enumerate(other, start=1):
            above, rows[j] = rows[j], min(rows[j] + 1, rows[j - 1] + 1, above + (a != b))
    return rows[-1]


@given(st.text(alphabet="abc", max_size=80), st.text(alphabet="abc", max_size=80))
def test_the_distance_is_that_of_the_definition(one, other):
    assert distance(one, other) == align(one, other).errors == by_recursion(one, other)


@given(st.text(alphabet="abc"), st.text(alphabet="abc"))
def test_an_alignment_holds_both_sides_in_order_and_counts_what_it_shows(reference, hypothesis):
    found = align(reference, hypothesis)

    assert "".join(one for one, _ in found.pairs if one) == reference
    assert "".join(other for _, other in found.pairs if other) == hypothesis
    assert found.hits == sum(one == other for one, other in found.pairs)
    assert found.deletions == sum(other is None for _, other in found.pairs)
    assert found.insertions == sum(one is None for one, _ in found.pairs)
    assert found.errors + found.hits == len(found.pairs)
    assert found.reference_length == len(reference)


@given(reference=spoken, hypothesis=sentences)
def test_word_counts_are_those_of_jiwer(jiwer, reference, hypothesis):
    expected = jiwer.process_words(reference, hypothesis)
    found = align(reference.split(), hypothesis.split())

    assert (found.substitutions, found.deletions, found.insertions, found.hits) == (
        expected.substitutions,
        expected.deletions,
        expected.insertions,
        expected.hits,
    )
    assert word_errors(reference, hypothesis).rate == pytest.approx(expected.wer)


@given(reference=spoken, hypothesis=sentences)
def test_the_character_error_rate_is_that_of_jiwer(jiwer, reference, hypothesis):
    assert character_errors(reference, hypothesis).rate == pytest.approx(jiwer.cer(reference, hypothesis))


@given(both=st.lists(st.tuples(spoken, sentences), min_size=1, max_size=4))
def test_of_many_sentences_errors_and_lengths_are_added(jiwer, both):
    total = of_many([word_errors(*each) for each in both])

    assert total.rate == pytest.approx(jiwer.wer(*map(list, zip(*both))))


@pytest.mark.parametrize(("hypothesis", "rate"), [("", 0.0), ("a", float("inf"))])
def test_an_empty_reference_has_a_rate(hypothesis, rate):
    assert word_errors("", hypothesis).rate == rate


def test_units_may_be_anything_that_can_be_looked_up():
    assert align([1, (2, 3)], [1, None, (2, 3)]).pairs[2] == ((2, 3), (2, 3))


def test_white_space_is_no_error():
    assert word_errors("a  b\n", " a b").errors == character_errors("a  b\n", " a b").errors == 0


def test_thousands_of_sentences_take_little_time():
    draw = random.Random(0)
    lines = [" ".join(draw.choices(["the", "cat", "sat", "on", "mats"], k=20)) for _ in range(2001)]

    began = time.process_time()
    total = of_many([edit_distance.character_errors(one, other) for one, other in itertools.pairwise(lines)])

    assert total.reference_length > 2000 * 60
    assert time.process_time() - began < 3  # about 0.3 s
