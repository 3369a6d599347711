"""The lock on the data directory: one daemon at a time. Its file says which process, and whether it can write."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from . import durable
from .errors import EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, EXIT_TRY_AGAIN, Stop

LOCK_SECONDS: Final = 2.0
"""A predecessor that is just ending gets this long to let go of the data directory."""
TROUBLE_BYTES_MAX: Final = 1_024
"""Within the file's first block: it can be written on a full disk."""


class Lock:
    """Taken before the socket is bound and the database opened: a second bind on an ipc path steals it without a word.

    Raises Stop.
    """

    def __init__(self, data_dir: Path) -> None:
        try:
            durable.make_directories(data_dir)
            # Never through a link: what it leads to would be overwritten.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(data_dir / "lock", flags, 0o640)
        except OSError as error:
            by_errno = {errno.EACCES: EXIT_PERMISSION, errno.EPERM: EXIT_PERMISSION, errno.ENOSPC: EXIT_STORAGE_FULL}
            code = by_errno.get(error.errno or 0, EXIT_IO_ERROR)
            raise Stop(
                code,
                f"cannot use the data directory {data_dir}: {error.strerror}. Give --data-dir, or make it writable",
            ) from error
        deadline = time.monotonic() + LOCK_SECONDS
        while not self._try():
            if time.monotonic() >= deadline:
                holder = os.read(self._fd, 32).decode(errors="replace").split("\n")[0]
                os.close(self._fd)
                raise Stop(
                    EXIT_TRY_AGAIN,
                    f"another sightlogd (process {holder or 'unknown'}) has the data directory {data_dir}. "
                    "Stop it, or give another --data-dir",
                )
            time.sleep(0.05)
        self.tell(None)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def tell(self, trouble: str | None) -> None:
        """For `sightlog status`: the process on the first line, why it cannot write on the second."""
        text = f"{os.getpid()}\n{trouble or ''}".encode()[:TROUBLE_BYTES_MAX]
        try:
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))
        except OSError:
            pass  # the disk that is in trouble; the log and the producers say so too

    def close(self) -> None:
        os.close(self._fd)


def is_held(data_dir: Path) -> bool:
    """Whether a daemon runs on the data directory; also where only reading is allowed."""
    try:
        fd = os.open(data_dir / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)  # and the lock with it: a daemon that starts just now tries again
    return False
