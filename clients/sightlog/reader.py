"""Reader: queries on the database itself, in any process that may read the file.

It opens the file with SQLite's `mode=ro`: it cannot write, checkpoint or hold up the daemon, and works while the daemon
runs, after it was killed and while it is stopped. Every query is one short read transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from .encoder import format_time
from .errors import DatabaseDamaged, DatabaseNotFound, NotNow, SchemaMismatch, SightlogError, UsageError
from .records import DEFAULT_SITE, Detection, Event

SCHEMA_VERSION: Final = 3
"""The newest schema this reader knows. It reads older ones too."""
FOLLOW_SECONDS: Final = 0.05
BUSY_TIMEOUT_MS: Final = 5_000

COLUMNS: Final = (
    "id", "event_id", "site", "camera_id", "recorded_at", "event_type", "recording_id", "motion_confidence",
    "person_name", "face_confidence", "face_distance", "unlock_granted", "door_action", "thumbnail_path", "image_path",
    "llm_description", "alert_sent", "created_at", "metadata",
)  # fmt: skip
"""Of an event, in the order of the table; in an older schema the last ones are NULL."""
_VERSION: Final = "SELECT coalesce(max(version), 0) FROM schema_version"
# SQLite binds 32,766 variables at most (SQLITE_MAX_VARIABLE_NUMBER); this is far below and keeps statements few.
_DETECTIONS_AT_ONCE: Final = 500
_PAGE_EVENTS: Final = 500


def _event(row: sqlite3.Row, detections: Sequence[Detection]) -> Event:
    fields: dict[str, Any] = dict(row)
    fields["recorded_at"] = datetime.fromisoformat(row["recorded_at"])
    fields["created_at"] = datetime.fromisoformat(row["created_at"])
    fields["alert_sent"] = bool(row["alert_sent"])
    if row["unlock_granted"] is not None:
        fields["unlock_granted"] = bool(row["unlock_granted"])
    if row["metadata"] is not None:
        fields["metadata"] = json.loads(row["metadata"])
    return Event(detections=detections, **fields)


class Reader:
    """Reads one site's events from `database`, newest first by the time they happened.

    Threads may share a reader. Raises DatabaseNotFound, DatabaseDamaged, SchemaMismatch.
    """

    def __init__(self, database: str | os.PathLike[str], site: str = DEFAULT_SITE) -> None:
        self.path = Path(database)
        self.site = site
        self._lock = threading.Lock()
        try:
            self._file = _file_of(self.path)
            there = self.path.is_file()
        except OSError as error:
            raise DatabaseNotFound(f"cannot look for {self.path}: {error.strerror}. May this user read it?") from error
        if not there:
            raise DatabaseNotFound(
                f"there is no database at {self.path}. sightlogd makes it at its first start; is the path right?"
            )
        try:
            # An explicit isolation_level=None: transactions are begun here, never by the module.
            self._connection = sqlite3.connect(
                f"file:{quote(str(self.path.absolute()))}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_TIMEOUT_MS / 1000,
            )
        except sqlite3.Error as error:
            raise DatabaseNotFound(f"cannot open {self.path}: {error}. May this user read it?") from error
        self._connection.row_factory = sqlite3.Row
        try:
            with self._translated():
                self._check_schema()
        except SightlogError:
            self._connection.close()
            raise

    def _check_schema(self) -> None:
        tables = self._connection.execute(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('schema_version', 'events')"
        ).fetchone()[0]
        if tables != 2:
            raise SchemaMismatch(f"{self.path} is an SQLite database, but not one of sightlog's")
        version = self._connection.execute(_VERSION).fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SchemaMismatch(
                f"{self.path} has schema {version}, this reader knows {SCHEMA_VERSION} at most. Upgrade sightlog here"
            )
        there = {row["name"] for row in self._connection.execute("PRAGMA table_info(events)")}
        columns = (name if name in there else f"NULL AS {name}" for name in COLUMNS)
        self._select = f"SELECT {', '.join(columns)} FROM events"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "unable to open" in str(error) or "readonly" in str(error):
                raise DatabaseNotFound(
                    f"cannot read {self.path}: {error}. May this user read it and the files {self.path.name}-wal and "
                    f"{self.path.name}-shm beside it?"
                ) from error
            if "locked" in str(error):
                raise NotNow(f"{self.path} is being recovered by another process. Try again") from error
            raise DatabaseDamaged(
                f"cannot read {self.path}: {error}. Nothing was changed; start sightlogd, it says what it finds"
            ) from error
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
            raise UsageError(f"{error}. Is the Reader closed, or a parameter of the wrong type?") from error
        except sqlite3.DatabaseError as error:
            raise DatabaseDamaged(
                f"{self.path}: {error}. Nothing was changed; see migrations/README.md for how to restore a backup"
            ) from error

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One consistent view: an event is seen with all its detections or not at all."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("COMMIT")

    def _events(self, condition: str, parameters: Sequence[object], *, hint: str = "") -> list[Event]:
        with self._snapshot() as connection:
            query = f"{self._select} {hint} WHERE site = ? {condition}"
            rows = connection.execute(query, (self.site, *parameters)).fetchall()
            found: dict[int, list[Detection]] = {row["id"]: [] for row in rows}
            ids = list(found)
            for start in range(0, len(ids), _DETECTIONS_AT_ONCE):
                some = ids[start : start + _DETECTIONS_AT_ONCE]
                marks = ",".join("?" * len(some))
                for event, label, confidence, x1, y1, x2, y2 in connection.execute(
                    "SELECT event_id, label, confidence, bbox_x1, bbox_y1, bbox_x2, bbox_y2 FROM detections "
                    f"WHERE event_id IN ({marks}) ORDER BY event_id, position",
                    some,
                ):
                    found[event].append(Detection(label, confidence, None if x1 is None else (x1, y1, x2, y2)))
        return [_event(row, found[row["id"]]) for row in rows]

    # -- queries -----------------------------------------------------------------------------------------------------

    def get_event(self, event_id: str) -> Event | None:
        """The event with this id, or None when this site has none."""
        events = self._events("AND event_id = ?", (event_id,))
        return events[0] if events else None

    def get_recent_events(self, limit: int = 20, offset: int = 0) -> list[Event]:
        """Newest first."""
        return self._events(
            "ORDER BY recorded_at DESC, id DESC LIMIT ? OFFSET ?", (_count("limit", limit), _count("offset", offset))
        )

    def get_events_by_timerange(self, start: datetime, end: datetime, limit: int = 100, offset: int = 0) -> list[Event]:
        """Events with start <= recorded_at < end, newest first. Both need a time zone, else InvalidRecord."""
        return self._events(
            "AND recorded_at >= ? AND recorded_at < ? ORDER BY recorded_at DESC, id DESC LIMIT ? OFFSET ?",
            (format_time(start), format_time(end), _count("limit", limit), _count("offset", offset)),
        )

    def get_events_by_camera(self, camera_id: str, limit: int = 20) -> list[Event]:
        """One camera's events, newest first."""
        return self._events(
            "AND camera_id = ? ORDER BY recorded_at DESC, id DESC LIMIT ?", (camera_id, _count("limit", limit))
        )

    def find_events(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        camera_id: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Events with start <= recorded_at < end in the order of that time; None is no bound.

        Read in pages, each in a transaction of its own: the whole history takes little memory and never holds up a
        checkpoint. An event committed meanwhile is missed when its time is in what went by already.
        """
        # The bound where reading begins and the place reached are one condition, so the index answers it alone.
        if newest_first:
            reached, order = (format_time(end) if end else "~", 0), "DESC"
            condition, far = "(recorded_at, id) < (?, ?) AND recorded_at >= ?", format_time(start) if start else ""
        else:
            reached, order = (format_time(start) if start else "", 0), "ASC"
            condition, far = "(recorded_at, id) > (?, ?) AND recorded_at < ?", format_time(end) if end else "~"
        camera = () if camera_id is None else (camera_id,)
        condition = f"AND {condition} {'AND camera_id = ?' if camera else ''} ORDER BY recorded_at {order}, id {order}"
        left = None if limit is None else _count("limit", limit)
        while left is None or left > 0:
            size = _PAGE_EVENTS if left is None else min(left, _PAGE_EVENTS)
            page = self._events(f"{condition} LIMIT ?", (*reached, far, *camera, size))
            yield from page
            if len(page) < size:
                return
            left = None if left is None else left - size
            reached = (format_time(page[-1].recorded_at), page[-1].id or 0)

    def count_events(self) -> int:
        """How many events this site has."""
        with self._snapshot() as connection:
            count: int = connection.execute("SELECT count(*) FROM events WHERE site = ?", (self.site,)).fetchone()[0]
        return count

    def follow(self, after: int | None = None, poll_seconds: float = FOLLOW_SECONDS) -> Iterator[Event]:
        """Committed events in commit order, for ever: those with `id` > `after`, then new ones as they are committed.

        Without `after` it begins with the next one to be committed. Keep the `id` of the last event you dealt with, and
        give it as `after` to go on there.
        """
        cursor = self.last_id() if after is None else after
        seen = -1
        while True:
            # data_version changes when another connection commits: far cheaper than a query to find out.
            with self._lock, self._translated():
                version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            events = []
            if version != seen:
                # Left alone, SQLite reads and sorts the whole site by one of its indexes.
                events = self._events("AND id > ? ORDER BY id LIMIT 500", (cursor,), hint="NOT INDEXED")
            for event in events:
                cursor = event.id or cursor
                yield event
            if len(events) < 500:
                seen = version
                if _file_of(self.path) != self._file:
                    raise DatabaseNotFound(
                        f"{self.path} was removed or replaced since it was opened: a backup was restored. "
                        "Open a new Reader, and begin at its last_id()"
                    )
                time.sleep(poll_seconds)

    def last_id(self) -> int:
        """The `id` of the event committed last, of any site, 0 when there is none: a cursor for `follow`."""
        with self._snapshot() as connection:
            last = connection.execute("SELECT max(id) FROM events").fetchone()[0]
        return int(last or 0)

    def producers(self) -> list[dict[str, Any]]:
        """Every producer the store knows, the one heard last first: name, counters, position."""
        with self._snapshot() as connection:
            return [dict(row) for row in connection.execute("SELECT * FROM producers ORDER BY last_seen_at DESC")]

    def dead_letters(self, limit: int = 20) -> list[dict[str, Any]]:
        """Records that were not stored, the latest first: received_at, producer (its name, or None), producer_id,
        epoch, seq, status, reason."""
        with self._snapshot() as connection:
            rows = connection.execute(
                "SELECT received_at, name AS producer, producer_id, dead_letters.epoch, seq, status, reason "
                "FROM dead_letters LEFT JOIN producers USING (producer_id) ORDER BY id DESC LIMIT ?",
                (_count("limit", limit),),
            ).fetchall()
        return [dict(row) for row in rows]

    def status(self) -> dict[str, Any]:
        """schema_version, events (of the site), dead_letters (count by status), pending_amendments: one view."""
        with self._snapshot() as connection:
            get = connection.execute
            return {
                "schema_version": get(_VERSION).fetchone()[0],
                "events": get("SELECT count(*) FROM events WHERE site = ?", (self.site,)).fetchone()[0],
                "dead_letters": dict(get("SELECT status, count(*) FROM dead_letters GROUP BY status").fetchall()),
                "pending_amendments": get("SELECT count(*) FROM pending_amendments").fetchone()[0],
            }

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _file_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _count(field: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{field}={value!r}: expected a whole number, 0 or more")
    return value
