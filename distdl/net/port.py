"""A port of this machine's that nobody else is given."""

import socket

_reserved: list[socket.socket] = []


def reserve(address: str) -> int:
    """For as long as this process lives. Somebody may listen there, for this socket never does."""
    held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((address, 0))
    _reserved.append(held)
    return int(held.getsockname()[1])
