"""Opening the database safely: only a sound SQLite, a rewritten WAL, this version's schema, or nothing is touched."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

import apsw

from sightlog.layout import APPLICATION_ID
from sightlog.writer import DATABASE as DATABASE
from sightlogd import durable
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, EXIT_TRY_AGAIN, Stop
from sightlogd.room import ran_out

from . import migrate, values
from .guard import Guard, Wait, another_writer, identity_of, made_by_another
from .migrate import RESTORE
from .room import no_room
from .schema import Schema
from .soundness import damage

BUSY_TIMEOUT_MS: Final = 5_000
WAL_BYTES_KEPT: Final = 8 * 1024 * 1024
CHECKED_BYTES_MAX: Final = 64 * 1024 * 1024
"""A database up to this size (0.2 s) is checked whole at every start; a larger one while it is used."""
RESTORING: Final = "restoring"
"""In the data directory: what a restore has copied so far."""
RESTORED: Final = "restored"
"""The same once all of it is there and checked: it only has to be put in place."""

Synchronous = Literal["FULL", "NORMAL"]


class Opened(NamedTuple):
    connection: apsw.Connection
    guard: Guard
    """To be closed behind the connection."""
    created: bool
    migrated: list[migrate.Migration]
    recovered_bytes: int
    """Of the WAL that an unclean stop left."""
    schema: Schema
    lacks_wal: bool
    """Which every start leaves beside it, and none removes."""


def corrupts_wal(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the WAL-reset bug: 3.7.0 to 3.51.2, but for the backports; 3.52.0 was withdrawn."""
    if version[:2] == (3, 44):
        return version < (3, 44, 6)
    if version[:2] == (3, 50):
        return version < (3, 50, 7)
    return version < (3, 51, 3) or version[:2] == (3, 52)


def check_library(version: str) -> None:
    """Raises Stop for an SQLite that must not write."""
    if corrupts_wal(tuple(int(part) for part in version.split("."))):
        raise Stop(
            EXIT_CONFIG,
            f"SQLite {version} can corrupt a database in WAL mode (the WAL-reset bug). Nothing was opened. "
            "Install apsw from PyPI, 3.51.3 or newer: it brings an SQLite of its own",
        )


def open_database(path: Path, synchronous: Synchronous, now: Callable[[], str], wait: Wait) -> Opened:
    """Opens, or makes, the database; nothing is written before no other process can. Raises Stop.

    `wait` is told who is in the way, for as long as that lasts.
    """
    check_library(apsw.sqlite_lib_version())
    migrations = migrate.packaged()
    with explained(path):
        created = not path.exists()
        lacks_wal = not created and not _wal_of(path).exists()
        guard = _created(path, now) if created else Guard(path)
        try:
            if not created:
                _finish_creation(path, guard)
            recovered = 0
            while True:
                with guard.without_other_writers(wait):
                    recovered = _rewrite(_wal_of(path)) or recovered
                try:
                    connection, migrated, schema = _opened(path, synchronous, migrations, now)
                except (apsw.BusyError, apsw.ProtocolError):
                    wait(guard.in_the_way())
                    continue
                return Opened(connection, guard, created, migrated, recovered, schema, lacks_wal)
        except BaseException:
            guard.close()
            raise


def _opened(
    path: Path, synchronous: Synchronous, migrations: list[migrate.Migration], now: Callable[[], str]
) -> tuple[apsw.Connection, list[migrate.Migration], Schema]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=100)
    try:
        _set_up(connection, path, synchronous)
        if path.stat().st_size <= CHECKED_BYTES_MAX:
            found = damage(connection, "quick_check", 1)
            if found and (odd := next(values.odd_rows(connection), None)) is not None:
                raise Stop(EXIT_CONFIG, values.told(path, odd))
            if found:
                raise apsw.CorruptError(found[0])
        migrated = migrate.migrate(connection, migrations, now)
        schema = migrate.check_schema(connection, migrations)
    except BaseException as error:
        what = no_room(error, connection, path) if isinstance(error, apsw.Error) else None
        connection.close()
        if what is not None:
            raise OSError(errno.ENOSPC, what, str(path)) from error
        raise
    return connection, migrated, schema


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def create(path: Path, now: Callable[[], str], fill: Callable[[apsw.Connection], None] | None = None) -> None:
    """Make the database under another name, `fill` it, and give it its own: it is there complete, or not at all.

    Never in the place of another: of two processes that make one at once, one is refused. Raises Stop, OSError.
    """
    _created(path, now, fill).close()


