"""A worker at the gate goes on when it opens, and ends when nobody needs it."""

import os
import subprocess
import sys

import pytest

from distdl.launch.spares import Gate

WAIT = "from distdl.launch import spares; spares.wait_at_gate(); print('on', spares.is_spare(), flush=True)"


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.close()


def spare(gate):
    environment = {**os.environ, **gate.environment()}
    return subprocess.Popen(
        [sys.executable, "-c", WAIT], env=environment, pass_fds=(gate.reader,), stdout=subprocess.PIPE
    )


def test_so_many_go_on_as_the_gate_is_opened_for(gate):
    waiting = [spare(gate), spare(gate)]

    gate.open(2)

    for process in waiting:
        assert process.communicate(timeout=20)[0] == b"on False\n" and process.returncode == 0


def test_a_spare_ends_with_the_gate():
    gate = Gate()
    process = spare(gate)

    gate.close()

    assert process.communicate(timeout=20)[0] == b"" and process.returncode == 0
