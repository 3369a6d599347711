"""Brings a database to this version's schema, one migration a transaction, and checks that it is that schema."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import resources
from typing import Final, NamedTuple

import apsw

from sightlog.layout import APPLICATION_ID
from sightlogd.errors import EXIT_CONFIG, Stop

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
            violations = connection.execute("PRAGMA foreign_key_check").fetchall()
            if violations:
                raise apsw.ConstraintError(f"it leaves {len(violations)} rows that refer to nothing")
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


def check_schema(connection: apsw.Connection, migrations: list[Migration]) -> None:
    """Raises Stop when tables, indexes, views or triggers differ from what the migrations make."""
    reference = apsw.Connection(":memory:")
    for migration in migrations:
        reference.execute(migration.sql)
    expected, found = _objects(reference), _objects(connection)
    reference.close()
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing:
        raise Stop(
            EXIT_CONFIG,
            f"the schema of {connection.filename} is not that of this version: {', '.join(differing)} differ. "
            f"Somebody changed the database by hand. Nothing was changed now. Undo that; {RESTORE}",
        )


def _objects(connection: apsw.Connection) -> dict[str, str]:
    # ANALYZE makes tables of its own, named sqlite_*, and FTS5 those that it keeps its index in, as its version likes.
    rows = connection.execute(
        "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_' "
        "AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow')"
    )
    return {name: " ".join(sql.split()) for name, sql in rows}
