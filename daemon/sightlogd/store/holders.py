"""Who reads for so long that the WAL cannot shrink: the kernel tells, by the locks that SQLite's readers hold.

A reader in WAL mode has a shared lock on one of five bytes of the -shm file, its mark; the mark's value is the frame of
the WAL up to which it reads. A checkpoint cannot pass a mark that is locked. F_GETLK names the process that has a lock,
also where /proc shows no other processes and no /proc/locks (ProtectProc=invisible, ProcSubset=pid).
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

# https://sqlite.org/walformat.html, "The WAL-Index File Format"
_FRAMES: Final = struct.Struct("=16xI")
"""How many frames are in the WAL."""
_MARKS: Final = struct.Struct("=100x5I")
_FIRST_MARK_BYTE: Final = 123
_FLOCK: Final = struct.Struct("hhqqi0q")
"""struct flock with 64 bits for offsets, fcntl(2): type, whence, start, length, process."""


class Holder(NamedTuple):
    pid: int
    """0: of another pid namespace, such as that of a container."""
    name: str | None
    """Of its program; None where /proc does not show it."""

    def __str__(self) -> str:
        if not self.pid:
            return "a process of another container"
        return f"process {self.pid}" + (f" ({self.name})" if self.name else "")


def holders(shm: Path) -> list[Holder]:
    """Those in the way of a checkpoint, who reads the oldest first; of readers with one mark the kernel names one.

    `shm` is open in this process, by SQLite. Empty when there are none, or when that cannot be found out.
    """
    try:
        fd = _descriptor_of(shm)
        if fd is None:
            return []
        head = os.pread(fd, _MARKS.size, 0)
        if len(head) < _MARKS.size:
            return []
        (frames,) = _FRAMES.unpack_from(head)
        # The first mark stands for the database without a WAL: nothing may be moved into that while it is read.
        marks = [0, *_MARKS.unpack_from(head)[1:]]
        found = sorted(
            (mark, pid)
            for index, mark in enumerate(marks)
            if mark < frames and (pid := _locked_by(fd, _FIRST_MARK_BYTE + index)) is not None
        )
    except OSError:
        return []
    return [Holder(pid, _name(pid)) for pid in dict.fromkeys(pid for _, pid in found)]


def _descriptor_of(path: Path) -> int | None:
    """SQLite's own: one of ours would take SQLite's locks along when it is closed."""
    there = os.stat(path)
    for name in os.listdir("/proc/self/fd"):
        try:
            here = os.fstat(int(name))
        except OSError:  # closed meanwhile
            continue
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
            return int(name)
    return None


def _locked_by(fd: int, byte: int) -> int | None:
    """Which other process has a lock there, if any."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _name(pid: int) -> str | None:
    try:
        comm = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return "".join(filter(str.isprintable, comm)) or None  # a program names itself as it likes
