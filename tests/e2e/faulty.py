"""Networks that bring the process down at a chosen point, for tests that kill a run.

A config names one as `faulty:lenet5`; the environment variable FAULT says as JSON what happens:
{"rank": 1, "where": "train", "nth": 5, "kill": "self", "once": "/path"}. `where` is train or eval (the nth forward of
that kind), or fsync, rename or replaced (the nth such call of the thread that saves; "renamed": just after it).
`kill`: self, rank0, supervisor or all; nan, which kills nobody and spoils the input; nothing; or what is used up
(memory, semaphore, pages). `once`: a file that is made before, so that it happens only once.
"""

import json
import math
import os
import signal
import threading
from pathlib import Path

import hungry

from distdl import models

_calls = {}


def lenet5(**args):
    return _armed(models.build("lenet5", args))


def resnet20(**args):
    return _armed(models.build("resnet20_cifar", args))


def _armed(network):
    if "FAULT" in os.environ:
        fault = json.loads(os.environ["FAULT"])
        pids = Path(fault["once"]).with_name("pids")
        pids.mkdir(exist_ok=True)
        (pids / os.environ["RANK"]).write_text(str(os.getpid()))
        if int(os.environ["RANK"]) == fault["rank"] and not Path(fault["once"]).exists():
            _arm(network, fault, pids)
    return network


def _arm(network, fault, pids):
    def reached(where):
        _calls[where] = _calls.get(where, 0) + 1
        if where == fault["where"] and _calls[where] == fault["nth"]:
            Path(fault["once"]).touch()
            if fault["kill"] in ("nan", "nothing"):
                return fault["kill"] == "nan"
            if fault["kill"] == "memory":
                hungry.eat(fault["once"])
            if fault["kill"] in ("semaphore", "pages"):
                hungry.fill_shared_memory(fault["kill"])
            _strike(fault["kill"], pids)
        return False

    def before_forward(module, inputs):
        spoils = reached("train" if module.training else "eval")
        return (inputs[0] * math.nan,) if spoils else None

    network.register_forward_pre_hook(before_forward)
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor):
        if threading.current_thread().name == "checkpoint":
            reached("fsync")
        real_fsync(descriptor)

    def rename(source, target, **options):
        saving = threading.current_thread().name == "checkpoint"
        if saving:
            reached("rename")
        real_rename(source, target, **options)
        if saving:
            reached("renamed")

    os.fsync, os.rename = fsync, rename


def _strike(whom, pids):
    workers = {int(path.name): int(path.read_text()) for path in pids.iterdir()}
    supervisor = int(os.environ.get("DISTDL_SUPERVISOR_PID", os.getpid()))  # srun's tasks have none
    victims = {
        "self": [os.getpid()],
        "rank0": [workers[0]],
        "supervisor": [supervisor],
        "all": [supervisor, *(pid for pid in workers.values() if pid != os.getpid()), os.getpid()],
    }[whom]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    if os.getpid() not in victims:
        signal.pause()  # die with the supervisor, or be stopped by it; never get past this point
