"""distdl.speech.decoding.forced_alignment: the best of all paths that spell a text, found by trying them all."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.speech.decoding.forced_alignment import align, align_batch, frame_labels, monotonic, uniform


def random_logs(seed, n_frames, n_classes):
    logits = np.random.default_rng(seed).normal(size=(n_frames, n_classes)) * 2
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def merged(path, blank=0):
    return [unit for unit, _ in itertools.groupby(path) if unit != blank]


def best_of_all(logs, spells):
    paths = [path for path in itertools.product(range(logs.shape[1]), repeat=len(logs)) if spells(path)]
    return max((sum(logs[t, c] for t, c in enumerate(path)), path) for path in paths) if paths else None


small = {
    "seed": st.integers(0, 1000),
    "n_frames": st.integers(0, 5),
    "units": st.lists(st.integers(1, 2), max_size=3),
}


@given(**small)
def test_the_path_is_the_best_of_all_that_spell_the_units(seed, n_frames, units):
    logs = random_logs(seed, n_frames, 3)
    expected = best_of_all(logs, lambda path: merged(path) == units)

    if expected is None:
        with pytest.raises(ValueError, match="need"):
            align(logs, units)
        return
    found = align(logs, units)

    assert found.score == pytest.approx(expected[0])
    assert tuple(frame_labels(found, n_frames)) == expected[1]


@given(seed=st.integers(0, 1000), n_frames=st.integers(1, 5), units=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_without_blanks_every_frame_is_of_a_unit(seed, n_frames, units):
    logs = random_logs(seed, n_frames, 3)
    if len(units) > n_frames:
        with pytest.raises(ValueError, match="spread"):
            monotonic(logs, units)
        return
    lasting = [
        [unit for unit, n in zip(units, times) for _ in range(n)]
        for times in itertools.product(range(1, n_frames + 1), repeat=len(units))
        if sum(times) == n_frames
    ]

    found = monotonic(logs, units)

    assert found.tolist() in lasting
    assert logs[np.arange(n_frames), found].sum() == pytest.approx(
        max(sum(logs[t, c] for t, c in enumerate(path)) for path in lasting)
    )


def test_rows_of_a_batch_do_not_touch_each_other():
    logs = np.stack([random_logs(seed, 9, 4) for seed in range(4)])
    lengths, units = [9, 5, 0, 3], [[1, 1, 2, 3], [3], [], [1, 2, 1]]
    logs[1, 5:] = 0

    together = align_batch(logs, lengths, units)

    assert together == [align(logs[row, : lengths[row]], units[row]) for row in range(4)]


def test_units_have_their_frames_and_confidences():
    logs = np.log(np.full((6, 3), 0.1))
    for frame, unit in enumerate([0, 1, 1, 0, 2, 0]):
        logs[frame, unit] = np.log(0.8)
    logs[2, 1] = np.log(0.9)

    found = align(logs, [1, 2])

    assert found.frames == [(1, 2), (4, 4)]
    assert found.confidences == pytest.approx([0.9, 0.8])


def test_a_text_that_cannot_be_is_told():
    logs = np.log([[0.5, 0.5, 1e-300]] * 4)
    logs[:, 2] = -np.inf

    with pytest.raises(ValueError, match="no path"):
        align(logs, [2])
    with pytest.raises(ValueError, match="2 units need 3 frames or more, and there are 2"):
        align(logs[:2], [1, 1])


@pytest.mark.parametrize(
    ("n_frames", "units", "labels"), [(5, [7, 8], [7, 7, 7, 8, 8]), (3, [1, 2, 3], [1, 2, 3]), (0, [], [])]
)
def test_uniform_gives_all_units_the_same_time(n_frames, units, labels):
    assert uniform(n_frames, units).tolist() == labels


@pytest.mark.parametrize(("n_frames", "units"), [(1, [1, 2]), (3, [])])
def test_uniform_needs_a_frame_for_each_unit_and_a_unit_for_all_frames(n_frames, units):
    with pytest.raises(ValueError, match="spread"):
        uniform(n_frames, units)
