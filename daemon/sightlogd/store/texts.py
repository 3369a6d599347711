"""What hangs on events and observations: their entries in the index of texts, and faces. Inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apsw

_INSERT_TEXT: Final = "INSERT INTO texts_index (rowid, site, origin, content) VALUES (?, ?, ?, ?)"
_OBSERVATION_ORIGIN: Final = "observation"

_INSERT_OBSERVATION: Final = f"INSERT INTO observations VALUES ({', '.join('?' * 12)})"


class Face(NamedTuple):
    """The embedding of an event's face."""

    embedding: bytes
    model: str | None
    version: str | None


def index_descriptions(connection: apsw.Connection, texts: Sequence[tuple[int, str, str, str]]) -> None:
    """(id, site, camera, description) of new events. The schema's triggers see to what changes or removes them."""
    if texts:
        connection.executemany(_INSERT_TEXT, texts)


def add_observation(connection: apsw.Connection, row: Sequence[Any], conflict: str = "") -> bool:
    """The columns of `observations` in their order; False when `conflict`, an ON CONFLICT clause, left it out.

    Raises apsw.ConstraintError, and has done nothing then.
    """
    connection.execute(f"{_INSERT_OBSERVATION} {conflict}", row)
    if not connection.changes():
        return False
    connection.execute(_INSERT_TEXT, (row[0], row[2], _OBSERVATION_ORIGIN, row[5]))
    return True


def set_faces(connection: apsw.Connection, faces: Sequence[tuple[int, str, Face]]) -> None:
    """(id, site, face) of events."""
    if faces:
        connection.executemany(
            "INSERT OR REPLACE INTO face_embeddings VALUES (?, ?, ?, ?, ?)",
            [(event, site, *face) for event, site, face in faces],
        )


def faces_of(connection: apsw.Connection, events: Sequence[int]) -> dict[int, Face]:
    """By events.id; those without a face are left out."""
    marks = ",".join("?" * len(events))
    rows = connection.execute(
        "SELECT event_id, embedding, embedding_model, embedding_version FROM face_embeddings "
        f"WHERE event_id IN ({marks})",
        tuple(events),
    )
    return {event: Face(*face) for event, *face in rows}
