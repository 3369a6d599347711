"""Locks of open file descriptions (fcntl(2)): taking one, and asking who has one.

SQLite's locks belong to a process, and all of them end when it closes any descriptor of the file. Such a lock belongs
to its own descriptor, and excludes the same process too. Asking takes nothing, and needs no right to write.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final, NamedTuple

_FLOCK: Final = struct.Struct("hhqqi0q")
"""struct flock with 64 bits for offsets: type, whence, start, length, process."""
UNNAMED: Final = -1
"""The kernel names no process for the lock of an open file description, which several may share."""


class Conflict(NamedTuple):
    """One of the locks in the way."""

    kind: int
    """F_RDLCK or F_WRLCK."""
    pid: int
    """UNNAMED, or 0 for a process of another pid namespace."""


def take(fd: int, kind: int, first: int, count: int = 1) -> bool:
    """Whether the lock is held now, on `count` bytes; False: another one is in the way. Raises OSError."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, first, count, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def conflict(fd: int, kind: int, first: int, count: int = 1, command: int = fcntl.F_OFD_GETLK) -> Conflict | None:
    """What would be in the way of such a lock; with F_GETLK never a lock of this process. Raises OSError."""
    asked = _FLOCK.pack(kind, os.SEEK_SET, first, count, 0)
    found, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, command, asked))
    return None if found == fcntl.F_UNLCK else Conflict(found, pid)
