"""Files of a backup: their names on any file system, their bytes and hashes."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlogd.directory import Directory, Odd
from sightlogd.errors import EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, Stop
from sightlogd.units import gigabytes

from .manifest import NAME_BYTES_MAX

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK_BYTES: Final = 1 << 20
NEW: Final = "%new"
"""Ends the name of a file that is to replace another one. No stored name has a bare percent sign."""
_LONG: Final = "%long-"
"""Begins the name of a file whose own would be too long: 84 capitals are 252 bytes. The manifest has its own."""
_FORBIDDEN: Final = frozenset('%"*:<>?\\|')


def stored_name(path: str) -> str:
    """Where a backup has a file of the data directory: FAT knows neither `a:b` nor that `a` and `A` are two."""
    return "/".join(map(_stored_part, path.split("/")))


def _stored_part(name: str) -> str:
    last = len(name) - 1
    stored = "".join(
        "".join(f"%{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
        if letter in _FORBIDDEN or letter < " " or letter != letter.lower() or (at == last and letter in ". ")
        else letter
        for at, letter in enumerate(name)
    )
    if len(os.fsencode(stored)) + len(NEW) <= NAME_BYTES_MAX:
        return stored
    return _LONG + hashlib.sha256(os.fsencode(name)).hexdigest()


def places(stored: str, *, replaced: bool) -> tuple[str, ...]:
    """Where a file may be: also under its new name, where the backup was cut off at its very end."""
    return (stored, f"{stored}{NEW}") if replaced else (stored,)


class Unreadable(Exception):
    """A file that is to be copied cannot be read. The text says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error.strerror))
        self.is_denied = error.errno in (errno.EACCES, errno.EPERM)


def read_into(source: int, size: int, digest: _Hash, write: Callable[[bytes], object]) -> int:
    """The next `size` bytes of an open file; returns how many there were. Raises Unreadable, and what `write` does."""
    left = size
    while left:
        try:
            data = os.read(source, min(left, CHUNK_BYTES))
        except OSError as error:
            raise Unreadable(error) from error
        if not data:
            break
        digest.update(data)
        write(data)
        left -= len(data)
    return size - left


def hash_of(directory: Directory, path: str, size: int) -> str | None:
    """Of the first `size` bytes; None when it has fewer or is not there. Raises OSError, Unreadable."""
    digest = hashlib.sha256()
    try:
        fd = directory.open_file(path)
    except FileNotFoundError:
        return None
    except Odd as error:
        raise Unreadable(error) from error
    try:
        if os.fstat(fd).st_size < size:
            return None
        found = read_into(fd, size, digest, lambda _: None)
    finally:
        os.close(fd)
    return digest.hexdigest() if found == size else None


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync(directory: Directory) -> None:
    """Make all that was written to the file system of a directory durable: an fsync a picture takes a stick minutes.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(directory.fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(directory.path))


def free_bytes(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def _is_no_room(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(directory: Path, kept: str) -> Iterator[None]:
    """What the system says of writing there, as a Stop with the next step. `kept` is what nothing happened to."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Odd):
            raise Stop(
                EXIT_IO_ERROR,
                f"{error.filename} is in the way: {error.strerror}, and not what sightlog makes there. {kept}. "
                "Move it away, or give another directory",
            ) from error
        if _is_no_room(error):
            free = gigabytes(free_bytes(directory)) if directory.is_dir() else "nothing"
            raise Stop(
                EXIT_STORAGE_FULL,
                f"no room in {directory}: {free} free, and it was not enough. {kept}. Make room, or give a larger disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Stop(
                EXIT_PERMISSION,
                f"cannot write {error.filename or directory}: {error.strerror}. {kept}. Give a directory that this "
                "user may write to",
            ) from error
        if error.errno == errno.EFBIG:
            raise Stop(
                EXIT_IO_ERROR,
                f"cannot write {error.filename or directory}: {error.strerror}. {kept}. FAT has files of 4 GB at most: "
                "format the disk with exFAT or ext4",
            ) from error
        raise Stop(
            EXIT_IO_ERROR, f"cannot write {error.filename or directory}: {error.strerror}. {kept}. Look at that disk"
        ) from error
