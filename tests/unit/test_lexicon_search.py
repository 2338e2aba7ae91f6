"""distdl.speech.decoding.lexicon_search: of all sequences of permitted words the one with the best path."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.errors import UserError
from distdl.speech.decoding.forced_alignment import align
from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.decoding.lexicon import Lexicon, pronounced, spelled
from distdl.speech.decoding.lexicon_search import LexiconSearch
from distdl.speech.decoding.scores import LN_10
from distdl.speech.text import Characters, Phonemes

LETTERS = Characters("ab ")
WORDS = spelled(["a", "ab", "aa", "b"], LETTERS)
MODEL = train_language_model(["a b", "ab a", "b ab a", "a a", "b"], order=3)
EXACT = {"beam": 10**6, "token_threshold": -np.inf, "beam_threshold": np.inf}


def random_logs(seed, n_frames, n_classes, sharpness=1.0):
    logits = np.random.default_rng(seed).normal(size=(n_frames, n_classes)) * sharpness
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def best_of_all(logs, words, units_of, total):
    """(score, words) of the best, of all sequences of words that fit."""
    scored = []
    for length in range(len(logs) + 1):
        for chosen in itertools.product(words, repeat=length):
            try:
                scored.append((total(chosen, align(logs, units_of(chosen)).score), chosen))
            except ValueError:  # too few frames
                continue
    return max(scored)


@pytest.mark.parametrize("model", [None, MODEL])
@given(seed=st.integers(0, 1000), n_frames=st.integers(0, 5))
def test_a_search_without_limits_finds_the_best_of_all(model, seed, n_frames):
    logs = random_logs(seed, n_frames, 4)

    found = LexiconSearch(LETTERS, WORDS, lm=model, alpha=0.7, beta=0.9, **EXACT)(logs)[0]

    def total(words, acoustic):
        return acoustic + (0.7 * LN_10 * model.sentence(words) + 0.9 * len(words) if model else 0)

    score, words = best_of_all(logs, ["a", "ab", "aa", "b"], lambda words: LETTERS.encode(" ".join(words)), total)
    assert found.score == pytest.approx(score)
    assert found.text == " ".join(words)
    assert found.units == LETTERS.encode(found.text)


@given(seed=st.integers(0, 1000), n_frames=st.integers(0, 5))
def test_phonemes_need_no_space_and_the_model_chooses_between_words_that_sound_alike(seed, n_frames):
    ways = {"be": [[1, 2]], "bee": [[1, 2]], "e": [[2], [1]], "ee": [[2, 2]]}
    phonemes = Characters("be")
    model = train_language_model(["be e", "bee be", "ee e", "bee e ee"], order=2)
    logs = random_logs(seed, n_frames, 3)

    found = LexiconSearch(phonemes, Lexicon(ways), lm=model, alpha=0.8, beta=0.3, **EXACT)(logs)[0]

    def best_path(words):
        scores = []
        for said in itertools.product(*(ways[word] for word in words)):
            try:
                scores.append(align(logs, [unit for units in said for unit in units]).score)
            except ValueError:
                continue
        return max(scores, default=-np.inf)

    all_words = [words for n in range(n_frames + 1) for words in itertools.product(ways, repeat=n)]
    expected = max(best_path(words) + 0.8 * LN_10 * model.sentence(words) + 0.3 * len(words) for words in all_words)
    assert found.score == pytest.approx(expected)


def test_limits_leave_the_best_in_the_beam():
    logs = random_logs(3, 80, 4, sharpness=3.0)

    exact = LexiconSearch(LETTERS, WORDS, lm=MODEL, **EXACT)(logs)[0]

    found = LexiconSearch(LETTERS, WORDS, lm=MODEL)(logs)[0]

    assert (found.text, found.score, found.words) == (exact.text, pytest.approx(exact.score), exact.words)


def test_only_words_of_the_lexicon_are_found_with_their_frames():
    path = [0, 1, 2, 2, 0, 3, 0, 2, 1, 0]  # "ab ba": there is no "ba"
    logs = np.log(np.full((len(path), 4), 0.05))
    logs[np.arange(len(path)), path] = np.log(0.85)

    (found,) = LexiconSearch(LETTERS, WORDS)(logs)

    assert set(found.text.split()) <= {"a", "ab", "aa", "b"}
    assert (found.words[0].text, found.words[0].first_frame, found.words[0].last_frame) == ("ab", 1, 3)


def test_n_best_are_different_texts_in_order():
    found = LexiconSearch(LETTERS, WORDS, lm=MODEL, n_best=5)(random_logs(0, 20, 4))

    assert len({each.text for each in found}) == 5
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert sum(each.confidence for each in found) <= 1


def test_no_frames_are_the_empty_text():
    (found,) = LexiconSearch(LETTERS, WORDS, lm=MODEL)(np.zeros((0, 4)))

    assert (found.text, found.units, found.words) == ("", [], [])


def test_a_beam_of_one_still_gives_permitted_words():
    (found,) = LexiconSearch(LETTERS, WORDS, beam=1)(random_logs(1, 30, 4))

    assert set(found.text.split()) <= {"a", "ab", "aa", "b"}


def test_all_ways_of_saying_a_word_are_read_from_a_lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("the DH AH\nthe(2) DH IY\nthy DH AY\n")
    phonemes = Phonemes(path)

    lexicon = pronounced(path, phonemes)
    logs = np.log(np.full((2, len(phonemes)), 0.01))
    logs[0, phonemes.units.index("DH")] = logs[1, phonemes.units.index("AH")] = np.log(0.9)

    assert LexiconSearch(phonemes, lexicon)(logs)[0].text == "the"
    with pytest.raises(ValueError, match="classes"):
        LexiconSearch(phonemes, lexicon)(np.zeros((2, 3)))


def test_mistakes_are_told(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("the DH\n")
    with pytest.raises(UserError, match="'DH' is not in the vocabulary"):
        pronounced(path, LETTERS)
    with pytest.raises(UserError, match="No such file"):
        pronounced(tmp_path / "none", LETTERS)
    with pytest.raises(ValueError, match="not one word"):
        spelled(["a b"], LETTERS)
    with pytest.raises(ValueError, match="no words"):
        LexiconSearch(LETTERS, spelled([], LETTERS))
    with pytest.raises(ValueError, match="no units"):
        Lexicon({"a": [[]]})
