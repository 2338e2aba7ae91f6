"""distdl/tasks/frames.py: a class for each frame, by equal shares or by the network's own alignment."""

import pytest
import torch

from distdl.data.labels import IGNORED
from distdl.errors import UserError
from distdl.tasks.frames import Frames

VOCABULARY = {"characters": "abc"}


def batch_of(*transcripts, valid=None):
    units = [["abc".index(letter) + 1 for letter in each] for each in transcripts]
    label = torch.tensor([[len(row), *row] + [0] * (6 - len(row)) for row in units])
    return {"label": label, "valid": torch.tensor(valid or [1.0] * len(transcripts))}


def logits_for(*paths, n_frames=8, strength=5.0):
    """Of classes that are named frame by frame."""
    logits = torch.zeros(len(paths), n_frames, 4)
    for row, path in enumerate(paths):
        for frame, letter in enumerate(path):
            logits[row, frame, " abc".index(letter)] = strength
    return logits


def targets(task, logits, frames, batch):
    return task._targets((logits, torch.tensor(frames)), batch).tolist()


def test_units_share_the_frames_with_silence_at_both_ends():
    found = targets(Frames(VOCABULARY), torch.zeros(2, 8, 4), [8, 4], batch_of("ab", "ca"))

    assert found[0] == [0, 0, 1, 1, 2, 2, 0, 0]
    assert found[1] == [0, 3, 1, 0] + [IGNORED] * 4


def test_the_network_aligns_by_its_own_scores():
    logits = logits_for(" aaaab  ")

    found = targets(Frames(VOCABULARY, alignment="model"), logits, [8], batch_of("ab"))

    assert found[0] == [0, 1, 1, 1, 1, 2, 0, 0]


def test_where_frames_are_few_there_is_no_silence_and_where_they_are_too_few_no_target():
    found = targets(Frames(VOCABULARY), torch.zeros(3, 8, 4), [3, 2, 0], batch_of("abc", "abc", "a"))

    assert found[0][:3] == [1, 2, 3]
    assert set(found[1]) == set(found[2]) == {IGNORED}


def test_the_loss_is_a_mean_over_frames_summed_over_rows_that_count():
    task, logits = Frames(VOCABULARY), torch.zeros(2, 8, 4, requires_grad=True)

    loss, count = task.loss((logits, torch.tensor([8, 4])), batch_of("ab", "ca", valid=[1.0, 0.0]))
    loss.backward()

    assert count == 1
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    assert logits.grad[1].abs().sum() == 0


def test_accuracy_is_of_frames_and_errors_are_of_what_is_spelled():
    task, logits = Frames(VOCABULARY, alignment="model"), logits_for(" aaaab  ", "  cccc  ")
    batch = batch_of("ab", "ca")

    sums = task.metrics((logits, torch.tensor([8, 8])), batch)
    result = task.finish({name: float(value) / 2 for name, value in sums.items()}, 2, {})

    assert result["frame_accuracy"] == pytest.approx(15 / 16)  # the second lacks an a, which takes a frame
    assert result["cer"] == pytest.approx(1 / 4)
    assert result["infeasible"] == 0


def test_another_way_to_align_is_refused():
    with pytest.raises(UserError, match="did you mean uniform"):
        Frames(VOCABULARY, alignment="unifrom")
