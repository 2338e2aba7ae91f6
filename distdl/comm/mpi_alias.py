"""Loads a shared library under a second name.

Debian's MPICH is `libmpich.so.12`, and mpi4py's wheels look for the same library as `libmpi.so.12`, the name that all
MPIs of its family have agreed on. The dynamic linker asks a library for its name (DT_SONAME): so an empty one of that
name is loaded, which needs the real one. See the ELF-64 object file format, chapters "Program header" and "Dynamic".
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

_MACHINES = {"x86_64": 62, "aarch64": 183}
_HEADER, _PROGRAM_HEADER, _ENTRY = "<16sHHIQQQIHHHHHH", "<IIQQQQQQ", "<QQ"
_DYN, _LOAD, _DYNAMIC, _READ = 3, 1, 2, 4
_NULL, _NEEDED, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 0, 1, 5, 6, 10, 11, 14
_PAGE = 1 << 16


def load(library: Path, name: str) -> None:
    """Raises OSError where it can't be."""
    if sys.platform != "linux" or os.uname().machine not in _MACHINES:
        raise OSError(f"no second name for {library} on this system")
    handle = os.memfd_create(name)
    os.write(handle, _empty_library(name, str(library)))
    ctypes.CDLL(f"/proc/self/fd/{handle}")


def _empty_library(name: str, needs: str) -> bytes:
    strings = b"\0" + name.encode() + b"\0" + needs.encode() + b"\0"
    n_headers = struct.calcsize(_HEADER) + 2 * struct.calcsize(_PROGRAM_HEADER)
    entries = 7
    at_dynamic = n_headers
    at_symbols = at_dynamic + entries * struct.calcsize(_ENTRY)
    at_strings = at_symbols + 24  # one symbol, of nothing
    dynamic = [
        (_NEEDED, 1 + len(name) + 1),
        (_SONAME, 1),
        (_STRTAB, at_strings),
        (_SYMTAB, at_symbols),
        (_STRSZ, len(strings)),
        (_SYMENT, 24),
        (_NULL, 0),
    ]
    size = at_strings + len(strings)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    machine = _MACHINES[os.uname().machine]
    header = struct.pack(_HEADER, ident, _DYN, machine, 1, 0, struct.calcsize(_HEADER), 0, 0, 64, 56, 2, 64, 0, 0)
    # Writable, because the linker turns the addresses of the dynamic section into absolute ones.
    loaded = struct.pack(_PROGRAM_HEADER, _LOAD, _READ | 2, 0, 0, 0, size, size, _PAGE)
    n_dynamic = at_symbols - at_dynamic
    told = struct.pack(
        _PROGRAM_HEADER, _DYNAMIC, _READ | 2, at_dynamic, at_dynamic, at_dynamic, n_dynamic, n_dynamic, 8
    )
    table = b"".join(struct.pack(_ENTRY, *each) for each in dynamic)
    return header + loaded + told + table + bytes(24) + strings
