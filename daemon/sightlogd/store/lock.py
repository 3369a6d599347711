"""The data directory is one process's: a lock file that keeps others out, and what readers are told of its holder.

The lock file comes first because it is fast, and there before a database is. It can be removed: what decides is the
lock on the database itself (`store.guard`), and the process that has that one makes a new lock file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from sightlog import filelocks, writer
from sightlog.protocol.encoding import format_time
from sightlog.records import now_utc
from sightlog.writer import DATABASE, FACTS, RUN, WRITER_BYTE, Failure, Writer
from sightlogd import durable, filesystem
from sightlogd.errors import EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, Stop

from .guard import Identity, another_writer, holder_of_guard, identity_of

log = structlog.get_logger()

LOCK: Final = "lock"
LOCK_MODE: Final = 0o600
"""Nobody else may open it: a lock that a reader takes would keep the daemon out."""
LOCK_SECONDS: Final = 2.0
"""A predecessor that is just ending gets this long to let go of the data directory."""
LOOK_SECONDS: Final = 1.0
"""Between two looks whether the facts are still there."""
MEND_SECONDS: Final = 10.0
"""Between two tries to make a file again."""


class Lock:
    """Taken before the socket is bound and the database opened: a second bind on an ipc path steals it without a word.

    `verb` of sightlogd is what readers are told. Raises Stop.
    """

    def __init__(self, data_dir: Path, verb: str = RUN) -> None:
        self._data_dir = data_dir
        self._facts = Writer(os.getpid(), verb, format_time(now_utc()))
        self._lock: _Held | None = None
        self._told: _Held | None = None
        self._look_at = self._mend_at = 0.0
        try:
            filesystem.check(data_dir)
            durable.make_directories(data_dir)
            self._take()
        except OSError as error:
            self.close()
            by_errno = {errno.EACCES: EXIT_PERMISSION, errno.EPERM: EXIT_PERMISSION, errno.ENOSPC: EXIT_STORAGE_FULL}
            code = by_errno.get(error.errno or 0, EXIT_IO_ERROR)
            raise Stop(
                code,
                f"cannot use the data directory {data_dir}: {error.strerror} ({error.filename}). Give --data-dir, or "
                "make it writable",
            ) from error
        except Stop:
            self.close()
            raise
        with contextlib.suppress(OSError):  # a full disk: the status does not know who, but that somebody writes
            if verb != RUN and (before := writer.ended(data_dir)) is not None:
                self._facts = self._facts._replace(failure=before.failure)  # a purge does not explain it away
            self._told = self._made_facts()

    def _take(self) -> None:
        """Raises Stop, OSError."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            found = writer.find(self._data_dir)
            if found is None:
                lock = _opened_lock(self._data_dir / LOCK)
                if lock.flock() and lock.is_in_place():
                    self._lock = lock
                    return
                lock.close()
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if found is not None:
            raise another_writer(self._data_dir, holder_of_guard(self._data_dir / DATABASE))
        log.warning("a program that writes nothing has locked the lock file; a new one is made", lock=LOCK)
        self._lock = self._made_lock()

    def check(self, is_certain: bool) -> None:
        """Before an ack: files that are gone, or are others by now, are made again. Raises Stop.

        `is_certain`: the database itself is locked. Where it is not, these files are all that keeps others out.
        """
        now = time.monotonic()
        lock_is_there = self._lock is not None and self._lock.is_in_place()
        if lock_is_there and is_certain and now < self._look_at:
            return  # what the facts say is for readers then, and can wait
        self._look_at = now + LOOK_SECONDS
        facts_are_there = self._told is not None and self._told.is_in_place()
        if lock_is_there and facts_are_there:
            return
        if not is_certain and not lock_is_there:
            raise Stop(
                EXIT_IO_ERROR,
                f"{self._data_dir / LOCK} was removed or replaced while a program that may only read keeps the daemon "
                "from locking the database: another daemon could write at the same time. Nothing more was acked, and "
                "producers keep their records. End that program, and start the daemon again",
            )
        if now < self._mend_at:
            return
        self._mend_at = now + MEND_SECONDS
        try:
            if not lock_is_there:
                former, self._lock = self._lock, self._made_lock()
                _mended(LOCK, former)
            if not facts_are_there:
                former, self._told = self._told, self._made_facts()
                _mended(FACTS, former)
            self._mend_at = 0.0
        except OSError as error:
            log.warning(
                "a file that was removed or replaced cannot be made again; the database itself stays locked, and no "
                "other daemon can write",
                reason=f"{error.strerror} ({error.filename})",
            )

    def tell(self, trouble: str | None) -> None:
        """For `sightlog status`: why it cannot write now."""
        since = (self._facts.trouble_since or format_time(now_utc())) if trouble else None
        self._facts = self._facts._replace(trouble=trouble, trouble_since=since)
        self._tell_facts()

    def fail(self, exit_code: int, reason: str) -> None:
        """For `sightlog status`: why the daemon ends, though nobody stopped it."""
        failure = Failure(exit_code, reason, format_time(now_utc()))
        self._facts = self._facts._replace(trouble=None, trouble_since=None, failure=failure)
        if self._told is None or not self._told.is_in_place():
            with contextlib.suppress(OSError):
                self._told = self._made_facts()
        self._tell_facts()

    def _tell_facts(self) -> None:
        if self._told is not None:
            with contextlib.suppress(OSError):  # the disk that is in trouble; the log and the producers say so too
                os.pwrite(self._told.fd, writer.pack(self._facts), 0)

    def close(self) -> None:
        if self._told is not None:
            if self._facts.failure is None and self._told.is_in_place():
                with contextlib.suppress(OSError):
                    os.unlink(self._told.path)
            self._told.close()
        if self._lock is not None:
            self._lock.close()
        self._told = self._lock = None

    # -- making them -------------------------------------------------------------------------------------------------

    def _made_lock(self) -> _Held:
        with _new(self._data_dir / LOCK) as held:
            held.flock()
        return held

    def _made_facts(self) -> _Held:
        with _new(self._data_dir / FACTS) as held:
            os.pwrite(held.fd, writer.pack(self._facts), 0)
            # Before anybody who reads can open it, so that none can be in the way.
            filelocks.take(held.fd, fcntl.F_WRLCK, WRITER_BYTE)
            os.fchmod(held.fd, durable.FILE_MODE)
        return held


