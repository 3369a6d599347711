"""Databases with the rows a test wants, made without a daemon."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Any

import apsw

from sightlog import Event, Observation
from sightlog.protocol import fields
from sightlog.protocol.encoding import format_time
from sightlogd.calendar import Days
from sightlogd.store.opening import create
from sightlogd.store.ranges import Ranges

STORED_AT = "2026-11-20T12:00:00.000Z"
_EVENT = tuple(field.name for field in fields.EVENT if field.stored == "column" and not field.by_daemon)
_OBSERVATION = tuple(field.name for field in fields.OBSERVATION if not field.by_daemon)


def write(
    path: Path, events: Sequence[Event] = (), observations: Sequence[Observation] = (), zone: tzinfo | None = None
) -> Path:
    """Makes the database at `path`. Rows get their `id` in this order, from 1: events, then observations.

    `zone` is the daemon's, None: the system's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    create(path, lambda: STORED_AT)
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN")
    for key, event in enumerate(events, 1):
        _insert(connection, "events", {"id": key, "created_at": STORED_AT, **_columns(event, _EVENT)})
        for position, detection in enumerate(event.detections):
            row = (key, position, detection.label, detection.confidence, *(detection.bbox or (None,) * 4))
            _insert(connection, "detections", dict(zip(fields.DETECTION_COLUMNS, row, strict=True)))
        if event.embedding is not None:
            names = ("site", "embedding", "embedding_model", "embedding_version")
            _insert(connection, "face_embeddings", {"event_id": key, **_columns(event, names)})
    for key, observation in enumerate(observations, len(events) + 1):
        _insert(connection, "observations", {"id": key, "created_at": STORED_AT, **_columns(observation, _OBSERVATION)})
    # What the daemon adds where it stores.
    execute = connection.execute
    execute("INSERT INTO cameras SELECT DISTINCT site, camera_id, ? FROM events", (STORED_AT,))
    if events or observations:
        execute("INSERT INTO clock_days VALUES (?, 1)", (STORED_AT[:10],))
    Ranges(connection, Days(zone)).cover([format_time(record.recorded_at) for record in (*events, *observations)])
    execute("COMMIT")
    connection.execute("INSERT INTO texts_index (texts_index) VALUES ('rebuild')")
    connection.close()
    return path


def _columns(record: Event | Observation, names: Sequence[str]) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in names}
    values["recorded_at"] = format_time(record.recorded_at)
    if values.get("metadata") is not None:
        values["metadata"] = json.dumps(values["metadata"])
    if values.get("embedding") is not None:
        numbers = array("f", values["embedding"])
        if sys.byteorder == "big":
            numbers.byteswap()
        values["embedding"] = numbers.tobytes()
    return {name: value for name, value in values.items() if name in names}


def _insert(connection: apsw.Connection, table: str, values: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