def _created(path: Path, now: Callable[[], str], fill: Callable[[apsw.Connection], None] | None = None) -> Guard:
    """Guarded from before it has its name."""
    new = _new_of(path)
    _clear(new)
    try:
        # Nobody who reads can be in the way of what is not finished.
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        guard = Guard(new)
    except (FileExistsError, FileNotFoundError) as error:
        raise another_writer(path.parent) from error
    try:
        if identity_of(new) != guard.identity:  # another one cleared it before it was guarded
            raise another_writer(path.parent)
        connection = apsw.Connection(str(new))
        # Before the first table, or not at all: later it takes a VACUUM. Purging gives pages back in slices.
        # And in one write with the mark: whatever a crash leaves of it is known as ours.
        connection.execute(f"BEGIN; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {APPLICATION_ID}; COMMIT")
        migrate.migrate(connection, migrate.packaged(), now)
        if fill is not None:
            fill(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        new.chmod(durable.FILE_MODE)
        # Not only an fsync: while it makes a WAL database of it, SQLite keeps a failed one to itself.
        durable.write_again(new)
        durable.put(new, path)
        durable.sync(path.parent)
    except BaseException as error:
        guard.close()
        if isinstance(error, FileExistsError):
            raise made_by_another(path) from error
        raise
    return guard


def _new_of(path: Path) -> Path:
    return path.with_suffix(".new")


def _clear(new: Path) -> None:
    """What a crash left; not what another process is making. Raises Stop."""
    try:
        guard = Guard(new)
    except FileNotFoundError:
        return
    try:
        for leftover in (new, Path(f"{new}-wal"), Path(f"{new}-shm")):
            leftover.unlink(missing_ok=True)
    finally:
        guard.close()


def _finish_creation(path: Path, guard: Guard) -> None:
    """A crash between its two names left both."""
    new = _new_of(path)
    with suppress(FileNotFoundError):
        if identity_of(new) == guard.identity:
            new.unlink()


def _set_up(connection: apsw.Connection, path: Path, synchronous: Synchronous) -> None:
    if connection.readonly("main"):
        # SQLite would go on reading only, whatever becomes of the permission.
        raise PermissionError(errno.EACCES, "the file may only be read", str(path))
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    # Where the database is refused, closing it must not move the WAL into it; Store.close does where it is sound.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    # Both stay after a clean stop, so that readers without write permission find them.
    on = ctypes.c_int(1)
    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(on))
    mode = connection.execute("PRAGMA journal_mode = WAL").get
    if mode != "wal":
        raise Stop(EXIT_CONFIG, f"{path}: journal mode is {mode!r}, not wal. Is it on a network file system?")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    connection.execute("PRAGMA cache_size = -8192")
    connection.execute("PRAGMA trusted_schema = OFF")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system say while opening into a Stop with the next step."""
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, apsw.SQLError) as error:
        raise damaged(path, error) from error
    except (
        apsw.CantOpenError,
        apsw.ReadOnlyError,
        apsw.PermissionsError,
        apsw.AuthError,
        PermissionError,
    ) as error:
        raise Stop(
            EXIT_PERMISSION,
            f"cannot open {path} for writing: {error}. Nothing was changed. Give the daemon's user the "
            f"directory {path.parent} and the files in it",
        ) from error
    except (apsw.BusyError, apsw.ProtocolError) as error:
        raise Stop(
            EXIT_TRY_AGAIN,
            f"{path} is locked by another process: {error}. End the program that writes to it and start again",
        ) from error
    except (apsw.FullError, apsw.IOError, OSError) as error:
        full = isinstance(error, apsw.FullError) or ran_out(getattr(error, "errno", None), path) is not None
        raise Stop(
            EXIT_STORAGE_FULL if full else EXIT_IO_ERROR,
            f"cannot open {path}: {reason_of(error)}. Make room, or look at the disk, then start again",
        ) from error


def damaged(path: Path, found: object) -> Stop:
    return Stop(
        EXIT_CONFIG,
        f"{path} is damaged or not a database: {found}. Nothing was changed, moved or deleted. Before anything else: "
        f"sightlogd backup DEST keeps it as it is, and the day folders. sightlogd verify says more. {RESTORE}",
    )


def reason_of(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})"
    extended = getattr(error, "extendedresult", 0)
    return f"{error} ({apsw.mapping_extended_result_codes.get(extended, extended)})"


def _rewrite(wal: Path) -> int:
    """Write a WAL that an unclean stop left behind over itself, and make that durable; returns its size.

    SQLite's recovery would read frames that only the page cache has, and take their records for durable. Has to happen
    before SQLite opens the file: closing it drops POSIX locks on it.
    """
    try:
        return durable.write_again(wal)
    except FileNotFoundError:
        return 0
