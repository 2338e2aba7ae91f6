"""distdl.speech.decoding.build: decoders as a config names them, and what is told of a mistake in it."""

import numpy as np
import pytest
import torch

from distdl.errors import UserError
from distdl.speech.decoding.arpa import write_arpa
from distdl.speech.decoding.build import decode_batch, decoder
from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.text import Characters, Phonemes, in_units

LETTERS = Characters("ab ")


@pytest.fixture
def files(tmp_path):
    write_arpa(train_language_model(["ab b", "b b a"], order=2), tmp_path / "lm.arpa")
    units = [in_units(text, LETTERS) for text in ("ab b", "b b a")]
    write_arpa(train_language_model(units, order=2), tmp_path / "units.arpa")
    write_arpa(train_language_model(["AB B"], order=2), tmp_path / "upper.arpa")
    (tmp_path / "words.txt").write_text("ab\nb\n")
    (tmp_path / "lexicon.txt").write_text("ab A B\nb B\n")
    (tmp_path / "empty.txt").write_text("\n")
    return tmp_path


def named(args, files):
    return {key: str(files / value) if key in ("lm", "words", "lexicon") else value for key, value in args.items()}


def output(*path, classes=4):
    logs = np.log(np.full((len(path), classes), 0.1 / (classes - 1)))
    logs[np.arange(len(path)), path] = np.log(0.9)
    return torch.tensor(logs)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"kind": "greedy"},
        {"kind": "beam", "beam": 10, "n_best": 2},
        {"kind": "beam", "lm": "lm.arpa", "alpha": 0.2, "beta": 1, "unknown_word": -3},
        {"kind": "beam", "lm": "units.arpa", "lm_over": "units", "token_threshold": -9.0, "beam_threshold": 20},
        {"kind": "lexicon", "words": "words.txt"},
        {"kind": "lexicon", "words": "words.txt", "lm": "lm.arpa", "alpha": 0.1},
    ],
)
def test_each_kind_decodes(args, files):
    assert decoder(named(args, files), LETTERS, "decoder")(output(1, 2, 0, 3, 2))[0].text == "ab b"


def test_a_lexicon_of_pronunciations_gives_words(files):
    phonemes = Phonemes(files / "lexicon.txt")
    decode = decoder({"kind": "lexicon", "lexicon": str(files / "lexicon.txt")}, phonemes, "decoder")

    assert decode(output(1, 2, 0, 2, classes=3))[0].text == "ab b"


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_of_a_batch_each_row_has_its_own_length(kind):
    logs = torch.stack([output(1, 2, 0, 3, 2), output(2, 0, 2, 1, 1)]).float()

    found = decode_batch(decoder({"kind": kind}, LETTERS, "decoder"), logs, torch.tensor([5, 3]))

    assert [each[0].text for each in found] == ["ab b", "bb"]


@pytest.mark.parametrize(
    ("args", "where", "what"),
    [
        ({"kind": "beem"}, "d.kind", "did you mean beam"),
        ({"kind": "beam", "betta": 1}, "d", "did you mean beta"),
        ({"beam": 3}, "d", "unknown key 'beam' of the greedy decoder"),
        ({"kind": "beam", "beam": 0}, "d.beam", "whole number from 1"),
        ({"kind": "beam", "alpha": "x"}, "d.alpha", "is a number"),
        ({"kind": "beam", "token_threshold": 5}, "d.token_threshold", "is a number"),
        ({"kind": "beam", "lm": "none.arpa"}, "d.lm", "no such file"),
        ({"kind": "beam", "lm": "upper.arpa"}, "d.lm", "can spell no word"),
        ({"kind": "beam", "lm": "upper.arpa", "lm_over": "units"}, "d.lm", "none of the vocabulary's units"),
        ({"kind": "beam", "lm": "lm.arpa", "lm_over": "x"}, "d.lm_over", "'x'"),
        ({"kind": "lexicon"}, "d", "needs the words"),
        ({"kind": "lexicon", "words": "words.txt", "lexicon": "lexicon.txt"}, "d", "needs the words"),
        ({"kind": "lexicon", "words": "lexicon.txt"}, "d.words", "'A'"),
        ({"kind": "lexicon", "words": "empty.txt"}, "d.words", "is empty"),
    ],
)
def test_mistakes_are_told_with_their_place(args, where, what, files):
    with pytest.raises(UserError, match=what) as raised:
        decoder(named(args, files), LETTERS, "d")

    assert raised.value.where == where and raised.value.fix
