"""A LeNet-5 that a chosen worker makes hang, or call other collectives, in a chosen step: HANG='{"rank": 1, ...}'.

`how`: what it does in its forward pass, once, when it has taken `after` steps.
"""

import itertools
import json
import os
import re
import resource
import signal
import time
from pathlib import Path

import torch

from distdl import models
from distdl.comm import collectives
from distdl.data.fill import Filler
from distdl.trainer import loop

SIZE = 1000


# What the last words have to say of a fault of rank 1, among three or four workers.
CALLED, OTHERS = r"rank 1 called", r"where ranks 0, 2(, 3)? called"
TOLD = {
    "killed": r"killed by SIGKILL|Signal 9 \(SIGKILL\)",  # the latter in torchrun's words
    "left": r"ended with exit code 0 in the middle of the run",
    "stopped": r"stopped by a signal",
    "skipped": rf"{CALLED} .* {OTHERS} .*\(second\).*: it (left one out|called one more, or another one)",
    "extra": rf"{CALLED} .*\(one more\).* {OTHERS} .*\(second\).*: it called one more",
    "reordered": rf"{CALLED} .*\(second\).* {OTHERS} .*\(first\)",
    "other_shape": rf"{CALLED} all_reduce of \[1007\].* {OTHERS} all_reduce of \[1000\].*shapes",
    "other_dtype": rf"{CALLED} .*torch.float64.* {OTHERS} .*torch.float32.*dtypes differ",
    "uneven": rf"{CALLED} .* {OTHERS} .*gradient bucket",
    "memory": r"out of memory",
    "loop": r"rank 1 on \S+ got no further for .* \(its processor is busy\), in forward",
    "on_its_own": r"rank 1 on \S+ waiting in a collective that the others have not come to, called at \S+hanging.py:",
    "input": r"rank 1 on \S+ got no batch for .*: its input is stalled",
}


def last_words(output):
    """From the headline of the failure on."""
    found = re.search(r"^rank \d+ on \S+ (failed|hung)[^\n]*:\n.*\Z", output, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""


def spin():
    while True:
        pass


class Faults:
    def __init__(self, fault, network):
        self.fault, self.network = fault, network
        self.n_forward = 0

    def before_forward(self, network, inputs):
        if not network.training:
            return
        self.n_forward += 1
        if self.n_forward == 1 and "again" in self.fault and Path(self.fault["at"]).exists():
            Path(self.fault["again"]).write_text(str(time.monotonic()))
        is_due = self.n_forward > self.fault["after"]
        is_mine = is_due and collectives.rank() == self.fault["rank"] and _once(self.fault)
        if is_mine and self.n_forward == self.fault["after"] + 1:
            _note_time(self.fault)
        getattr(self, self.fault["how"])(is_mine)

    def killed(self, is_mine):
        if is_mine:
            os.kill(os.getpid(), signal.SIGKILL)

    def works(self, is_mine):
        until = time.process_time() + self.fault["seconds"] / 3  # workers share few cores
        while time.process_time() < until:
            pass

    def all_killed(self, is_mine):
        if is_mine:
            children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
            for pid in sorted(map(int, children), key=lambda pid: pid == os.getpid()):
                os.kill(pid, signal.SIGKILL)

    def killed_in_backward(self, is_mine):
        if is_mine:
            next(self.network.parameters()).register_hook(lambda gradient: self.killed(True))

    def killed_in_slow_steps(self, is_mine):
        time.sleep(0.15)
        self.killed(is_mine)

    def raises(self, is_mine):
        if is_mine:
            raise RuntimeError("of rank 1")

    def left(self, is_mine):
        if is_mine:
            os._exit(0)

    def on_its_own(self, is_mine):
        if is_mine:
            torch.distributed.barrier()

    def stopped(self, is_mine):
        if is_mine:
            os.kill(os.getpid(), signal.SIGSTOP)

    def loop(self, is_mine):
        if is_mine:
            spin()

    def sleeps(self, is_mine):
        if is_mine:
            time.sleep(3600)

    def slow(self, is_mine):
        time.sleep(self.fault["seconds"] * (10 if is_mine else 1))

    def memory(self, is_mine):
        if is_mine:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))  # less than it has
            torch.ones(1 << 28)

    # Two sums in each step, as of layers that meet in the forward pass.

    def skipped(self, is_mine):
        self.meet(SIZE, "first")
        if not is_mine:
            self.meet(SIZE + 8, "second")

    def extra(self, is_mine):
        self.meet(SIZE, "first")
        if is_mine:
            self.meet(SIZE, "one more")
        self.meet(SIZE + 8, "second")

    def reordered(self, is_mine):
        sizes = [(SIZE, "first"), (SIZE + 8, "second")]
        for size, name in reversed(sizes) if is_mine else sizes:
            self.meet(size, name)

    def other_shape(self, is_mine):
        self.meet(SIZE + (7 if is_mine else 0), "first")

    def other_dtype(self, is_mine):
        self.meet(SIZE, "first", torch.float64 if is_mine else torch.float32)

    def meet(self, size, name, dtype=torch.float32):
        collectives.start_sum(torch.ones(size, dtype=dtype), name).wait()


def end_early(fault):
    """As a loader does that has less than the others'."""
    real = loop.announced
    if int(os.environ["RANK"]) == fault["rank"]:
        loop.announced = lambda batches, run: _noting(fault, itertools.islice(real(batches, run), fault["after"]))


def _noting(fault, batches):
    yield from batches
    _note_time(fault)


def stall_input(fault):
    real, calls = Filler.fill, itertools.count()

    def fill(self, *arguments):
        if int(os.environ["RANK"]) == fault["rank"] and next(calls) >= fault["after"]:
            _note_time(fault)
            time.sleep(3600)
        return real(self, *arguments)

    Filler.fill = fill


def _note_time(fault):
    if "at" in fault:
        Path(fault["at"]).write_text(str(time.monotonic()))


def _once(fault):
    """Not again after a restart, if there is a file to tell by."""
    if "once" in fault:
        try:
            os.close(os.open(fault["once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
    return True


def spin_in_input(fault):
    real, calls = Filler.fill, itertools.count()

    def hold_the_interpreter(self, *arguments):
        is_due = self.where == "data.train" and next(calls) >= fault["after"]
        if is_due and int(os.environ["RANK"]) == fault["rank"] and _once(fault):
            re.match(r"(a+)+$", "a" * 60 + "b")  # in C, for ever, and lets nobody else run
        return real(self, *arguments)

    Filler.fill = hold_the_interpreter


ELSEWHERE = {"uneven": end_early, "input": stall_input, "spin_in_input": spin_in_input}


def lenet5(**args):
    network = models.build("lenet5", args)
    if "HANG" in os.environ:
        fault = json.loads(os.environ["HANG"])
        if fault["how"] in ELSEWHERE:
            ELSEWHERE[fault["how"]](fault)
        else:
            network.register_forward_pre_hook(Faults(fault, network).before_forward)
    return network
