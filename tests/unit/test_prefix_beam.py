"""distdl.speech.decoding.prefix_beam: with a beam wide enough it finds what trying all paths finds."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.decoding.prefix_beam import PrefixBeam, decode
from distdl.speech.decoding.scores import LN_10
from distdl.speech.text import Characters, in_units

LETTERS = Characters("ab ")
WORDS = train_language_model(["a b", "ab a", "ba ab a", "a a", "b"], order=3)
UNITS = train_language_model([in_units(text, LETTERS) for text in ("ab a", "ba", "a b ab")], order=3)
EXACT = {"beam": 10**6, "token_threshold": -np.inf, "beam_threshold": np.inf, "n_best": 10**6}


def random_logs(seed, n_frames, n_classes=4, sharpness=1.0):
    logits = np.random.default_rng(seed).normal(size=(n_frames, n_classes)) * sharpness
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def by_trying_all(logs):
    """Units -> ln of the sum over all paths that spell them."""
    sums = defaultdict(float)
    for path in itertools.product(range(logs.shape[1]), repeat=len(logs)):
        units = tuple(unit for unit, _ in itertools.groupby(path) if unit)
        sums[units] += np.exp(sum(logs[t, c] for t, c in enumerate(path)))
    return {units: np.log(total) for units, total in sums.items()}


@given(st.integers(0, 1000), st.integers(0, 5))
def test_a_search_without_limits_finds_all_texts_with_their_probabilities(seed, n_frames):
    logs = random_logs(seed, n_frames)
    expected = by_trying_all(logs)

    found = PrefixBeam(LETTERS, **EXACT)(logs)

    assert {tuple(each.units) for each in found} == set(expected)
    assert [each.score for each in found] == pytest.approx([expected[tuple(each.units)] for each in found])
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert sum(each.confidence for each in found) == pytest.approx(1)


@given(st.integers(0, 1000), st.integers(0, 5))
def test_a_model_of_words_and_the_number_of_words_add_to_it(seed, n_frames):
    logs = random_logs(seed, n_frames)

    found = PrefixBeam(LETTERS, lm=WORDS, alpha=0.7, beta=1.3, unknown_word=-2.0, **EXACT)(logs)

    def total(units, acoustic):
        words = LETTERS.decode(units).split()
        unknown = sum(word not in WORDS for word in words)
        return acoustic + 0.7 * LN_10 * WORDS.sentence(words) + 1.3 * len(words) - 2.0 * unknown

    expected = {units: total(units, acoustic) for units, acoustic in by_trying_all(logs).items()}
    assert {tuple(each.units): each.score for each in found} == pytest.approx(expected)


@given(st.integers(0, 1000), st.integers(0, 4))
def test_a_model_of_units_adds_for_each_of_them(seed, n_frames):
    logs = random_logs(seed, n_frames)

    found = PrefixBeam(LETTERS, lm=UNITS, alpha=0.7, beta=0.2, lm_over="units", **EXACT)(logs)

    names = ["", "a", "b", "▁"]
    expected = {
        units: acoustic + 0.7 * LN_10 * UNITS.sentence([names[unit] for unit in units]) + 0.2 * len(units)
        for units, acoustic in by_trying_all(logs).items()
    }
    assert {tuple(each.units): each.score for each in found} == pytest.approx(expected)


def test_the_thresholds_leave_out_what_is_improbable_and_keep_the_best():
    logs = random_logs(3, 200, sharpness=4.0)
    exact = PrefixBeam(LETTERS, beam=400, token_threshold=-np.inf, beam_threshold=np.inf)(logs)[0]

    found = PrefixBeam(LETTERS, beam=50)(logs)[0]

    assert found.text == exact.text
    assert exact.score - 1 < found.score <= exact.score


def test_a_beam_of_one_still_gives_a_text():
    logs = random_logs(0, 50)

    (found,) = decode(logs, LETTERS, beam=1, lm=WORDS)

    assert found.units and np.isfinite(found.score)


def test_no_frames_are_the_empty_text():
    (found,) = decode(np.zeros((0, 4)), LETTERS, lm=WORDS, alpha=1.0)

    assert (found.text, found.words) == ("", [])
    assert found.score == pytest.approx(LN_10 * WORDS.sentence(""))


def test_words_have_their_frames_and_confidence():
    path = [0, 1, 2, 2, 0, 3, 0, 2, 0]
    logs = np.log(np.full((len(path), 4), 0.05))
    logs[np.arange(len(path)), path] = np.log(0.85)

    (found,) = decode(logs, LETTERS, beam=10)

    assert found.text == "ab b"
    assert [(word.text, word.first_frame, word.last_frame) for word in found.words] == [("ab", 1, 3), ("b", 7, 7)]
    assert found.words[1].confidence == pytest.approx(0.85)
    assert 0.5 < found.confidence <= 1


def test_the_language_model_decides_between_what_sounds_alike():
    model = train_language_model(["a b a b"] * 9 + ["b"], order=2)
    logs = np.log([[0.02, 0.94, 0.02, 0.02], [0.02, 0.02, 0.02, 0.94], [0.02, 0.45, 0.51, 0.02]])
    logs[2] = np.log([0.02, 0.51, 0.45, 0.02])

    assert decode(logs, LETTERS)[0].text == "a a"
    assert decode(logs, LETTERS, lm=model, alpha=1.0)[0].text == "a b"


def test_a_decoder_gives_the_same_again():
    decoder = PrefixBeam(LETTERS, lm=WORDS, n_best=5)
    logs = [random_logs(seed, 60, sharpness=2.0) for seed in range(3)]

    assert [decoder(each) for each in logs] == [decoder(each) for each in logs]


@pytest.mark.parametrize(
    ("logs", "what"),
    [
        (np.full((3, 4), np.nan), "not finite, first at frame 0, class 0: the network has diverged"),
        (np.zeros((3, 5)), "5 classes, and the vocabulary 4"),
        (np.zeros((1, 3, 4)), "shape"),
        (np.full((3, 4), -np.inf), "probability of 0"),
    ],
)
def test_what_is_no_log_probability_is_told(logs, what):
    with pytest.raises(ValueError, match=what):
        decode(logs, LETTERS)


def test_a_beam_of_none_is_told():
    with pytest.raises(ValueError, match="1 or more"):
        PrefixBeam(LETTERS, beam=0)


class Pieces:
    """As sentencepiece has them: "ab" can be spelled in two ways."""

    units = ("", "▁a", "b", "▁", "▁ab")
    begins_word = (False, True, False, True, True)
    spelling = ("", "a", "b", "", "ab")

    def __len__(self):
        return len(self.units)

    def decode(self, ids):
        return "".join(self.units[each] for each in ids).replace("▁", " ")


class Phonemes(Pieces):
    units = spelling = ("", "a", "b", "ab", "ba")
    begins_word = (False, True, True, True, True)

    def decode(self, ids):
        return " ".join(self.units[each] for each in ids)


@pytest.mark.parametrize("vocabulary", [Pieces(), Phonemes()])
@given(seed=st.integers(0, 1000), n_frames=st.integers(0, 4))
def test_words_of_pieces_and_phonemes_as_words_are_scored_as_words_of_letters_are(vocabulary, seed, n_frames):
    logs = random_logs(seed, n_frames, 5)

    found = PrefixBeam(vocabulary, lm=WORDS, alpha=0.7, beta=1.3, **EXACT)(logs)

    expected = {}
    for units, acoustic in by_trying_all(logs).items():
        words = vocabulary.decode(units).split()
        expected[units] = acoustic + 0.7 * LN_10 * WORDS.sentence(words) + 1.3 * len(words)
    assert {tuple(each.units): each.score for each in found} == pytest.approx(expected)
