"""A new database with rows that come from elsewhere: the day logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from sightlogd.calendar import Days
from sightlogd.dayranges import Folder, of_folders
from sightlogd.store import statements, texts
from sightlogd.store.by_day import TABLES
from sightlogd.store.columns import ObservationColumns, PersonColumns
from sightlogd.store.log_marks import EventRow
from sightlogd.store.opening import create, explained
from sightlogd.store.ranges import Ranges


class Pending(NamedTuple):
    """An amendment that waited for its event."""

    site: str
    event_id: str
    received_at: str
    producer_id: str
    epoch: int
    seq: int
    record: bytes


class Refill:
    """What is put in. What has no id, or one that is taken, gets a new one in `add_late`."""

    def __init__(self, connection: apsw.Connection, calendar: Days) -> None:
        self._connection = connection
        self._calendar = calendar
        self._without_id: list[EventRow] = []
        self._observations_without_id: list[ObservationColumns] = []
        self._logged: dict[str, int] = {}
        """By kind, the last id that lines have: what came late has none under the id it gets."""
        connection.execute("BEGIN")

    def add_events(self, events: Iterable[EventRow]) -> None:
        for event in events:
            if not event.columns.id or self._is_taken(event.columns.id):
                self._without_id.append(event)
            else:
                self._insert(event)

    def _is_taken(self, row_id: int) -> bool:
        query = "SELECT 1 FROM events WHERE id = ?1 UNION ALL SELECT 1 FROM observations WHERE id = ?1"
        return self._connection.execute(query, (row_id,)).get is not None

    def _insert(self, event: EventRow) -> None:
        self._connection.execute(f"{statements.EVENTS.one} ON CONFLICT (event_id) DO NOTHING", event.columns)
        if not self._connection.changes():
            return
        row_id = self._connection.last_insert_rowid()
        self._connection.executemany(
            statements.DETECTIONS.one,
            [
                (row_id, position, label, confidence, *(box or (None,) * 4))
                for position, (label, confidence, box) in enumerate(event.detections)
            ],
        )
        row = event.columns
        if row.llm_description is not None:
            texts.index_descriptions(self._connection, [(row_id, row.site, row.camera_id, row.llm_description)])
        if event.face is not None:
            texts.set_faces(self._connection, [(row_id, row.site, event.face)])

    def add_observations(self, observations: Iterable[ObservationColumns]) -> None:
        """Rows of `observations`. The first of those with one observation_id is kept."""
        for row in observations:
            if not row.id or self._is_taken(row.id):
                self._observations_without_id.append(row)
            else:
                self._insert_observation(row)

    def _insert_observation(self, row: ObservationColumns) -> None:
        texts.add_observation(self._connection, row, "ON CONFLICT (observation_id) DO NOTHING")

    def add_persons(self, persons: Iterable[PersonColumns]) -> None:
        self._connection.executemany(
            f"INSERT OR IGNORE INTO persons ({', '.join(PersonColumns._fields)}) VALUES (nullif(?, 0), ?, ?, ?, ?)",
            persons,
        )

    def add_late(self, persons: Iterable[PersonColumns]) -> None:
        """What gets new ids, behind all others; the daemon writes lines of it when it starts."""
        query = "SELECT max(seq) FROM sqlite_sequence WHERE name IN ('events', 'observations')"
        last = int(self._connection.execute(query).get or 0)
        self._logged = {"event": last, "person": int(self._connection.execute("SELECT max(id) FROM persons").get or 0)}
        self.add_persons(persons)
        next_id = 1 + last
        for event in self._without_id:
            self._insert(event._replace(columns=event.columns._replace(id=next_id)))
            next_id += 1
        for row in self._observations_without_id:
            self._insert_observation(row._replace(id=next_id))
            next_id += 1

    def _add_days(self, folders: Sequence[Folder]) -> bool:
        """Whether all of it is as the folders have it: a card may have flipped a bit in a time, or in a range."""
        found = {one.day: one for one in of_folders(folders, self._calendar)}
        ranges = Ranges(self._connection, self._calendar)
        ranges.add(found.values())
        is_as_noted = all(folder.noted == found.get(folder.day) for folder in folders)
        if all(folder.is_within(found.get(folder.day)) for folder in folders):
            return is_as_noted
        for table in TABLES:
            strays: list[Any] = self._connection.execute(
                f"SELECT DISTINCT recorded_at FROM {table} WHERE NOT EXISTS "
                "(SELECT 1 FROM days WHERE first <= recorded_at AND recorded_at < after)"
            ).fetchall()
            ranges.cover([moment for (moment,) in strays])
        return False

    def finish(self, pending: Sequence[Pending], folders: Sequence[Folder]) -> None:
        """What follows from the rest. `pending` amendments whose event is there have been applied to it.

        `folders` are all that rows come from.
        """
        execute = self._connection.execute
        self._connection.executemany(
            "INSERT INTO pending_amendments (site, event_id, received_at, producer_id, epoch, seq, record) "
            "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 "
            "WHERE NOT EXISTS (SELECT 1 FROM events WHERE site = ?1 AND event_id = ?2)",
            pending,
        )
        execute("INSERT INTO cameras SELECT site, camera_id, min(created_at) FROM events GROUP BY site, camera_id")
        execute(
            "INSERT INTO clock_days SELECT substr(created_at, 1, 10), min(id) FROM "
            "(SELECT created_at, id FROM events UNION ALL SELECT created_at, id FROM observations) GROUP BY 1"
        )
        if self._add_days(folders):
            for kind, last in self._logged.items():
                execute("UPDATE day_log_marks SET last_id = ? WHERE kind = ?", (last, kind))
        # Else the daemon compares all of them when it starts, and writes into each day what that lacks.
        execute("COMMIT")
        found = execute("PRAGMA integrity_check(1)").get
        if found != "ok":
            raise apsw.CorruptError(found)

    def count(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").get)


def make(path: Path, now: Callable[[], str], calendar: Days, fill: Callable[[Refill], None]) -> None:
    """A database at `path`, complete or not at all. Raises Stop."""
    with explained(path):
        create(path, now, lambda connection: fill(Refill(connection, calendar)))
