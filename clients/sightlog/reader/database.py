"""The daemon's database, opened to read: the only module of the client that knows sqlite3."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from sightlog.errors import DatabaseDamaged, DatabaseNotFound, NotNow, SchemaMismatch, SightlogError, UsageError
from sightlog.layout import APPLICATION_ID, BACKUP
from sightlog.writer import Elsewhere

SCHEMA_VERSION: Final = 1
"""The newest schema this reader knows."""
BUSY_TIMEOUT_MS: Final = 5_000
RECOVERY_SECONDS: Final = 0.02
VERSION: Final = "SELECT coalesce(max(version), 0) FROM schema_version"


class Database:
    """An open file and its schema. Threads may share it. Raises DatabaseNotFound, DatabaseDamaged, SchemaMismatch."""

    def __init__(self, database: str | os.PathLike[str]) -> None:
        self.path = Path(database)
        self._lock = threading.Lock()
        self._vectors: bool | None = None
        self._schema = -1
        self._reopened = 0
        try:
            self._file = _file_of(self.path)
            there = self.path.is_file()
            size = self.path.stat().st_size if there else 0
        except OSError as error:
            raise DatabaseNotFound(f"cannot look for {self.path}: {error.strerror}. May this user read it?") from error
        if not there and self._is_of_backup():
            raise DatabaseNotFound(
                f"there is no database at {self.path}: the backup in {self.path.parent} was never completed. Run "
                "sightlogd backup again, or take another one"
            )
        if not there:
            raise DatabaseNotFound(
                f"there is no database at {self.path}. sightlogd makes it at its first start; is the path right?"
            )
        if not size:  # SQLite would take a WAL beside it for a remnant, and delete it
            raise DatabaseDamaged(
                f"{self.path} is empty (0 bytes). Nothing was changed; start sightlogd, it says what to do"
            )
        self._elsewhere = Elsewhere(self.path)
        self._wal_path = self._beside("-wal")
        self._wal: tuple[int, int] | None = None
        self._check_beside()  # SQLite would make what is not there
        try:
            self._connection = self._connect()
        except sqlite3.Error as error:
            raise DatabaseNotFound(f"cannot open {self.path}: {error}. May this user read it?") from error
        try:
            with self._snapshot():
                pass
        except SightlogError:
            self._connection.close()
            raise

    def _check_beside(self) -> None:
        try:
            is_elsewhere = bool(self._elsewhere)
        except OSError:
            return  # told where it is read
        if is_elsewhere:
            raise DatabaseNotFound(
                f"the daemon writes to {self.path} in another directory, and its newest records are in a file that is "
                f"not here: the file alone was mounted into a container, or has a second name. Mount the directory "
                "that it is in, read-only, never the file alone. The database is sound: there is nothing to rebuild"
            )

    def _connect(self) -> sqlite3.Connection:
        """Beside a backup, and another program's database, it makes no file and takes no lock."""
        if self._is_of_backup() and not self._beside("-wal").exists():
            return self._opened("&immutable=1")  # a new one takes its place as a whole
        if not (self._beside("-wal").exists() and self._beside("-shm").exists()):
            # SQLite would make what is missing. A daemon has both, so none is writing just now.
            with closing(self._opened("&immutable=1")) as connection, suppress(sqlite3.DatabaseError):
                self._check_application(connection)
        return self._opened()

    def _is_of_backup(self) -> bool:
        return self.path.with_name(BACKUP).exists()

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}{ending}")

    def _opened(self, mode: str = "") -> sqlite3.Connection:
        # An explicit isolation_level=None: transactions are begun here, never by the module.
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode=ro{mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _first(self, *statements: str) -> int:
        """Runs them; returns the number that the last one asks for. Whatever is read, this comes before it.

        A daemon that was killed while it made the index of its WAL (-shm) leaves one that only a writer can make anew,
        and who has that open keeps it alive. Opened anew, SQLite reads the WAL without it.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while True:
            try:
                for statement in statements[:-1]:
                    self._connection.execute(statement)
                return int(self._connection.execute(statements[-1]).fetchone()[0])
            except sqlite3.OperationalError as error:
                if not _is_unmade(error) or time.monotonic() >= deadline:
                    raise
            import random

            time.sleep(RECOVERY_SECONDS * random.random())  # others who read let go of it too, at another moment
            self._reopen()

    def _reopen(self) -> None:
        closed, self._connection = self._connection, self._connect()
        closed.close()
        self._vectors = None
        self._reopened += 1

    def _check_wal(self) -> None:
        """Where the WAL is another file than it was, SQLite would go on reading the old one, and find nothing new."""
        there = _file_of(self._wal_path)
        if there is not None and there != self._wal:
            if self._wal is not None:
                self._reopen()
            self._wal = there

    def _check_schema(self, connection: sqlite3.Connection, changes: int) -> None:
        """At first, and when it changed: the daemon was upgraded meanwhile."""
        if changes == self._schema:
            return
        self._check_application(connection)
        tables = connection.execute(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('schema_version', 'events')"
        ).fetchone()[0]
        if tables != 2:
            raise SchemaMismatch(f"{self.path} is an SQLite database, but not one of sightlog's")
        version = connection.execute(VERSION).fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SchemaMismatch(
                f"{self.path} has schema {version}, this reader knows {SCHEMA_VERSION} at most. Upgrade sightlog here"
            )
        self._schema = changes

    def _check_application(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise SchemaMismatch(f"{self.path} is an SQLite database, but not one of sightlog's")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "locking protocol" in str(error) or _is_unmade(error):
                raise NotNow(f"{self.path} is being recovered by another process. Try again") from error
            if "unable to open" in str(error) or "readonly" in str(error):
                raise DatabaseNotFound(
                    f"cannot read {self.path}: {error}. May this user read it and the files {self.path.name}-wal and "
                    f"{self.path.name}-shm beside it?"
                ) from error
            raise DatabaseDamaged(
                f"cannot read {self.path}: {error}. Nothing was changed; start sightlogd, it says what it finds"
            ) from error
        except UnicodeEncodeError as error:
            raise UsageError(f"{error.object[:40]!r}: not valid Unicode text") from error
        except ValueError as error:  # a time, a number or a text that the daemon never wrote
            raise DatabaseDamaged(
                f"{self.path} has something that cannot be read: {error}. Nothing was changed; run sightlogd verify"
            ) from error
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError) as error:
            raise UsageError(f"{error}. Is the Reader closed, or a parameter of the wrong type?") from error
        except sqlite3.DatabaseError as error:
            raise DatabaseDamaged(
                f"{self.path}: {error}. Nothing was changed; sightlogd verify says more, and what to do"
            ) from error

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One consistent view: an event is seen with all its detections or not at all."""
        with self._lock, self._translated():
            self._check_beside()
            self._check_wal()
            try:
                changes = self._first("BEGIN", "PRAGMA schema_version")
                self._check_schema(self._connection, changes)
                yield self._connection
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    @contextmanager
    def _scratch(self) -> Iterator[sqlite3.Connection]:
        """An empty database in memory."""
        connection = sqlite3.connect(":memory:")
        try:
            yield connection
        finally:
            connection.close()

    def _measures_vectors(self) -> bool:
        """Whether this connection has sqlite-vec's functions. Call it with the lock held."""
        if self._vectors is None:
            try:
                import sqlite_vec

                self._connection.enable_load_extension(True)
                try:
                    sqlite_vec.load(self._connection)
                finally:
                    self._connection.enable_load_extension(False)
                self._vectors = True
            except (ImportError, AttributeError, sqlite3.Error):
                # Not installed, a Python built without extensions, or a library for another machine.
                self._vectors = False
        return self._vectors

    def _changes(self) -> int:
        """Another number when another connection has committed: far cheaper than a query to find out."""
        with self._lock, self._translated():
            self._check_wal()
            version = self._first("PRAGMA data_version")
            return (self._reopened << 32) + version  # each connection counts from 1

    def _was_replaced(self) -> bool:
        """Whether another file, or none, is at the path now."""
        return _file_of(self.path) != self._file

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_unmade(error: sqlite3.OperationalError) -> bool:
    # The module's own errors (a text that is not UTF-8) have no code.
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_RECOVERY


def _file_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
