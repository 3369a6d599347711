"""One process at a time has a spool: a lock on its directory, and one on the file `lock` in it, which says who."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from sightlog.errors import SpoolInUse
from sightlog.fsutil import is_in_place, open_file

_CANNOT_LOCK: Final = (errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""A file system that locks no directories, such as NFS, or no files either."""


class SpoolLock:
    """Nobody has it before `take`. It belongs to the open files: a forked child has to `release` its copies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "lock"
        # The directory too: its lock stays when the name of the file in it is removed.
        self._fds = {directory: -1, self._path: -1}

    def take(self) -> None:
        """What is not locked yet, or is no longer what has the name. Raises SpoolInUse, OSError."""
        if not self._holds(self._directory):
            self._lock(self._directory, os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        if not self._holds(self._path):
            self._lock(self._path, open_file(self._path, os.O_RDWR | os.O_CREAT))
            os.ftruncate(self._fds[self._path], 0)
            os.write(self._fds[self._path], f"{os.getpid()}\n".encode())

    def is_in_place(self) -> bool:
        """Whether whoever looks for it finds what is locked. Raises OSError."""
        return all(map(self._holds, self._fds))

    def _holds(self, path: Path) -> bool:
        return self._fds[path] >= 0 and is_in_place(self._fds[path], path)

    def _lock(self, path: Path, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise SpoolInUse(
                f"the spool {self._directory} is in use by process {self._holder()}. "
                "Give every process a producer name of its own, or stop that one"
            ) from None
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                os.close(fd)
                raise
        before, self._fds[path] = self._fds[path], fd
        if before >= 0:
            os.close(before)

    def _holder(self) -> str:
        try:
            with open(open_file(self._path, os.O_RDONLY), "rb") as file:
                return file.read(32).decode(errors="replace").strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Idempotent."""
        for path, fd in self._fds.items():
            if fd >= 0:
                os.close(fd)
                self._fds[path] = -1
