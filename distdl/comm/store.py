"""`python -m distdl.comm.store FD`: the process in which the workers of one attempt find each other.

It is a process of its own so that the supervisor stays free of torch and that no worker's death takes it away. The
supervisor has bound and opened FD for listening already, so its port is the kernel's choice and workers that connect
early just wait. It ends when its stdin closes, or with its supervisor.
"""

import socket
import sys

from distdl.launch.worker import tie_to_supervisor


def main() -> None:
    tie_to_supervisor()
    import torch.distributed as dist  # takes a second or more: only once this process can't be orphaned

    listening = socket.socket(fileno=int(sys.argv[1]))
    host, port = listening.getsockname()[:2]
    store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    sys.stdin.buffer.read()  # returns when the supervisor closes its end
    del store


if __name__ == "__main__":
    main()
