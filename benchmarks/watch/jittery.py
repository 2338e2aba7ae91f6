"""A LeNet-5 that is late in every way that is allowed, by the seconds in JITTER='{"step_s": 2, "first_s": 8, ...}'.

Random workers sleep up to `step_s` in their steps; one sleeps `first_s` in the first step and one `eval_s` in each
evaluation. Each save takes `save_s` longer, in a file's sync by the thread that saves, and so does the last file of a
run, in the foreground.
"""

import json
import os
import random
import threading
import time
from pathlib import Path

from distdl import models
from distdl.comm import collectives

SHARE_OF_STEPS = 0.3


class Jitter:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._together, self._alone = random.Random(1), random.Random(os.getpid())
        self._n_steps = 0
        self._is_evaluating = False
        self._slow_files: set[str] = set()

    def before_forward(self, network, inputs) -> None:
        if not network.training:
            if not self._is_evaluating and self._is_mine():
                time.sleep(self._seconds["eval_s"])
            self._is_evaluating = True
            return
        self._is_evaluating = False
        self._n_steps += 1
        if self._n_steps == 1:
            time.sleep(self._seconds["first_s"] * self._is_mine())
        elif self._alone.random() < SHARE_OF_STEPS:
            time.sleep(self._alone.uniform(0, self._seconds["step_s"]))

    def _is_mine(self) -> bool:
        """The same worker for all."""
        return self._together.randrange(collectives.world_size()) == collectives.rank()

    def slow_down_saves(self) -> None:
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            in_background = threading.current_thread().name == "checkpoint" and path.parent.name.endswith(".part")
            what = path.parent.name if in_background else "final" if path.name.startswith((".final", "final")) else None
            if what and what not in self._slow_files:
                self._slow_files.add(what)
                time.sleep(self._seconds["save_s"])
            sync(descriptor)

        os.fsync = fsync


def lenet5(**args):
    network = models.build("lenet5", args)
    jitter = Jitter(json.loads(os.environ["JITTER"]))
    network.register_forward_pre_hook(jitter.before_forward)
    jitter.slow_down_saves()
    return network
