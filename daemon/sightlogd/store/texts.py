"""What hangs on events and observations: their entries in the index of texts, and faces. Inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apsw

from . import statements
from .columns import ObservationColumns

_INSERT_TEXT: Final = "INSERT INTO texts_index (rowid, site, origin, content) VALUES (?, ?, ?, ?)"
_OBSERVATION_ORIGIN: Final = "observation"


class Face(NamedTuple):
    """The embedding of an event's face."""

    embedding: bytes
    embedding_model: str | None
    embedding_version: str | None


def index_descriptions(connection: apsw.Connection, texts: Sequence[tuple[int, str, str, str]]) -> None:
    """(id, site, camera, description) of new events. The schema's triggers see to what changes or removes them."""
    if texts:
        connection.executemany(_INSERT_TEXT, texts)


def add_observation(connection: apsw.Connection, values: Sequence[Any], conflict: str = "") -> bool:
    """`values` of ObservationColumns; False when `conflict`, an ON CONFLICT clause, left it out.

    Raises apsw.ConstraintError, and has done nothing then.
    """
    connection.execute(f"{statements.OBSERVATIONS.one} {conflict}", values)
    if not connection.changes():
        return False
    row = ObservationColumns(*values)
    connection.execute(_INSERT_TEXT, (row.id, row.site, _OBSERVATION_ORIGIN, row.content))
    return True


def set_faces(connection: apsw.Connection, faces: Sequence[tuple[int, str, Face]]) -> None:
    """(id, site, face) of events."""
    if faces:
        connection.executemany(
            "INSERT OR REPLACE INTO face_embeddings (event_id, site, embedding, embedding_model, embedding_version) "
            "VALUES (?, ?, ?, ?, ?)",
            [(event, site, *face) for event, site, face in faces],
        )


def faces_of(connection: apsw.Connection, events: Sequence[int]) -> dict[int, Face]:
    """By events.id; those without a face are left out."""
    marks = ",".join("?" for _ in events)
    rows = connection.execute(
        "SELECT event_id, embedding, embedding_model, embedding_version FROM face_embeddings "
        f"WHERE event_id IN ({marks})",
        tuple(events),
    )
    return {event: Face(*face) for event, *face in rows}
