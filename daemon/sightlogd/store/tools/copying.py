"""A copy of the database as it is at one moment, while the daemon runs or not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import apsw

from sightlogd.directory import open_file
from sightlogd.errors import EXIT_CONFIG, Stop
from sightlogd.store import log_marks, migrate, soundness
from sightlogd.store.opening import explained, reason_of
from sightlogd.store.schema import Schema

from .view import View

PAGES_A_STEP: Final = 1_000
_WRITES: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
"""A path with a link in it is refused."""


class Damaged(Exception):
    """The database, or its copy, is not sound. The text says what was found."""


def open_view(path: Path) -> View:
    """Raises Damaged, Stop."""
    with _translated(path):
        return View(path)


def created_of(view: View) -> str:
    """Raises Damaged."""
    with _translated(view.path):
        return view.created()


def bytes_of(view: View) -> int:
    """Raises Damaged, OSError."""
    with _translated(view.path):
        return view.bytes


def marks_of(view: View) -> tuple[dict[str, int], list[int]]:
    """What the day logs have, and the events up to there that changed since. Raises Damaged."""
    with _translated(view.path), view.moment():
        return view.marks(), view.amended()


@contextmanager
def moment(view: View) -> Iterator[None]:
    """All of it is of one moment. Raises Damaged."""
    with _translated(view.path), view.moment():
        yield


def copy(view: View, target: Path, progress: Callable[[int, int], None]) -> None:
    """Within `moment`: all pages into the new file `target`; `progress` is told bytes done, and of how many.

    Page for page, so it stays what the original is (VACUUM INTO takes 1.4 times as long). Not durable, not checked:
    `finish`. Raises Damaged, OSError.
    """
    for name in (target, Path(f"{target}-journal"), Path(f"{target}-wal"), Path(f"{target}-shm")):
        name.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    with _translated(target):
        connection = apsw.Connection(str(target), flags=_WRITES)
        with contextlib.closing(connection):
            # Nobody else has it, and what a crash leaves of it is begun anew.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = OFF", "synchronous = OFF"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            page_bytes = int(view.connection.execute("PRAGMA page_size").get)
            with connection.backup("main", view.connection, "main") as running:
                while not running.done:
                    running.step(PAGES_A_STEP)
                    pages = running.page_count
                    progress((pages - running.remaining) * page_bytes, pages * page_bytes)


def finish(view: View, target: Path, marks: dict[str, int], amended: Iterable[int], event_ids: Iterable[str]) -> Schema:
    """Make the copy one file, durable and checked, with the `marks` of what its day logs have. Raises Damaged, OSError.

    Returns what others have in there, and what they changed of ours.

    `amended` and `event_ids` are events up to the mark that the daemon has to compare with the day logs beside the
    copy, where it starts on them.
    """
    with _translated(target):
        connection = apsw.Connection(str(target), flags=_WRITES)
        with contextlib.closing(connection):
            execute = connection.execute
            # In one file: a stick that is mounted read-only has no room for a WAL.
            execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            execute("PRAGMA journal_mode = DELETE").fetchall()
            execute("BEGIN")
            for kind, last_id in marks.items():
                execute("UPDATE day_log_marks SET last_id = ? WHERE kind = ?", (last_id, kind))
            execute(
                "INSERT OR IGNORE INTO amended_events SELECT id FROM events "
                "WHERE id IN (SELECT value FROM json_each(?)) OR event_id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(amended)), json.dumps(list(event_ids))),
            )
            # Behind the mark all are compared: once is enough.
            execute("DELETE FROM amended_events WHERE id > ?", (marks["event"],))
            execute("COMMIT")
    try:
        return check(target)
    except Damaged as error:
        with _translated(view.path):
            if view.check() == "ok":
                text = f"the copy is damaged ({error}) and the original is sound: this disk cannot be trusted"
                raise OSError(errno.EIO, text, str(target)) from error
        raise


def check(target: Path) -> Schema:
    """A database that nobody writes to, read from the disk and not from memory. Raises Damaged, OSError, Stop.

    Returns what others have in there, and what they changed of ours.
    """
    fd = open_file(target)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    with _translated(target):
        # Nor is what lies beside it looked at: a stranger's disk may have a journal there, or a pipe of its name.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOFOLLOW
        connection = apsw.Connection(
            f"file:{quote(os.path.realpath(target.parent))}/{quote(target.name)}?immutable=1", flags=flags
        )
        with contextlib.closing(connection):
            found = soundness.damage(connection, "integrity_check", 1)
            if found:
                raise Damaged(found[0])
            return migrate.schema_of(connection)


@contextmanager
def opened(target: Path) -> Iterator[View]:
    """A copy that was found to be sound; what fails is its disk. Raises OSError, Stop."""
    try:
        with contextlib.closing(View(target)) as view:
            yield view
    except apsw.Error as error:
        raise OSError(errno.EIO, reason_of(error), str(target)) from error


def to_wal(path: Path, compare: bool) -> None:
    """As the daemon uses it; `compare`: it has to compare all rows with the day logs. Raises Stop."""
    with explained(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        with contextlib.closing(connection):
            if compare:
                log_marks.clear_marks(connection)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()


@contextmanager
def _translated(target: Path) -> Iterator[None]:
    """What SQLite says: as Damaged where the database is to blame, as OSError where the disk of `target` is.

    Raises Stop where somebody changed the schema.
    """
    try:
        yield
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
    except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError) as error:
        raise Damaged(str(error)) from error
    except apsw.SQLError as error:
        raise Stop(
            EXIT_CONFIG,
            f"the database lacks what was to be read of it: {error}. sightlogd verify names what somebody changed "
            "there, and how to undo it. No backup was made, and the one before is as it was",
        ) from error
    except apsw.Error as error:
        if getattr(error, "extendedresult", 0) in (apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ):
            raise Damaged(reason_of(error)) from error
        raise OSError(errno.EIO, reason_of(error), str(target)) from error
