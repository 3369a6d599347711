"""Brings a database to this version's schema, one migration a transaction, and checks that it is that schema."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import resources
from typing import Any, Final, NamedTuple

import apsw

from sightlog.layout import APPLICATION_ID
from sightlogd.errors import EXIT_CONFIG, Stop

from .schema import Schema, compare, own_tables
from .signature import is_ours

_FILE_NAME: Final = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")
RESTORE: Final = (
    "sightlogd rebuild --from-logs makes a new one from the day folders, sightlogd restore SRC puts a backup in place"
)


class Migration(NamedTuple):
    version: int
    name: str
    sql: str


@functools.cache
def packaged() -> list[Migration]:
    """The migrations of this version, in order. Read once: root may go on as a user who may not read them."""
    found = []
    for file in resources.files("sightlogd.migrations").iterdir():
        if matched := _FILE_NAME.fullmatch(file.name):
            found.append(Migration(int(matched[1]), file.name, file.read_text(encoding="utf-8")))
    return sorted(found)


def packaged_sql() -> list[str]:
    return [migration.sql for migration in packaged()]


def version_of(connection: apsw.Connection) -> int:
    """The schema version, 0 for one that is just being made. Raises Stop for a database that is not sightlog's."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables and connection.execute("PRAGMA application_id").get == APPLICATION_ID:
        return 0
    if not is_ours(connection):
        raise Stop(
            EXIT_CONFIG,
            f"{connection.filename} is an SQLite database, but not one of sightlog's. "
            "Nothing was changed. Give another data directory, or move this file away",
        )
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").get)


def migrate(connection: apsw.Connection, migrations: list[Migration], now: Callable[[], str]) -> list[Migration]:
    """Apply what is missing; returns what was applied. Raises Stop and leaves the database as it was."""
    version = version_of(connection)
    newest = migrations[-1].version
    if version > newest:
        raise Stop(
            EXIT_CONFIG,
            f"{connection.filename} has schema {version}, written by a newer sightlog; this one knows up to {newest}. "
            f"Nothing was changed. Install the newer version again; {RESTORE}",
        )
    missing = [migration for migration in migrations if migration.version > version]
    for migration in missing:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO schema_version (version, name, applied_at) VALUES (?, ?, ?)",
                (migration.version, migration.name, now()),
            )
            tables = own_tables(connection, [migration.sql for migration in migrations])
            violations = sum(len(lost_references(connection, table)) for table in tables)
            if violations:
                raise apsw.ConstraintError(f"it leaves {violations} rows that refer to nothing")
            connection.execute("COMMIT")
        except (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.BusyError):
            raise  # not the migration's fault; closing the connection rolls it back
        except apsw.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise Stop(
                EXIT_CONFIG,
                f"migration {migration.name} failed: {error}. The database is as it was before it, at schema "
                f"{version_of(connection)}. Go on with the previous version of sightlog, and report this; "
                f"{RESTORE}",
            ) from error
    return missing


def lost_references(connection: apsw.Connection, table: str) -> list[tuple[str, int, str, int]]:
    """Rows of a table of ours that refer to nothing, as PRAGMA foreign_key_check has them. Raises apsw.Error."""
    found: list[Any] = connection.execute(f"PRAGMA foreign_key_check({table})").fetchall()
    return found


def check_schema(connection: apsw.Connection, migrations: list[Migration]) -> Schema:
    """What others have in there and may. Raises Stop when they changed what the migrations make, apsw.Error."""
    found = compare(connection, [migration.sql for migration in migrations])
    if found.changed:
        raise Stop(EXIT_CONFIG, changed_by_hand(connection.filename, found))
    return found


def schema_of(connection: apsw.Connection) -> Schema:
    """Against the version that it has. Raises Stop, apsw.Error."""
    version = version_of(connection)
    return compare(connection, [migration.sql for migration in packaged() if migration.version <= version])


def changed_by_hand(path: object, found: Schema) -> str:
    return (
        f"the schema of {path} is not that of this version: {', '.join(found.changed)}. Somebody changed the database "
        f"by hand. Nothing was changed now. {found.remedy(path)} Otherwise: {RESTORE}"
    )
