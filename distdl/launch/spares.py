"""Workers for the next attempt, started while this one trains: they import what takes seconds, and wait at a gate.

    supervisor: starts them, one after the other     worker: imports, and waits for a byte from a pipe
    supervisor: opens the gate after a failure       worker: goes on as if it had just been started

So a run that fails goes on within a second or two, where libraries take most of a start. They hold memory, but no
device and no port. One that is gone by then is started anew.
"""

import os

BETWEEN_S = 1.5  # two starts: imports take a core from those that train


class Gate:
    """A pipe that the spare workers of one attempt read from. It opens once; when it is closed instead, they end."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def environment(self) -> dict[str, str]:
        return {"DISTDL_GATE": str(self.reader)}

    def open(self, n: int) -> None:
        """For so many."""
        os.write(self._writer, b"." * n)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._writer)


def is_spare() -> bool:
    return "DISTDL_GATE" in os.environ


def wait_at_gate() -> None:
    """A worker's side, once it has imported what it needs."""
    gate = int(os.environ.pop("DISTDL_GATE"))
    if not os.read(gate, 1):
        os._exit(0)  # nobody needs it any more
    os.close(gate)
