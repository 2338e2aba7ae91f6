"""Counts of one worker: what was put in is what is read. (Those of several: tests/dist.)"""

import pytest
import torch

from distdl.comm.status import Status

CPU = torch.device("cpu")


def test_a_steps_counts_are_read_after_it():
    status = Status(("valid", "stop"), CPU)

    status.put(valid=7, stop=1)
    status.exchanged()

    assert status.n_valid == 7
    assert status.read() == {"valid": 7, "stop": 1}
    assert status.drain() == {"valid": 0, "stop": 0}


def test_what_was_not_put_in_is_zero_and_so_is_what_was_not_exchanged():
    status = Status(("valid", "stop"), CPU)
    assert status.read() == {"valid": 0, "stop": 0}

    status.put(stop=1)
    assert status.read() == {"valid": 0, "stop": 0}

    status.exchanged()
    status.put(valid=3)
    status.exchanged()
    assert status.drain() == {"valid": 3, "stop": 1}


def test_a_count_of_something_that_nobody_sums_is_an_error_and_not_lost():
    with pytest.raises(ValueError, match="'stopp'"):
        Status(("valid", "stop"), CPU).put(stopp=1)


def test_a_worker_that_called_something_else_is_noticed_when_the_sums_are_read():
    status = Status(("valid",), CPU)
    status.put(valid=7)
    status.seal()
    status.values[-1] += 1  # what the sum of all would be if another worker's digest were not ours
    status.exchanged()

    with pytest.raises(RuntimeError, match="unlike collectives"):
        status.read()


def test_where_sums_come_late_a_read_is_a_step_behind_and_the_last_one_is_drained():
    status = Status(("valid",), CPU)
    status._lag = 1  # as on an accelerator
    status._arriving.extend((0, torch.tensor([float(n), 0.0]), None) for n in (1, 2, 3))

    assert [status.read(), status.read()] == [{"valid": 1}, {"valid": 2}]
    assert status.read() == {"valid": 0}
    assert status.drain() == {"valid": 3}
