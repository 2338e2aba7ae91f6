"""Takes memory until there is none, or shared memory where there is none.

A network of faulty.py calls it; loader processes import it as a stage, and so it is free of torch. HUNGRY names a file
that the stage makes before it begins, so that it happens only once, in one process.
"""

import itertools
import mmap
import multiprocessing
import os
from pathlib import Path

_PORTION = 32 << 20
_PATIENCE = 300  # samples
_taken = []
_samples = itertools.count()


def eat(struck):
    """Until the end, at about the time that the file `struck` was changed."""
    while True:
        _taken.append(b"x" * _PORTION)  # written to, so that it is had and not only promised
        Path(struck).touch()


def fill_shared_memory(use):
    """As a user's code might: with a lock between processes, or with a file that is mapped."""
    if use == "semaphore":
        return multiprocessing.Lock()
    with Path("/dev/shm/mapped").open("w+b") as file:
        file.truncate(_PORTION)
        return mmap.mmap(file.fileno(), _PORTION).write(b"x" * _PORTION)


def stage(samples):
    for sample in samples:
        if multiprocessing.parent_process() and _is_time():  # the training process looks at a sample as well
            eat(os.environ["HUNGRY"])
        yield sample


def _is_time():
    """In the middle of the run, when the first process comes there."""
    if next(_samples) < _PATIENCE:
        return False
    try:
        Path(os.environ["HUNGRY"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
