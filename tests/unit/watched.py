"""Workers that are watched: hands on slots in this process, and small programs without torch that have one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from distdl.watch import pulse

ROOT = Path(__file__).parents[2]
_ATTACH = (
    "from distdl.launch.worker import tell_of_oneself; tell_of_oneself(); from distdl.watch import pulse, stacks\n"
)


def hand(descriptor, number=0):
    """A worker's, on its slot of the board."""
    return pulse.Pulse(*pulse.slot_of(descriptor, number))


def hands(watch):
    """The workers' of a watch."""
    found = []
    for number in range(len(watch.ranks)):
        descriptor, slot, _ = watch.environment(number)["DISTDL_PULSE"].split(":")
        found.append(hand(int(descriptor), int(slot)))
    return found


class Programs:
    """Started in a folder; none is left after `close`."""

    def __init__(self, folder):
        self._folder, self._processes = folder, []

    def start(self, text, environment=None, descriptors=(), attach=True):
        """The pid of a program, once it has printed a line. It has its own text in `<number>.py`."""
        path = self._folder / f"{len(self._processes)}.py"
        path.write_text((_ATTACH if attach else "\n") + text)
        process = subprocess.Popen(
            [sys.executable, str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            pass_fds=descriptors,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout.readline(), f"it ended: {text}"
        return process.pid

    def under(self, watch, *texts):
        """The pids of the workers of a watch."""
        return [
            self.start(text, watch.environment(number), watch.descriptors(number)) for number, text in enumerate(texts)
        ]

    def close(self):
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def until(condition, seconds=5.0):
    """What it returns as soon as it is true; fails when the time is over."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return found
