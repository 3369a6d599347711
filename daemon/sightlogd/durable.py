"""Files that are there whole and for good, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from sightlog import directories

FILE_MODE: Final = 0o640
UMASK: Final = 0o027
"""Of whatever makes files in the data directory."""
BLOCK_BYTES: Final = 4_096
"""What a file takes on its disk is a multiple of this."""


def blocks(size: int) -> int:
    """Bytes that a file of this size takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def allocated(path: str | Path) -> int:
    """Bytes a file takes on its disk; 0 when it is not there, or may not be looked at."""
    try:
        return os.lstat(path).st_blocks * 512  # stat(2): in units of 512, whatever the block size
    except OSError:
        return 0


def write(target: Path, data: bytes, temporary: Path) -> None:
    """Replaces what is there. Durable once `sync` ran on the target's directory too. Raises OSError.

    `temporary` is its name while it is written, on the same file system: the one place to look for what a crash left.
    """
    make_directories(target.parent)
    make_directories(temporary.parent)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make the names in a directory durable, or the bytes of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_again(path: Path) -> int:
    """Write a file over itself, and make that durable; returns its size. Raises OSError.

    After a failed fsync the page cache can hold what the disk does not, and takes it for written. Written again it is
    dirty again, and this fsync covers it.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        offset = 0
        while data := os.pread(fd, 1 << 20, offset):
            written = os.pwrite(fd, data, offset)
            if written != len(data):
                raise OSError(errno.EIO, "short write", str(path))
            offset += written
        os.fsync(fd)
    finally:
        os.close(fd)
    return offset


def make_directories(path: Path) -> None:
    """`path`, and what is missing above it; durable, which takes an fsync once in a process. Raises OSError."""
    if path not in _made or not path.is_dir():
        directories.make_directories(path)
        _made.add(path)


_made: Final[set[Path]] = set()
"""Directories whose names are durable, as this process knows."""
