"""distdl.speech.decoding.commands: a language model of words, or of units, from files of text."""

import pytest

from distdl.errors import UserError
from distdl.speech.decoding.arpa import read_arpa
from distdl.speech.decoding.commands import learn_language_model
from distdl.speech.text import Characters

LETTERS = Characters("abc ", case="lower")


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a bab\n\nCAB a\n")
    return path


def test_a_model_of_words_is_learned_and_written(texts, tmp_path):
    learned = learn_language_model([texts, texts], tmp_path / "words.arpa", order=2, vocabulary=LETTERS)

    model = read_arpa(tmp_path / "words.arpa")
    assert model.words == ["</s>", "<unk>", "a", "bab", "cab"]
    assert (learned.n_sentences, learned.n_words) == (4, 8)
    assert learned.n_grams == [6, 6] and learned.perplexity is None


def test_without_a_vocabulary_words_stay_as_they_are(texts, tmp_path):
    learn_language_model([texts], tmp_path / "words.arpa")

    assert "CAB" in read_arpa(tmp_path / "words.arpa")


def test_a_model_of_units_has_a_space_that_can_be_seen(texts, tmp_path):
    learn_language_model([texts], tmp_path / "units.arpa", order=2, vocabulary=LETTERS, over_units=True)

    assert read_arpa(tmp_path / "units.arpa").words == ["</s>", "<unk>", "a", "b", "c", "▁"]


def test_the_perplexity_of_texts_that_were_held_out_is_told(texts, tmp_path):
    learned = learn_language_model([texts], tmp_path / "x.arpa", held_out=[texts])

    assert learned.perplexity and 1 < learned.perplexity < 6


def test_mistakes_name_the_file_and_the_line(texts, tmp_path):
    (tmp_path / "x.txt").write_text("a b\na d\n")
    with pytest.raises(UserError, match="'d'") as raised:
        learn_language_model([tmp_path / "x.txt"], tmp_path / "x.arpa", vocabulary=LETTERS, over_units=True)
    assert raised.value.where == f"{tmp_path / 'x.txt'}, line 2"
    with pytest.raises(UserError, match="No such file"):
        learn_language_model([tmp_path / "none"], tmp_path / "x.arpa")
    with pytest.raises(UserError, match="no such folder"):
        learn_language_model([texts], tmp_path / "none" / "x.arpa")
    with pytest.raises(UserError, match="needs to know them"):
        learn_language_model([texts], tmp_path / "x.arpa", over_units=True)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        learn_language_model([tmp_path / "binary"], tmp_path / "x.arpa")
