"""Files and directories that are there for good, and never something that a link leads to.

After a power cut, what was synced in a directory without a durable name is gone.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640
_CANNOT_SYNC: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL)
"""A directory that one may use and not read, or of a file system that has nothing to make durable."""


def sync_directory(directory: Path) -> None:
    """Make the names in it durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: Path) -> None:
    """`path`, and what is missing above it; durable. Raises OSError."""
    if not path.is_dir():
        make_directories(path.parent)
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    # Also of one that is there: a session that was killed may have made it, and not got here.
    try:
        sync_directory(path.parent)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def open_file(path: Path, flags: int) -> int:
    """A regular file and nothing that a link leads to; a FIFO or a device does not block. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, FILE_MODE)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def read_file(path: Path) -> bytes:
    """All of a regular file. Raises OSError."""
    with open(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read()


def replace_file(path: Path, data: bytes) -> None:
    """Durable, whole or not at all. Raises OSError."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def is_in_place(fd: int, path: Path) -> bool:
    """Whether `path` still is the name of this open file, or leads to this open directory. Raises OSError."""
    try:
        status = os.fstat(fd)
        return os.path.samestat(os.stat(path, follow_symlinks=stat.S_ISDIR(status.st_mode)), status)
    except (FileNotFoundError, NotADirectoryError):
        return False
