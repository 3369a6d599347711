"""Directories that are there for good: after a power cut, what was synced in one without a durable name is gone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

DIRECTORY_MODE: Final = 0o750
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
    # Also of one that is there: a life that was killed may have made it, and not got here.
    try:
        sync_directory(path.parent)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
