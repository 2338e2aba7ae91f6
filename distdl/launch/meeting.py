"""Where the workers of one attempt on this machine find each other: a file in memory, which they inherit.

Nobody else can reach it, unlike a port; it dies with the last process that holds it, however that ends, and no worker's
end takes it away from the others. It is new for each attempt: torch would take what the one before left for its own.
"""

import os
import socket
import sys
import tempfile
from pathlib import Path

_LOOPBACK = "127.0.0.1"


class Meeting:
    def __init__(self) -> None:
        self.descriptor: int | None = None
        self._path = ""
        if sys.platform == "linux":
            self.descriptor = os.memfd_create("distdl-meeting")
        else:
            descriptor, self._path = tempfile.mkstemp(prefix="distdl-")
            os.close(descriptor)
        with socket.create_server((_LOOPBACK, 0)) as listening:
            self._port = listening.getsockname()[1]

    @property
    def inherited(self) -> tuple[int, ...]:
        return () if self.descriptor is None else (self.descriptor,)

    def environment(self) -> dict[str, str]:
        """MASTER_ADDR and MASTER_PORT are for code of one's own that asks torch to meet by them: we don't."""
        path = self._path if self.descriptor is None else f"/proc/self/fd/{self.descriptor}"
        return {"DISTDL_MEETING": path, "MASTER_ADDR": _LOOPBACK, "MASTER_PORT": str(self._port)}

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
        else:
            Path(self._path).unlink(missing_ok=True)  # torch removes it, too
