"""A WAL whose name is gone under the running daemon: what was acked is in it, and only this process still has it.

It is written back beside its database, whole or not at all: a part of it, over a database into which a checkpoint moved
more of it, would put older pages beside newer ones. Readers and the database are not touched, so that nothing has to be
waited for; the next start takes it up as after any unclean stop.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from sightlogd import durable

from .guard import Identity, identity_of

_CHUNK_BYTES: Final = 1 << 20


class HeldWal:
    """The WAL at `path`, open to read until `close`. SQLite has no lock on it that a close would take along."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        there = os.fstat(self._fd)
        self.identity: Identity = there.st_dev, there.st_ino

    def write_back(self) -> int:
        """Under its name again, and durable; returns its bytes. Raises FileExistsError for another one, OSError."""
        there = os.fstat(self._fd)
        new = self._path.with_name(f"{self._path.name}.new")
        fd = durable.create(new)
        try:
            try:
                os.fchmod(fd, stat.S_IMODE(there.st_mode))
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, there.st_uid, there.st_gid)
                at = 0
                while data := os.pread(self._fd, _CHUNK_BYTES, at):
                    at += os.write(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            self._put(new)
        finally:
            new.unlink(missing_ok=True)
        durable.sync(self._path.parent)
        return at

    def _put(self, new: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(self._path)
            if stat.S_ISREG(there.st_mode) and there.st_size == 0:  # who reads makes an empty one where there is none
                os.replace(new, self._path)
                return
        os.link(new, self._path)

    def is_in_place(self) -> bool:
        try:
            return identity_of(self._path) == self.identity
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._fd)