class _Held:
    """An open file, and the name it has to have."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        there = os.fstat(fd)
        self._identity: Identity = there.st_dev, there.st_ino

    def is_in_place(self) -> bool:
        try:
            return identity_of(self.path) == self._identity
        except OSError:
            return False

    def flock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self.fd)


def _opened_lock(path: Path) -> _Held:
    """The one that is there, or a new one. Raises OSError."""
    # Never through a link: what it leads to would be locked, and get another mode.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, LOCK_MODE)
    there = os.fstat(fd)
    if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
        os.close(fd)
        raise OSError(errno.EMLINK, "it is not a file, or has another name besides", str(path))
    if stat.S_IMODE(there.st_mode) != LOCK_MODE and there.st_uid == os.geteuid():
        os.fchmod(fd, LOCK_MODE)
    return _Held(path, fd)


def _mended(name: str, former: _Held | None) -> None:
    if former is not None:
        former.close()
    log.warning(f"{name} was removed or replaced, and made again. Find out who cleans up there")


@contextlib.contextmanager
def _new(path: Path) -> Iterator[_Held]:
    """A new file, in the place of what is there under that name when this ends well. Raises OSError."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    held = _Held(path, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, LOCK_MODE))
    try:
        yield held
        os.rename(temporary, path)
    except BaseException:
        held.close()
        temporary.unlink(missing_ok=True)
        raise


def is_held(data_dir: Path) -> bool:
    """Whether a process writes to the store; also where only reading is allowed."""
    try:
        return writer.find(data_dir) is not None
    except OSError:
        return False
