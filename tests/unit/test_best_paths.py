"""distdl.speech.decoding.best_paths: runs of a class become units, with their frames."""

import numpy as np
import pytest
import torch

from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.text import Characters

LETTERS = Characters("ab ")


def log_probs(*rows, classes=4, high=0.7):
    """One-hot-like posteriors: `high` for the class named, the rest shared."""
    probs = torch.full((len(rows), max(map(len, rows)), classes), (1 - high) / (classes - 1))
    for row, path in enumerate(rows):
        for frame, number in enumerate(path):
            probs[row, frame, number] = high
    return probs.log()


def test_repeats_are_merged_and_blanks_taken_out():
    (found,) = best_paths(log_probs([0, 1, 1, 0, 1, 2, 2, 0]), torch.tensor([8]))

    assert found.units == [1, 1, 2]
    assert found.frames == [(1, 2), (4, 4), (5, 6)]
    assert found.confidences == pytest.approx([0.7] * 3)
    assert found.score == pytest.approx(8 * np.log(0.7), rel=1e-5)
    assert found.confidence == pytest.approx(0.7)


def test_frames_beyond_a_rows_length_do_not_count():
    both = best_paths(log_probs([1, 2, 2, 1], [1, 2, 2, 1]), torch.tensor([2, 4]))

    assert [each.units for each in both] == [[1, 2], [1, 2, 1]]


def test_what_is_in_the_padding_may_be_anything():
    logs = log_probs([1, 2, 2])
    logs[0, 2] = float("nan")

    assert best_paths(logs, torch.tensor([2]))[0].units == [1, 2]
    with pytest.raises(ValueError, match="row 0, frame 2"):
        best_paths(logs, torch.tensor([3]))


@pytest.mark.parametrize("n_frames", [0, 3])
def test_no_frames_are_no_units(n_frames):
    (found,) = best_paths(torch.zeros(1, n_frames, 4), torch.tensor([0]))

    assert (found.units, found.frames, found.confidence) == ([], [], 1.0)


def test_of_blanks_alone_the_confidence_is_that_of_the_blanks():
    (found,) = best_paths(log_probs([0, 0]), torch.tensor([2]))

    assert (found.units, found.confidence) == ([], pytest.approx(0.7))


def test_the_words_have_their_frames():
    (path,) = best_paths(log_probs([1, 2, 2, 0, 3, 0, 2, 1, 1]), torch.tensor([9]))
    found = path.hypothesis(LETTERS)

    assert found.text == "ab ba"
    assert [(word.text, word.first_frame, word.last_frame) for word in found.words] == [("ab", 0, 2), ("ba", 6, 8)]
    assert found.words[0].confidence == pytest.approx(0.7)


def test_another_shape_is_told():
    with pytest.raises(ValueError, match=r"\(B, T, C\)"):
        best_paths(torch.zeros(3, 4), torch.tensor([3]))
