"""Whose an SQLite database is. Looking leaves no trace: no lock, no file made beside it, not a byte changed."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import apsw

from sightlog.layout import APPLICATION_ID

VERSION_COLUMNS: Final = ("version", "name", "applied_at")
"""Of our table schema_version: other programs have tables of that name."""
_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_APPLICATION_ID: Final = slice(68, 72)
_TABLES_NAMED: Final = 8


class Owner(Enum):
    NOBODY = "there is none"
    US = "sightlog's"
    ANOTHER = "another program's"
    UNKNOWN = "cannot be read"


class Signature(NamedTuple):
    owner: Owner
    found: str
    """What tells so, for people; begins with a verb."""


def connect(path: Path) -> apsw.Connection:
    """Read-only, of a database that nobody writes to just now. Raises apsw.Error.

    Without a WAL the file alone is read. With one SQLite would keep an index of it in a file (-shm), and make that;
    where it cannot lock files, and is told to have the database for itself, it keeps it in memory.
    """
    wal = path.with_name(f"{path.name}-wal")
    has_wal = wal.exists() and wal.stat().st_size > 0
    how = "vfs=unix-none" if has_wal else "immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(path.absolute()))}?mode=ro&{how}", flags=flags)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    return connection


def signature_of(path: Path) -> Signature:
    """Raises OSError. Not in a process that has the database open: closing the file takes SQLite's locks along."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Signature(Owner.NOBODY, "is not there")
    try:
        header = os.read(fd, _HEADER_BYTES)
    finally:
        os.close(fd)
    if not header:
        return Signature(Owner.UNKNOWN, "is empty (0 bytes)")
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return Signature(Owner.UNKNOWN, "is not an SQLite database")
    # The header is in the file since it was made, whatever an unclean stop left in the WAL.
    is_marked = header[_APPLICATION_ID] == APPLICATION_ID.to_bytes(4, "big")
    try:
        connection = connect(path)
        try:
            if is_marked and has_our_versions(connection):
                return Signature(Owner.US, "is sightlog's")
            return Signature(
                Owner.ANOTHER, f"is a database of another program, not one of sightlog's: {_described(connection)}"
            )
        finally:
            connection.close(True)
    except apsw.Error as error:
        # Damaged; or a daemon is just writing, and what was read is of two moments.
        return Signature(Owner.US if is_marked else Owner.UNKNOWN, f"cannot be read as a database: {error}")


def is_ours(connection: apsw.Connection) -> bool:
    """Raises apsw.Error."""
    return connection.execute("PRAGMA application_id").get == APPLICATION_ID and has_our_versions(connection)


def has_our_versions(connection: apsw.Connection) -> bool:
    """Raises apsw.Error."""
    columns = connection.execute("SELECT name FROM pragma_table_info('schema_version') ORDER BY cid")
    return tuple(name for (name,) in columns) == VERSION_COLUMNS


def _described(connection: apsw.Connection) -> str:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid"
    tables = [str(name) for (name,) in connection.execute(query)]
    if not tables:
        return "it has no tables"
    more = ", …" if len(tables) > _TABLES_NAMED else ""
    return f"its tables are {', '.join(tables[:_TABLES_NAMED])}{more}"
