"""What the day logs may miss: rows behind the marks, and the marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from .columns import EventColumns, ObservationColumns, PersonColumns
from .texts import Face, faces_of


class EventRow(NamedTuple):
    columns: EventColumns
    detections: list[tuple[str, float, tuple[float, float, float, float] | None]]
    face: Face | None = None


def marks(connection: apsw.Connection) -> dict[str, int]:
    rows: list[Any] = connection.execute("SELECT kind, last_id FROM day_log_marks").fetchall()
    return dict(rows)


def set_event_mark(connection: apsw.Connection, event: int) -> None:
    connection.execute("UPDATE day_log_marks SET last_id = ? WHERE kind = 'event'", (event,))


def set_marks(connection: apsw.Connection, event: int) -> None:
    set_event_mark(connection, event)
    connection.execute(
        "UPDATE day_log_marks SET last_id = (SELECT coalesce(max(id), 0) FROM persons) WHERE kind = 'person'"
    )
    connection.execute("DELETE FROM amended_events")


def clear_marks(connection: apsw.Connection) -> None:
    connection.execute("UPDATE day_log_marks SET last_id = 0")
    connection.execute("DELETE FROM amended_events")


def amended_events(connection: apsw.Connection, after: int, up_to: int, limit: int) -> list[int]:
    """Ids of events up to the mark that were amended behind it."""
    query = "SELECT id FROM amended_events WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    rows = connection.execute(query, (after, up_to, limit))
    return [row for (row,) in rows]


def event_ids(connection: apsw.Connection, after: int, up_to: int, limit: int) -> list[int]:
    query = "SELECT id FROM events WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    rows = connection.execute(query, (after, up_to, limit))
    return [row for (row,) in rows]


def events(connection: apsw.Connection, ids: Sequence[int]) -> list[EventRow]:
    """By id."""
    marks = ",".join("?" for _ in ids)
    query = f"SELECT {', '.join(EventColumns._fields)} FROM events WHERE id IN ({marks}) ORDER BY id"
    faces = faces_of(connection, ids)
    rows: dict[int, EventRow] = {
        columns.id: EventRow(columns, [], faces.get(columns.id))
        for columns in map(EventColumns._make, connection.execute(query, tuple(ids)))
    }
    for event, label, confidence, x1, y1, x2, y2 in connection.execute(
        "SELECT event_id, label, confidence, bbox_x1, bbox_y1, bbox_x2, bbox_y2 FROM detections "
        f"WHERE event_id IN ({marks}) ORDER BY event_id, position",
        tuple(ids),
    ):
        rows[event].detections.append((label, confidence, None if x1 is None else (x1, y1, x2, y2)))
    return list(rows.values())


def observations(connection: apsw.Connection, after: int, up_to: int, limit: int) -> list[ObservationColumns]:
    """Rows of `observations` with after < id <= up_to, by id."""
    names = ", ".join(ObservationColumns._fields)
    query = f"SELECT {names} FROM observations WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    return [ObservationColumns(*row) for row in connection.execute(query, (after, up_to, limit))]


def persons(connection: apsw.Connection, after: int) -> list[PersonColumns]:
    query = f"SELECT {', '.join(PersonColumns._fields)} FROM persons WHERE id > ? ORDER BY id"
    return [PersonColumns(*row) for row in connection.execute(query, (after,))]


def pending(connection: apsw.Connection) -> list[tuple[Any, ...]]:
    """(producer_id, epoch, seq, record, received_at) of amendments whose event has not come."""
    return connection.execute(
        "SELECT producer_id, epoch, seq, record, received_at FROM pending_amendments ORDER BY id"
    ).fetchall()
