"""Which process writes to a store, as anybody finds out who may read it: by its locks, never by a number in a file.

The writer has a write lock on one byte far behind the end of the database, and another on the file of facts about
itself. Both end with it, however it ends. To ask is not to lock: who asks keeps nobody from starting. The facts stay
behind where it did not end as it was told to, with the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from . import filelocks

DATABASE: Final = "events.db"
FACTS: Final = "writer.json"
"""In the data directory: what the writer says about itself. It excludes nobody, and may be removed."""
WRITER_BYTE: Final = 1 << 62
"""Of the database, and of the facts: the byte that the writer has locked. SQLite's own are at 2**30."""
FACTS_BYTES: Final = 4_096
TROUBLE_CHARS_MAX: Final = 600
"""Each may take six bytes."""
RUN: Final = "run"
_TRIES: Final = 5
"""To read facts that are being changed."""
_ASKED_SECONDS: Final = 0.1
"""Between two looks whether somebody writes by now: each takes 30 µs."""
_BEGINNING_SECONDS: Final = 1.0
"""A writer that begins is known by its lock before its files are there."""


class Failure(NamedTuple):
    """Why the daemon ended, when nobody stopped it."""

    exit_code: int
    reason: str
    at: str


class Writer(NamedTuple):
    """A process that lives, and writes or is about to. All is None where its facts are gone."""

    pid: int | None = None
    verb: str | None = None
    """Of sightlogd: RUN is the daemon."""
    since: str | None = None
    trouble: str | None = None
    """Why it cannot write now."""
    trouble_since: str | None = None
    failure: Failure | None = None
    """Of the daemon that is gone. None of one that runs."""

    def __str__(self) -> str:
        known = [
            f"process {self.pid}" if self.pid else "which process is not known",
            *([f"sightlogd {self.verb}"] if self.verb else []),
            *([f"since {self.since}"] if self.since else []),
        ]
        return ", ".join(known)


def pack(writer: Writer) -> bytes:
    """Its facts: always as many bytes, so that a full disk is no hindrance to change them."""
    failure = writer.failure and writer.failure._replace(reason=writer.failure.reason[:TROUBLE_CHARS_MAX])
    trouble = writer.trouble and writer.trouble[: 0 if failure else TROUBLE_CHARS_MAX]
    text = json.dumps({**writer._asdict(), "trouble": trouble, "failure": failure and failure._asdict()})
    return text.encode().ljust(FACTS_BYTES - 1) + b"\n"


def find(data_dir: Path) -> Writer | None:
    """Who writes to the store; None: nobody. Raises OSError where this user may not look.

    Not for a process that has the database open: closing the file takes SQLite's locks along.
    """
    if (told := facts(data_dir)) is not None:
        return told
    fd = _opened(data_dir / DATABASE)
    if fd is None:
        return None
    try:
        return Writer() if _is_locked(fd) else None
    finally:
        os.close(fd)


def facts(data_dir: Path) -> Writer | None:
    """What the writer says; None where that is gone, or of a process that has ended. Raises OSError."""
    fd = _opened(data_dir / FACTS)
    if fd is None:
        return None
    try:
        return _read(fd) if _is_locked(fd) else None
    finally:
        os.close(fd)


class Elsewhere:
    """Whether the writer of the database at `path` runs where its WAL is not beside this name.

    As where the file alone is mounted into a container, or has a second name: what is read there is old, and soon of
    two moments. Locks are on the file, whatever it is called; the writer's facts are in its own directory. To be asked
    beside an open database too.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        # Where its facts are, so is its WAL; and where nobody writes, nobody needs one.
        self._is_beside = self._has_facts()
        self._ask_at = 0.0

    def __bool__(self) -> bool:
        """Raises OSError."""
        now = time.monotonic()
        if self._is_beside or now < self._ask_at:
            return False
        if not self._is_written():
            self._ask_at = now + _ASKED_SECONDS
            return False
        deadline = time.monotonic() + _BEGINNING_SECONDS
        while not (is_beside := self._has_facts()) and self._is_written() and self._looks_apart():
            if time.monotonic() >= deadline:  # not one that is just beginning, or making its files again
                return True
            time.sleep(0.01)
        self._is_beside = is_beside
        return False

    def _has_facts(self) -> bool:
        try:
            return facts(self._path.parent) is not None
        except OSError:
            return True  # they are there, and not for this user

    def _is_written(self) -> bool:
        # Asked by the descriptor that SQLite has, if it has one: to close another would take its locks along.
        there = os.stat(self._path)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of the listing
                if os.path.samestat(os.fstat(int(name)), there):
                    return _is_locked(int(name))
        fd = _opened(self._path)
        if fd is None:
            return False
        try:
            return _is_locked(fd)
        finally:
            os.close(fd)

    def _looks_apart(self) -> bool:
        """A writer that could not write its facts down, on a full disk, is beside its files all the same."""
        has_files = all(self._path.with_name(f"{self._path.name}{ending}").exists() for ending in ("-wal", "-shm"))
        return not has_files or os.stat(self._path).st_nlink > 1 or _is_mounted(self._path)


def _is_mounted(path: Path) -> bool:
    """Whether this file itself is what is mounted there. See proc_pid_mountinfo(5)."""
    escaped = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % ord(found[0]), os.fsencode(path))
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            return any(line.split(b" ", 5)[4] == escaped for line in mounts)
    except OSError:
        return False


def ended(data_dir: Path) -> Writer | None:
    """What the daemon left behind that did not end as it was told to: without a `failure` it was killed.

    None also while anybody writes. Raises OSError.
    """
    fd = _opened(data_dir / FACTS)
    if fd is None:
        return None
    try:
        told = None if _is_locked(fd) else _read(fd)
    finally:
        os.close(fd)
    return told if told and (told.verb == RUN or told.failure) else None


def _opened(path: Path) -> int | None:
    """None for what is not there, or not a file."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_locked(fd: int) -> bool:
    # Only a write lock is in the way of a read lock, and that takes the right to write.
    return filelocks.conflict(fd, fcntl.F_RDLCK, WRITER_BYTE) is not None


def _read(fd: int) -> Writer:
    for _ in range(_TRIES):
        try:
            told = json.loads(os.pread(fd, FACTS_BYTES, 0))
            trouble, since, failed = told["trouble"], told["trouble_since"], told["failure"]
            failure = failed and Failure(int(failed["exit_code"]), str(failed["reason"]), _time(failed["at"]))
            return Writer(
                int(told["pid"]), str(told["verb"]), _time(told["since"]), trouble, since and _time(since), failure
            )
        except (ValueError, KeyError, TypeError):
            time.sleep(0.01)
    return Writer()


def _time(text: str) -> str:
    """Raises ValueError, TypeError."""
    if datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError(text)
    return text
