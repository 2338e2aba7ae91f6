"""A component's bytes out of an open tar, compared with the checksum that the index has of them."""

import errno
import os

import xxhash

from distdl.data.corpus.index import Component


def read_component(file: int, component: Component) -> bytes:
    """A component's bytes, by file descriptor. Raises ValueError with the reason if they are not what was indexed."""
    data = b""
    try:
        while len(data) < component.size:  # once, but for sizes beyond 2 GiB
            part = os.pread(file, component.size - len(data), component.offset + len(data))
            if not part:
                raise ValueError(f"the shard ends after {len(data)} of its {component.size} bytes")
            data = data + part if data else part
    except OSError as error:
        if error.errno != errno.EIO:  # one bad sector is a bad sample; anything else is a broken disk or mount
            raise
        raise ValueError(f"can't be read: {error.strerror}") from error
    return verified(data, component)


def verified(data: bytes, component: Component) -> bytes:
    """The data. Raises ValueError if it is not what was indexed."""
    if len(data) != component.size or xxhash.xxh3_64_intdigest(data) != component.xxh3:
        raise ValueError("its checksum does not match: the data has changed since it was indexed")
    return data
