"""When each unit of a known text was said: the best path through its states (Viterbi; Rabiner 1989, section III.B).

Under CTC the states are the units with a blank around each, and a blank between two different units can be passed over
(Graves et al. 2006, figure 3). For networks that name a unit in every frame, without blanks, there are `monotonic` and,
to begin with, `uniform`. All rows of a batch go through their frames together.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distdl.speech.decoding.best_paths import BestPath
from distdl.speech.decoding.hypotheses import Floats, checked
from distdl.speech.text import BLANK

Whole = npt.NDArray[np.int64]


def align(log_probs_TC: Any, units: Sequence[int]) -> BestPath:
    """The most probable CTC path that spells `units`. Raises ValueError where there is none, as in too few frames."""
    log_probs_TC = checked(log_probs_TC, "TC")
    return align_batch(log_probs_TC[None], [len(log_probs_TC)], [units])[0]


def align_batch(log_probs_BTC: Any, lengths_B: Sequence[int], units: Sequence[Sequence[int]]) -> list[BestPath]:
    """As `align`, of each row's first `lengths_B` frames."""
    log_probs_BTC = checked(log_probs_BTC, "BTC")
    n_frames = [int(length) for length in lengths_B]
    for row, (given, frames) in enumerate(zip(units, n_frames, strict=True)):
        needed = len(given) + sum(one == other for one, other in itertools.pairwise(given))
        if needed > frames:
            raise ValueError(f"row {row}: {len(given)} units need {needed} frames or more, and there are {frames}")
    states_BS = np.full((len(units), 2 * max(map(len, units), default=0) + 1), BLANK)
    for row, given in enumerate(units):
        states_BS[row, 1 : 2 * len(given) : 2] = given
    may_skip_BS = np.zeros(states_BS.shape, bool)
    may_skip_BS[:, 2:] = (states_BS[:, 2:] != BLANK) & (states_BS[:, 2:] != states_BS[:, :-2])
    n_states = [2 * len(given) + 1 for given in units]
    paths = _viterbi(log_probs_BTC, n_frames, states_BS, n_states, may_skip_BS, n_last=2)
    return [
        _spans(log_probs_TC[:frames], list(given), path_T)
        for log_probs_TC, frames, given, path_T in zip(log_probs_BTC, n_frames, units, paths)
    ]


def frame_labels(path: BestPath, n_frames: int) -> Whole:
    """The class of each frame: a unit within its first and last frame, the blank elsewhere."""
    labels_T = np.full(n_frames, BLANK)
    for unit, (first, last) in zip(path.units, path.frames):
        labels_T[first : last + 1] = unit
    return labels_T


def monotonic(log_probs_TC: Any, units: Sequence[int]) -> Whole:
    """The most probable class of each frame where the units follow each other without blanks, each for a frame or more.

    Raises ValueError for more units than frames, or none.
    """
    log_probs_TC = checked(log_probs_TC, "TC")
    _check_enough(len(log_probs_TC), units)
    states_BS = np.array([units], np.int64)
    no_skip_BS = np.zeros(states_BS.shape, bool)
    (path_T,) = _viterbi(log_probs_TC[None], [len(log_probs_TC)], states_BS, [len(units)], no_skip_BS, n_last=1)
    return states_BS[0, path_T]


def uniform(n_frames: int, units: Sequence[int]) -> Whole:
    """The class of each frame where all units last equally long, to within a frame. Raises as `monotonic`."""
    _check_enough(n_frames, units)
    return np.asarray(units, np.int64)[np.arange(n_frames) * len(units) // max(n_frames, 1)]


def _check_enough(n_frames: int, units: Sequence[int]) -> None:
    if len(units) > n_frames or (n_frames and not units):
        raise ValueError(f"{len(units)} units can't be spread over {n_frames} frames")


def _viterbi(
    log_probs_BTC: Floats,
    n_frames: Sequence[int],
    states_BS: Whole,
    n_states: Sequence[int],
    may_skip_BS: Any,
    n_last: int,
) -> list[Whole]:
    """The state of each frame. A path begins in one of the first, and ends in one of the last `n_last` states."""
    n_rows, most_states = states_BS.shape
    most_frames = max(n_frames, default=0)
    emitted_TBS = np.take_along_axis(log_probs_BTC[:, :most_frames], states_BS[:, None], axis=2).swapaxes(0, 1)
    came_from_TBS = np.zeros((most_frames, n_rows, most_states), np.int8)  # how many states back
    ends = np.full((most_frames + 1, n_rows, n_last), -np.inf)
    last_BE = np.maximum(np.array(n_states)[:, None] - 1 - np.arange(n_last), 0)
    # Two states that can't be reached stand before the first, so that "one back" and "two back" are slices.
    padded = np.full((n_rows, most_states + 2), -np.inf)
    best, one_back, two_back = padded[:, 2:], padded[:, 1:-1], padded[:, :-2]
    never = np.where(may_skip_BS, 0.0, -np.inf)
    rows = np.arange(n_rows)[:, None]
    for frame in range(most_frames):
        if frame:
            skipped = two_back + never
            nearer = np.maximum(best, one_back)
            came_from_TBS[frame] = np.where(skipped > nearer, 2, one_back > best)
            best[:] = np.maximum(nearer, skipped) + emitted_TBS[frame]
        else:
            best[:, :n_last] = emitted_TBS[0, :, :n_last]
        ends[frame + 1] = best[rows, last_BE]
    found = []
    for row, frames in enumerate(n_frames):
        if frames and not np.isfinite(ends[frames, row]).any():
            raise ValueError(f"row {row}: there is no path with a probability above 0")
        state = int(last_BE[row, ends[frames, row].argmax()])
        path_T = np.empty(frames, np.int64)
        for frame in range(frames - 1, -1, -1):
            path_T[frame] = state
            state -= int(came_from_TBS[frame, row, state])
        found.append(path_T)
    return found


def _spans(log_probs_TC: Floats, units: list[int], path_T: Whole) -> BestPath:
    """`path_T` are states of CTC: the odd ones are units."""
    places = 2 * np.arange(len(units)) + 1
    firsts, afters = np.searchsorted(path_T, places), np.searchsorted(path_T, places, side="right")
    highest = [float(log_probs_TC[first:after, unit].max()) for unit, first, after in zip(units, firsts, afters)]
    classes_T = np.where(path_T % 2, np.array([*units, BLANK])[path_T // 2], BLANK)
    logs_T = log_probs_TC[np.arange(len(path_T)), classes_T]
    counted = np.array(highest) if highest else logs_T
    return BestPath(
        units=units,
        frames=[(int(first), int(after) - 1) for first, after in zip(firsts, afters)],
        confidences=np.exp(highest).tolist() if highest else [],
        score=float(logs_T.sum()),
        confidence=float(np.exp(counted.mean())) if len(counted) else 1.0,
    )
