"""Which process has a lock that is in the way: of the WAL's shrinking, of writing, of a start. The kernel tells.

A reader in WAL mode has a shared lock on one of five bytes of the -shm file, its mark; the mark's value is the frame of
the WAL up to which it reads. A checkpoint cannot pass a mark that is locked. F_GETLK names the process that has a lock,
also where /proc shows no other processes and no /proc/locks (ProtectProc=invisible, ProcSubset=pid).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from sightlog import filelocks
from sightlog.filelocks import UNNAMED, Conflict

# https://sqlite.org/walformat.html, "The WAL-Index File Format"
_FRAMES: Final = struct.Struct("=16xI")
"""How many frames are in the WAL."""
_MARKS: Final = struct.Struct("=100x5I")
_WRITE_BYTE: Final = 120
_CHECKPOINT_BYTE: Final = 121
_FIRST_MARK_BYTE: Final = 123
_MARKS_COUNT: Final = 5


class Holder(NamedTuple):
    pid: int
    """0: of another pid namespace, such as that of a container. UNNAMED: the kernel does not say."""
    name: str | None
    """Of its program; None where /proc does not show it."""

    def __str__(self) -> str:
        if self.pid == UNNAMED:
            return "a process that the kernel does not name"
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
        read = [
            (mark, holder)
            for index, mark in enumerate(marks)
            if mark < frames and (holder := _of_others(fd, _FIRST_MARK_BYTE + index)) is not None
        ]
        found = sorted(read, key=lambda one: one[0])
        checkpoint = _of_others(fd, _CHECKPOINT_BYTE)
    except OSError:
        return []
    # Who has locked checkpoints out altogether reads nothing at all.
    return list(dict.fromkeys([*([checkpoint] if checkpoint else []), *(holder for _, holder in found)]))


def hindrance(shm: Path, *, of_marks: bool) -> Holder | None:
    """Who keeps this process from writing at this moment; `of_marks`: by the marks of readers, all of them locked.

    `shm` is open here, by SQLite.
    """
    try:
        fd = _descriptor_of(shm)
        if fd is None:
            return None
        return _of_others(fd, _FIRST_MARK_BYTE, _MARKS_COUNT) if of_marks else _of_others(fd, _WRITE_BYTE)
    except OSError:
        return None


def holder_of(fd: int, first: int, count: int = 1) -> Holder | None:
    """Who has a lock in the way of one of this descriptor. Raises OSError."""
    return _named(fd, filelocks.conflict(fd, fcntl.F_WRLCK, first, count), first, count)


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


def _of_others(fd: int, first: int, count: int = 1) -> Holder | None:
    """Which other process has a lock there, if any."""
    return _named(fd, filelocks.conflict(fd, fcntl.F_WRLCK, first, count, fcntl.F_GETLK), first, count)


def _named(fd: int, found: Conflict | None, first: int, count: int) -> Holder | None:
    if found is None:
        return None
    pid = found.pid
    if pid == UNNAMED:
        pid = next(_with_lock(fd, first, count), UNNAMED)
    return Holder(pid, _name(pid) if pid > 0 else None)


def _with_lock(fd: int, first: int, count: int) -> Iterator[int]:
    """Other processes that show a lock on those bytes of that file, as far as this one may look (proc(5), fdinfo)."""
    there = os.fstat(fd)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            numbers = os.listdir(f"/proc/{pid}/fdinfo") if int(pid) != os.getpid() else []
        except OSError:  # ended, or of another user
            continue
        for number in numbers:
            try:
                info = Path(f"/proc/{pid}/fdinfo/{number}").read_text(encoding="ascii", errors="replace")
                is_there = any(
                    _overlaps(line.split(), first, count) for line in info.splitlines() if line.startswith("lock:")
                )
                if is_there and os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), there):
                    yield int(pid)
            except (OSError, ValueError):
                continue


def _overlaps(line: list[str], first: int, count: int) -> bool:
    """As in "lock: 1: OFDLCK ADVISORY READ -1 fe:01:4711 120 EOF"."""
    start, end = line[-2:]
    return line[2] != "FLOCK" and int(start) < first + count and (end == "EOF" or int(end) >= first)


def _name(pid: int) -> str | None:
    try:
        comm = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return "".join(filter(str.isprintable, comm)) or None  # a program names itself as it likes
