"""The database read beside the daemon: a read-only connection, and what those ask who look after the store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from sightlog import writer
from sightlogd.calendar import DayRange
from sightlogd.errors import EXIT_CONFIG, EXIT_PERMISSION, EXIT_TRY_AGAIN, Stop, WriteRefused
from sightlogd.store import by_day, log_marks, lookups, migrate, ranges, soundness, values
from sightlogd.store.columns import ObservationColumns
from sightlogd.store.log_marks import EventRow
from sightlogd.store.opening import BUSY_TIMEOUT_MS
from sightlogd.store.schema import Schema

_CREATED: Final = "SELECT applied_at FROM schema_version ORDER BY version LIMIT 1"


def connect(path: Path) -> apsw.Connection:
    """Never checkpoints, never writes. Raises apsw.Error."""
    with contextlib.suppress(OSError):  # told when it is opened
        if path.stat().st_size == 0:  # SQLite would take a WAL beside it for a remnant, and delete it
            raise apsw.CorruptError("it is empty (0 bytes)")
        if writer.Elsewhere(path):
            raise Stop(
                EXIT_CONFIG,
                f"the daemon writes to {path} in another directory, and its newest records are in a file that is not "
                "here: the file alone was mounted, or has a second name. Mount the directory that it is in, read-only. "
                "Nothing was changed",
            )
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(path.absolute()))}?mode=ro", flags=flags)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    return connection


def check_version(connection: apsw.Connection, path: Path) -> None:
    """Raises Stop, apsw.Error."""
    version, newest = migrate.version_of(connection), migrate.packaged()[-1].version
    if version < newest and _daemon_runs(path.parent):
        raise Stop(
            EXIT_TRY_AGAIN,
            f"{path} has schema {version}, and this sightlog's is {newest}: the daemon just migrates it, or is of the "
            "version before and has to be restarted. Nothing was changed. Try again when it is ready",
        )
    if version != newest:
        what = "Start sightlogd once, which migrates it" if version < newest else "Install the newer version again"
        raise Stop(
            EXIT_CONFIG,
            f"{path} has schema {version}, and this sightlog's is {newest}. {what}, or use the version that wrote "
            "it. Nothing was changed",
        )


def _daemon_runs(data_dir: Path) -> bool:
    # Only its facts: to look at the database's lock too would take the locks of this connection along.
    with contextlib.suppress(OSError):
        found = writer.facts(data_dir)
        return found is not None and found.verb == writer.RUN
    return False


@contextlib.contextmanager
def naming_odd_rows(path: Path) -> Iterator[None]:
    """Turns what no code expected of a value into a Stop that names its row, where there is one."""
    try:
        yield
    except (Stop, WriteRefused, OSError):
        raise
    except Exception as error:
        try:
            with contextlib.closing(connect(path)) as connection:
                row = next(values.odd_rows(connection), None)
        except apsw.Error:
            row = None
        if row is None:
            raise
        raise Stop(EXIT_CONFIG, values.told(path, row)) from error


class View:
    """Each call sees the database as it is then; within `moment` all see the same. Raises Stop, apsw.Error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.connection = connect(path)
            check_version(self.connection, path)
        except (apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError, apsw.ReadOnlyError) as error:
            raise Stop(
                EXIT_PERMISSION,
                f"cannot read {path}: {error}. Run this as the daemon's user, or as one of the readers' group",
            ) from error

    @contextlib.contextmanager
    def moment(self) -> Iterator[None]:
        """As long as it lasts, the WAL of a running daemon can only grow."""
        self.connection.execute("BEGIN")
        try:
            self.connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # only a read takes the view
            yield
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def close(self) -> None:
        self.connection.close(True)

    def _get(self, query: str, *values: Any) -> Any:
        return self.connection.execute(query, values).get

    @property
    def bytes(self) -> int:
        return by_day.pages(self.connection) * int(self._get("PRAGMA page_size"))

    def created(self) -> str:
        """When the database was made, by the daemon's clock: no two have the same, and it stays for good."""
        return str(self._get(_CREATED))

    def check(self) -> str:
        """ok, or the first thing that is wrong with its pages."""
        return next(iter(soundness.damage(self.connection, "integrity_check", 1)), "ok")

    def schema(self) -> Schema:
        """What others have in there, and what they changed of ours."""
        return migrate.schema_of(self.connection)

    def count(self, table: str) -> int:
        return int(self._get(f"SELECT count(*) FROM {table}"))

    def last_id(self) -> int:
        """Of the event or observation stored last."""
        query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name IN ('events', 'observations')"
        return int(self._get(query))

    def marks(self) -> dict[str, int]:
        """See `unlogged`."""
        found = log_marks.marks(self.connection)
        if not found.keys() >= {"event", "person"}:
            raise apsw.CorruptError("day_log_marks lacks rows: somebody changed it by hand")
        return found

    def amended(self) -> list[int]:
        return [row for (row,) in self.connection.execute("SELECT id FROM amended_events ORDER BY id")]

    def thumbnails_of(self, event_ids: Sequence[str]) -> dict[str, str | None]:
        """The thumbnail paths of those of the events that are there."""
        found: list[Any] = self.connection.execute(
            "SELECT event_id, thumbnail_path FROM events WHERE event_id IN (SELECT value FROM json_each(?))",
            (json.dumps(event_ids),),
        ).fetchall()
        return dict(found)

    # -- what the day logs should have -------------------------------------------------------------------------------

    def sites(self) -> list[str]:
        return by_day.sites(self.connection)

    def event_page(
        self, site: str, reached: tuple[str, int], after: str, limit: int
    ) -> list[tuple[int, str, str | None]]:
        """(id, recorded_at, thumbnail_path) behind (recorded_at, id) and before a time."""
        return lookups.thumbnails(self.connection, site, reached, after, limit)

    def logged_events(self, ids: Sequence[int]) -> list[EventRow]:
        """Those of them that the day logs have to have as they are: up to the mark, and unchanged since."""
        text = json.dumps(list(ids))
        found = [
            row
            for (row,) in self.connection.execute(
                "SELECT value FROM json_each(?) "
                "WHERE value <= (SELECT last_id FROM day_log_marks WHERE kind = 'event') "
                "AND value NOT IN (SELECT id FROM amended_events)",
                (text,),
            )
        ]
        return log_marks.events(self.connection, found)

    def observation_page(self, site: str, reached: tuple[str, int], after: str, limit: int) -> list[ObservationColumns]:
        """Rows behind (recorded_at, id) and before a time."""
        found = self.connection.execute(
            f"SELECT {', '.join(ObservationColumns._fields)} FROM observations "
            "WHERE site = ? AND (recorded_at, id) > (?, ?) AND recorded_at < ? ORDER BY recorded_at, id LIMIT ?",
            (site, *reached, after, limit),
        )
        return [ObservationColumns(*row) for row in found]

    def known(self, table: str, column: str, ids: Sequence[str]) -> set[str]:
        """Those of the ids that the table has."""
        query = f"SELECT {column} FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        return {found for (found,) in self.connection.execute(query, (json.dumps(ids),))}

    def is_logged(self, first: str, after: str) -> bool:
        """Whether the day logs have to have something of that time."""
        query = (
            "SELECT 1 FROM {} WHERE site = ? AND recorded_at >= ? AND recorded_at < ? "
            "AND id <= (SELECT last_id FROM day_log_marks WHERE kind = 'event') LIMIT 1"
        )
        return any(
            self._get(query.format(table), site, first, after) is not None
            for site in self.sites()
            for table in by_day.TABLES
        )

    def ranges(self) -> list[DayRange]:
        """Of all days, the oldest first."""
        return ranges.all_ranges(self.connection)

    def range_of(self, day: str) -> DayRange | None:
        return ranges.range_of(self.connection, day)

    def logged_persons(self) -> list[tuple[Any, ...]]:
        """(id, site, name, display_name, created_at) of those up to the mark."""
        mark = self.marks()["person"]
        return [row for row in log_marks.persons(self.connection, 0) if row[0] <= mark]
