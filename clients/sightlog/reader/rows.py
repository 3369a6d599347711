"""Rows of the database as records. Whoever calls holds the transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from sightlog.protocol.embedding import unpack
from sightlog.protocol.fields import FLAGS, TIMES
from sightlog.records import Detection, Event, Observation

ANY_OF: Final = "IN (SELECT value FROM json_each(?))"
"""Of any number of values, bound as one JSON text: SQLite binds 32,766 variables at most."""


class Connection(Protocol):
    """What is needed of an sqlite3.Connection whose rows are sqlite3.Row."""

    def execute(self, sql: str, parameters: Sequence[object] = ..., /) -> Any: ...
    def executemany(self, sql: str, parameters: Iterable[Sequence[object]], /) -> Any: ...


def events(connection: Connection, query: str, parameters: Sequence[object]) -> list[Event]:
    """The events of a query that gives all columns, with their detections and faces."""
    rows = connection.execute(query, parameters).fetchall()
    detections: dict[int, list[Detection]] = {row["id"]: [] for row in rows}
    ids = (json.dumps(list(detections)),)
    for event, label, confidence, x1, y1, x2, y2 in connection.execute(
        "SELECT event_id, label, confidence, bbox_x1, bbox_y1, bbox_x2, bbox_y2 FROM detections "
        f"WHERE event_id {ANY_OF} ORDER BY event_id, position",
        ids,
    ):
        detections[event].append(Detection(label, confidence, None if x1 is None else (x1, y1, x2, y2)))
    faces: dict[int, dict[str, Any]] = {}
    for event, blob, model, version in connection.execute(
        f"SELECT event_id, embedding, embedding_model, embedding_version FROM face_embeddings WHERE event_id {ANY_OF}",
        ids,
    ):
        faces[event] = {"embedding": unpack(blob), "embedding_model": model, "embedding_version": version}
    return [Event(detections=detections[row["id"]], **_fields(row), **faces.get(row["id"], {})) for row in rows]


def observations(connection: Connection, query: str, parameters: Sequence[object]) -> list[Observation]:
    """The observations of a query that gives all columns."""
    found = []
    for row in connection.execute(query, parameters):
        fields = _fields(row)
        if fields["embedding"] is not None:
            fields["embedding"] = unpack(fields["embedding"])
        found.append(Observation(**fields))
    return found


def _fields(row: Any) -> dict[str, Any]:
    fields = dict(row)
    for name in TIMES:
        fields[name] = datetime.fromisoformat(fields[name])
    for name in FLAGS:
        if fields.get(name) is not None:
            fields[name] = bool(fields[name])
    if fields["metadata"] is not None:
        fields["metadata"] = json.loads(fields["metadata"])
    return fields
