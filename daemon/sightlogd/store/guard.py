"""One writer: a lock on the database file itself, which no removed or replaced name takes away.

SQLite's own locks do not tell an idle writer from a reader. So the writer has a write lock of an open file description
on one byte of the database, from before anything is written until SQLite has closed it: closing the descriptor sooner
would take SQLite's locks along. Whoever can only read the file can have a read lock there at most. That keeps ours from
being taken, but is none of a writer: it is told, and asked again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from sightlog import filelocks, writer
from sightlog.writer import WRITER_BYTE
from sightlogd import filesystem
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_TRY_AGAIN, Stop

from .wal_readers import Holder, holder_of

log = structlog.get_logger()

Wait = Callable[[str], None]
"""Called with what is in the way, again and again: it waits a little, or raises Stop."""
Identity = tuple[int, int]

BUSY_SECONDS: Final = 5.0
"""A program that writes gets this long to end its transaction."""
GRACE_SECONDS: Final = 0.5
"""Locks that come and go are not worth a word."""
POLL_SECONDS: Final = 0.05

# Bytes, as (first, count). https://sqlite.org/walformat.html, "WAL Locks": writing, checkpoint and recovery; with the
# marks of readers; https://sqlite.org/src/file/src/os.h: PENDING, RESERVED and SHARED.
_WRITERS: Final = (120, 3)
_ALL: Final = (120, 8)
_OF_DATABASE: Final = (0x4000_0000, 512)


def identity_of(path: str | Path) -> Identity:
    """Of the name itself: a link is another file. Raises OSError."""
    # Never by opening it: closing the live file takes SQLite's locks along.
    there = os.lstat(path)
    return there.st_dev, there.st_ino


def refuse(reason: str) -> None:
    """A `Wait` of who does not wait. Raises Stop."""
    raise Stop(EXIT_TRY_AGAIN, f"{reason}. Nothing was changed. End that program, and try again")


def another_writer(data_dir: Path, holder: Holder | None = None) -> Stop:
    """`holder` is named where the other one's facts are gone."""
    try:
        known = writer.facts(data_dir)
    except OSError:
        known = None
    who = known or holder or "which process is not known"
    return Stop(
        EXIT_TRY_AGAIN,
        f"another sightlogd ({who}) has the data directory {data_dir}. Stop it, or give another --data-dir",
    )


def holder_of_guard(path: Path) -> Holder | None:
    """Who has a lock on the writer's byte; for a process that has not opened the database. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return holder_of(fd, WRITER_BYTE)
    finally:
        os.close(fd)


def made_by_another(path: Path) -> Stop:
    return Stop(EXIT_TRY_AGAIN, f"{path} was made by another process meanwhile. That one was not changed")


class Guard:
    """Of the database at `path`, until `close`. Raises Stop when another process writes to it, OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_held = False
        self._told = False
        filesystem.check(path)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._not_a_file("a symbolic link") from error
            raise
        try:
            there = os.fstat(self._fd)
            if not stat.S_ISREG(there.st_mode):
                raise self._not_a_file("not a file")
            self.identity: Identity = there.st_dev, there.st_ino
            self.hold()
        except BaseException:
            self.close()
            raise

    def _not_a_file(self, what: str) -> Stop:
        return Stop(
            EXIT_CONFIG,
            f"{self._path} is {what}: its WAL would be beside another name, where others look for it. Nothing was "
            "changed. Give the directory with the database itself as --data-dir",
        )

    def hold(self) -> bool:
        """Whether the lock is held; where a reader is in the way, it is asked for again. Raises Stop, OSError."""
        while not self._is_held:
            if filelocks.take(self._fd, fcntl.F_WRLCK, WRITER_BYTE):
                self._is_held = True
                if self._told:
                    log.info("the lock on the database is held again", database=str(self._path))
                break
            found = filelocks.conflict(self._fd, fcntl.F_WRLCK, WRITER_BYTE)
            if found is None:
                continue  # it went meanwhile
            holder = holder_of(self._fd, WRITER_BYTE)
            if found.kind == fcntl.F_WRLCK:
                raise another_writer(self._path.parent, holder)
            if not self._told:
                self._told = True
                log.warning(
                    "a program that may only read has locked the database against its writer; the daemon goes on, and "
                    "takes the lock when it is free. End that program",
                    database=str(self._path),
                    held_by=str(holder or "gone meanwhile"),
                )
            break
        return self._is_held

    def close(self) -> None:
        """Behind SQLite's own close."""
        os.close(self._fd)

    # -- SQLite's locks ----------------------------------------------------------------------------------------------

    @contextmanager
    def without_other_writers(self, wait: Wait) -> Iterator[None]:
        """Nobody writes through SQLite within, whatever program it is; before SQLite is opened here.

        A reader that is in the way is waited for, by `wait`; a program that writes only for BUSY_SECONDS. Raises Stop,
        OSError.
        """
        with self._shm() as shm:
            began = time.monotonic()
            while (found := self._in_the_way(shm, _WRITERS)) is not None:
                waited = time.monotonic() - began
                if found.writes and waited >= BUSY_SECONDS:
                    raise Stop(
                        EXIT_IO_ERROR,
                        f"{self._path} is locked by another process: {found}. Nothing was changed. End that program, "
                        "and start again",
                    )
                if found.writes or waited < GRACE_SECONDS:
                    time.sleep(POLL_SECONDS)
                else:
                    wait(str(found))
            yield

    def in_the_way(self) -> str:
        """What SQLite waited for; before it is opened here, or after it was closed again. Raises OSError."""
        with self._shm() as shm:
            found = self._in_the_way(shm, _ALL)
        return str(found or _Obstacle(None, writes=False))

    @contextmanager
    def _shm(self) -> Iterator[int | None]:
        """None: it is not there, and so nobody has the database open. Raises OSError."""
        try:
            fd = os.open(f"{self._path}-shm", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def _in_the_way(self, shm: int | None, locks: tuple[int, int]) -> _Obstacle | None:
        """What keeps `locks` of the -shm from being taken; None: they are held until it is closed."""
        # A program in exclusive mode has no locks in the -shm, but a write lock on the database.
        found = filelocks.conflict(self._fd, fcntl.F_RDLCK, *_OF_DATABASE)
        if found is not None:
            return _Obstacle(holder_of(self._fd, *_OF_DATABASE), writes=True)
        if shm is None or filelocks.take(shm, fcntl.F_WRLCK, *locks):
            return None
        found = filelocks.conflict(shm, fcntl.F_WRLCK, *locks)
        return _Obstacle(holder_of(shm, *locks), writes=found is not None and found.kind == fcntl.F_WRLCK)


class _Obstacle(NamedTuple):
    holder: Holder | None
    """None: it went meanwhile, or cannot be named."""
    writes: bool
    """It may write: nobody else can have such a lock."""

    def __str__(self) -> str:
        return f"{self.holder or 'another program'} has locked the database against writing"
