"""Prefix beam search beside pyctcdecode: nothing that the peer finds is better, and mostly both find the same."""

import logging

import numpy as np
import pytest
import torch
from torch.nn.functional import ctc_loss

from distdl.speech.decoding.arpa import write_arpa
from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.decoding.prefix_beam import PrefixBeam
from distdl.speech.decoding.scores import LN_10
from distdl.speech.text import Characters

pyctcdecode = pytest.importorskip("pyctcdecode")
pytest.importorskip("kenlm")

LETTERS = Characters("abcdehinorst ")
TEXTS = ["the cat sat on the bread", "rain in the reeds", "a thin hen ate corn", "do not tie the hen to the bin"]
ALPHA, BETA, UNKNOWN = 0.5, 1.5, -10.0


def made_up_output(text, seed, noise):
    draw = np.random.default_rng(seed)
    path = [unit for each in LETTERS.encode(text) for unit in (0, each)]
    logits = draw.normal(scale=noise, size=(len(path), len(LETTERS)))
    logits[np.arange(len(path)), path] += 6
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def acoustic(text, logs):
    units = LETTERS.encode(text)
    logs_TBC, n_frames, n_units = torch.tensor(logs)[:, None], torch.tensor([len(logs)]), torch.tensor([len(units)])
    return -float(ctc_loss(logs_TBC, torch.tensor([units]), n_frames, n_units, reduction="sum"))


@pytest.fixture(scope="module")
def model():
    return train_language_model([*TEXTS, "the rain", "the hen sat", "a bin"], order=2)


@pytest.fixture(scope="module")
def peer(model, tmp_path_factory):
    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    path = tmp_path_factory.mktemp("model") / "model.arpa"
    write_arpa(model, path)
    settings = {"alpha": ALPHA, "beta": BETA, "unk_score_offset": UNKNOWN}
    return pyctcdecode.build_ctcdecoder(LETTERS.units, str(path), unigrams=model.words, **settings)


def test_with_a_language_model_no_text_of_the_peers_is_better(model, peer):
    decoder = PrefixBeam(LETTERS, lm=model, alpha=ALPHA, beta=BETA, unknown_word=UNKNOWN)

    def total(text, logs):
        unknown = sum(word not in model for word in text.split())
        language = ALPHA * LN_10 * model.sentence(text) + BETA * len(text.split()) + UNKNOWN * unknown
        return acoustic(text, logs) + language

    same = 0
    for seed in range(16):
        logs = made_up_output(TEXTS[seed % len(TEXTS)], seed, noise=1.9)
        found, of_peer = decoder(logs)[0], peer.decode(logs)
        same += found.text == of_peer
        assert found.score > total(of_peer, logs) - 0.1

    assert same >= 12


def test_without_one_both_find_the_same():
    peer, decoder = pyctcdecode.build_ctcdecoder(LETTERS.units), PrefixBeam(LETTERS)
    outputs = [made_up_output(text, seed, noise=1.3) for seed in range(4) for text in TEXTS]

    found = [decoder(logs)[0].text for logs in outputs]

    assert found == [peer.decode(logs) for logs in outputs]
    assert found != TEXTS * 4  # so it was not too easy
