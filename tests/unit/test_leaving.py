"""A worker of another launcher that is told to stop before there is anything to save."""

import subprocess
import sys

import pytest

from distdl.errors import EXIT_PREEMPTED

CONFIG = """
model: {name: lenet5, args: {classes: 10}}
data: {train: {shards: nowhere}}
train: {global_batch: 8, steps: 8, stop_signals: [SIGUSR2, SIGTERM]}
optim: {name: sgd, lr: 0.1}
"""
STOPPED_ON_ITS_WAY_IN = """
import os, signal, sys
from distdl import cli
from distdl.comm import world

world.detect = lambda backend: os.kill(os.getpid(), getattr(signal, sys.argv[1])) or signal.pause()
sys.exit(cli.main(["train", "mine.yaml"]))
"""


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM"])
def test_it_ends_as_one_that_has_saved_so_that_it_is_started_again(tmp_path, name):
    (tmp_path / "mine.yaml").write_text(CONFIG)

    done = subprocess.run(
        [sys.executable, "-c", STOPPED_ON_ITS_WAY_IN, name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == EXIT_PREEMPTED
    assert done.stderr == f"{name}: stopped before training had begun\n"
