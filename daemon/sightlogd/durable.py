"""Files that are there whole and for good, or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from sightlog import fsutil

from .directory import open_file

FILE_MODE: Final = 0o640
UMASK: Final = 0o027
"""Of whatever makes files in the data directory."""
BLOCK_BYTES: Final = 4_096
"""What a file takes on its disk is a multiple of this."""


def is_full(error: OSError) -> bool:
    """Whether there was no room: that passes, and holds for all files alike."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


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
        fd = create(temporary)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, target)
    except BaseException:
        if _is_file(temporary):
            temporary.unlink()
        raise


def create(path: Path) -> int:
    """A new file, open for writing. It takes the place of a file of that name, and of nothing else. Raises OSError."""
    if _is_file(path):
        path.unlink()  # never emptied: it may have another name elsewhere
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)


def _is_file(path: Path) -> bool:
    """And no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Make the names in a directory durable, or the bytes of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put(new: Path, target: Path) -> None:
    """Give a file its name, never in the place of another. Raises FileExistsError, OSError.

    A crash in between leaves both names, and the next call ends it. Durable once `sync` ran on both directories.
    """
    try:
        os.link(new, target)
    except FileExistsError:
        if not os.path.samestat(os.lstat(new), os.lstat(target)):
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # FAT has no links. Somebody may take the name between these two, which there is no help for.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(new, target)
        return
    sync(target.parent)  # or the old name may be gone on the disk, and the new one not there yet
    os.unlink(new)


def write_again(path: Path) -> int:
    """Write a file over itself, and make that durable; returns its size. Raises OSError.

    After a failed fsync the page cache can hold what the disk does not, and takes it for written. Written again it is
    dirty again, and this fsync covers it.
    """
    fd = open_file(path, os.O_RDWR)
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
        fsutil.make_directories(path)
        _made.add(path)


_made: Final[set[Path]] = set()
"""Directories whose names are durable, as this process knows."""
