"""A worker of another launcher that is told to stop before there is anything to save, or when all is over."""

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


TOLD_ON_ITS_WAY_OUT = """
import atexit, os, subprocess, sys, time
from distdl import cli
from distdl.comm import world
from distdl.trainer import worker

def disturb():
    often = f"i=0; while [ $i -lt 20000 ] && kill -s {sys.argv[1]} {os.getpid()}; do i=$((i + 1)); done"
    subprocess.Popen(["sh", "-c", often], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.3)

atexit.register(disturb)
world.detect = lambda backend: world.WorldInfo(world_size=2)
worker.run_worker = lambda config, launch, world: 0
sys.exit(cli.main(["train", "mine.yaml"]))
"""


@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_a_signal_that_comes_when_all_is_over_changes_nothing(tmp_path, name):
    (tmp_path / "mine.yaml").write_text(CONFIG)

    done = subprocess.run(
        [sys.executable, "-c", TOLD_ON_ITS_WAY_OUT, name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
