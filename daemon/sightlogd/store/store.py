"""The one read-write connection: opening it safely, transactions, checkpoints.

Contract. `write` returns only when the batch is durable (COMMIT under synchronous=FULL). When it raises `WriteRefused`
the transaction was rolled back and may be tried again; the caller has to read again what is stored (`stored_of`),
because a COMMIT that failed may have taken effect. When it raises `Stop` the process must end: after a failed fsync
nothing that this process reads from the page cache can be trusted.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import apsw

from sightlog.accounts import Settled
from sightlog.encoder import format_time
from sightlog.wire import START, Position
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, Stop, WriteRefused
from sightlogd.session import DeadLetter, Exceptions, Parcel

from . import migrate, rows
from .rows import Rows, Thumbnails, Written

DATABASE: Final = "events.db"
BUSY_TIMEOUT_MS: Final = 5_000
WAL_PAGES_CHECKPOINT: Final = 1_000
"""Pages in the WAL (4 MB) at which a checkpoint is due, and again after as many more when readers held it up."""
WAL_BYTES_KEPT: Final = 8 * 1024 * 1024
FILE_MODE: Final = 0o640
CHECKED_BYTES_MAX: Final = 64 * 1024 * 1024
"""A database up to this size (0.2 s) is checked whole at every start; a larger one while it is used."""
_RESTORE: Final = "sightlogd's migrations/README.md says how to restore a backup"

Synchronous = Literal["FULL", "NORMAL"]


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


class Store:
    """Opens, or makes, `data_dir/events.db`. The caller holds the lock on the data directory. Raises Stop."""

    def __init__(
        self, data_dir: Path, synchronous: Synchronous = "FULL", clock: Callable[[], datetime] | None = None
    ) -> None:
        check_library(apsw.sqlite_lib_version())
        self.path = data_dir / DATABASE
        self._wal = data_dir / f"{DATABASE}-wal"
        self.wal_pages = 0
        self._checkpoint_at = WAL_PAGES_CHECKPOINT
        self._clock = clock or (lambda: datetime.now(UTC))
        migrations = migrate.packaged()
        with self._explained():
            self.created = self._create(migrations) if not self._exists() else False
            self.recovered_bytes = _rewrite(self._wal)
            self._connection = self._open(self.path, synchronous)
            self._check_if_small()
            self.migrated = migrate.migrate(self._connection, migrations, self.now)
            migrate.check_schema(self._connection, migrations)
            self._page_bytes = int(self._connection.execute("PRAGMA page_size").get)
            self._rows = Rows(self._connection)
            self._names = os.fspath(self.path), os.fspath(self._wal)
            self._files = self._files_now()

    def _committed(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def now(self) -> str:
        return format_time(self._clock())

    # -- opening -----------------------------------------------------------------------------------------------------

    def _exists(self) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            if self._wal.exists() and self._wal.stat().st_size:
                raise Stop(
                    EXIT_CONFIG,
                    f"{self._wal} is there, but {self.path} is not: the database was moved or deleted without its WAL. "
                    f"Nothing was changed. Bring it back, or move the WAL away too; {_RESTORE}",
                ) from None
            return False
        if size == 0:
            # _create renames a complete database into place, so an empty one was never ours.
            raise Stop(EXIT_CONFIG, f"{self.path} is empty (0 bytes): it was damaged. Nothing was changed; {_RESTORE}")
        return True

    def _create(self, migrations: list[migrate.Migration]) -> bool:
        """Make the database under another name and rename it: it is there complete, or not at all."""
        new = self.path.with_suffix(".new")
        for leftover in (new, Path(f"{new}-wal"), Path(f"{new}-shm")):
            leftover.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
        new.chmod(FILE_MODE)
        connection = apsw.Connection(str(new))
        # Before the first table, or not at all: later it takes a VACUUM. Purging gives pages back in slices.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        migrate.migrate(connection, migrations, self.now)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        _fsync(new)
        os.replace(new, self.path)
        _fsync(self.path.parent)
        return True

    def _open(self, path: Path, synchronous: Synchronous) -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=100)
        if connection.readonly("main"):
            connection.close()  # SQLite would go on reading only, whatever becomes of the permission
            raise PermissionError(errno.EACCES, "the file may only be read", str(path))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # Both stay after a clean stop, so that readers without write permission find them.
        on = ctypes.c_int(1)
        connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(on))
        mode = connection.execute("PRAGMA journal_mode = WAL").get
        if mode != "wal":
            raise Stop(EXIT_CONFIG, f"{path}: journal mode is {mode!r}, not wal. Is it on a network file system?")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        # Replaces SQLite's own checkpoint, which a COMMIT would have to wait for: it is done between batches.
        connection.set_wal_hook(self._committed)
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        connection.execute("PRAGMA cache_size = -8192")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    def _check_if_small(self) -> None:
        if self.path.stat().st_size <= CHECKED_BYTES_MAX:
            found = self._connection.execute("PRAGMA quick_check(1)").get
            if found != "ok":
                raise apsw.CorruptError(found)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what SQLite and the system say while opening into a Stop with the next step."""
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError, apsw.FormatError) as error:
            raise self._damaged(error) from error
        except (
            apsw.CantOpenError,
            apsw.ReadOnlyError,
            apsw.PermissionsError,
            apsw.AuthError,
            PermissionError,
        ) as error:
            raise Stop(
                EXIT_PERMISSION,
                f"cannot open {self.path} for writing: {error}. Nothing was changed. Give the daemon's user the "
                f"directory {self.path.parent} and the files in it",
            ) from error
        except apsw.BusyError as error:
            raise Stop(
                EXIT_IO_ERROR,
                f"{self.path} is locked by another process: {error}. End the program that writes to it and start again",
            ) from error
        except (apsw.FullError, apsw.IOError, OSError) as error:
            full = isinstance(error, apsw.FullError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            raise Stop(
                EXIT_STORAGE_FULL if full else EXIT_IO_ERROR,
                f"cannot open {self.path}: {_reason(error)}. Make room, or look at the disk, then start again",
            ) from error

    def _damaged(self, error: apsw.Error) -> Stop:
        return Stop(
            EXIT_CONFIG,
            f"{self.path} is damaged or not a database: {error}. Nothing was changed, moved or deleted. "
            f"Copy the data directory before anything else; {_RESTORE}",
        )

    # -- writing -----------------------------------------------------------------------------------------------------

    def known_events(self, event_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are there already, at whatever site."""
        return rows.known_events(self._connection, event_ids)

    def write(self, parcels: Sequence[Parcel], thumbnails: Thumbnails, dead_letters: Sequence[DeadLetter]) -> Written:
        """One batch, one transaction. See the module for what an exception means."""
        try:
            with self._transaction():
                return self._rows.write(parcels, thumbnails, dead_letters, self.now(), one_by_one=False)
        except apsw.ConstraintError:
            # Rare: a duplicate, or what a CHECK refuses. Once more, to find out which record it is.
            with self._transaction():
                return self._rows.write(parcels, thumbnails, dead_letters, self.now(), one_by_one=True)

    def expire_amendments(self, received_before: datetime) -> int:
        """Amendments that waited too long become dead letters; returns how many."""
        with self._transaction():
            return self._rows.expire_pending(format_time(received_before), self.now())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
            self._check_files()
        except apsw.ConstraintError:
            self._roll_back()
            raise
        except apsw.Error as error:
            outcome = self._classified(error)
            if isinstance(outcome, WriteRefused):
                self._roll_back()
            raise outcome from error

    def _files_now(self) -> tuple[int, int]:
        # stat() only: opening and closing the live file would drop SQLite's locks on it.
        return os.stat(self._names[0]).st_ino, os.stat(self._names[1]).st_ino

    def _check_files(self) -> None:
        """Before an ack: an open file can be written long after its name was removed, and what is written is lost."""
        try:
            in_place = self._files_now() == self._files
        except OSError:
            in_place = False
        if not in_place:
            raise Stop(
                EXIT_IO_ERROR,
                f"{self.path} or its WAL was removed, moved or replaced while the daemon ran. Producers keep what "
                f"was not acked. Stop the daemon before touching its files; {_RESTORE}",
            )

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors.
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._rows.forget()
        except apsw.Error as error:
            raise Stop(EXIT_IO_ERROR, f"cannot roll back on {self.path}: {error}. Look at the disk") from error

    def _classified(self, error: apsw.Error) -> Stop | WriteRefused:
        if isinstance(error, apsw.FullError):
            return WriteRefused("storage_full", f"no room for {self.path}: {error}")
        if isinstance(error, apsw.BusyError):
            return WriteRefused("locked", f"another process writes to {self.path}: {error}")
        if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError)):
            return WriteRefused("not_writable", f"cannot write to {self.path}: {error}")
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            return self._damaged(error)
        return Stop(
            EXIT_IO_ERROR,
            f"writing to {self.path} failed: {_reason(error)}. Nothing of it was acked and the producers keep it. "
            "Look at the disk and the kernel's log; the daemon can be started again",
        )

    @property
    def wal_bytes(self) -> int:
        """What is in the WAL and not yet written over; a few MB unless readers hold up the checkpoint."""
        return self.wal_pages * self._page_bytes

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> bool:
        """Move the WAL's pages into the database when there are enough of them. Between batches: it takes an fsync."""
        if self.wal_pages < WAL_PAGES_CHECKPOINT:
            self._checkpoint_at = WAL_PAGES_CHECKPOINT
        if self.wal_pages < self._checkpoint_at:
            return False
        self._checkpoint_at = self.wal_pages + WAL_PAGES_CHECKPOINT
        self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        return True

    def _checkpoint(self, mode: int) -> None:
        try:
            self._connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError):
            pass  # readers hold it up; the next one goes on
        except apsw.Error as error:
            outcome = self._classified(error)
            if isinstance(outcome, Stop):
                raise outcome from error
            # A full disk: what is in the WAL is durable there. Writing goes on until it has no room either.

    # -- looking up --------------------------------------------------------------------------------------------------

    def stored_of(self, producer_id: str) -> Position:
        """The last position settled of a producer; START for one never heard of."""
        return rows.stored_of(self._connection, producer_id) or START

    def producers(self, count_max: int) -> list[tuple[str, str, Settled]]:
        """Id, name and counters of the producers that had something settled last. Raises WriteRefused, Stop."""
        try:
            return rows.producers(self._connection, count_max)
        except apsw.Error as error:
            raise self._classified(error) from error

    def exceptions_of(self, producer_id: str, first: Position, last: Position) -> Exceptions:
        return rows.exceptions_of(self._connection, producer_id, first, last)

    def close(self) -> None:
        """Checkpoint what can be, and close. The WAL file stays, empty unless a reader held it up."""
        try:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.close()


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})"
    extended = getattr(error, "extendedresult", 0)
    return f"{error} ({apsw.mapping_extended_result_codes.get(extended, extended)})"


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rewrite(wal: Path) -> int:
    """Write a WAL that an unclean stop left behind over itself, and make that durable; returns its size.

    After a failed fsync the page cache can hold frames that the disk does not. SQLite's recovery would read them there
    and take their records for durable. Written again they are dirty again, and this fsync covers them. Has to happen
    before SQLite opens the file: closing it drops POSIX locks on it.
    """
    try:
        size = wal.stat().st_size
    except FileNotFoundError:
        return 0
    if size == 0:
        return 0
    fd = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
    try:
        offset = 0
        while data := os.pread(fd, 1 << 20, offset):
            written = os.pwrite(fd, data, offset)
            if written != len(data):
                raise OSError(errno.EIO, "short write", str(wal))
            offset += written
        os.fsync(fd)
    finally:
        os.close(fd)
    return size
