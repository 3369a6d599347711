"""Rows of the database, as they are written and read back: their columns by name. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sightlogd.protocol.decoder import EventRecord, ObservationRecord


def json_text(metadata: Mapping[str, Any]) -> str:
    return msgspec.json.encode(metadata).decode()


# <made by make fields: columns>


class EventColumns(NamedTuple):
    """A row of `events`; times and metadata are text. The id 0: it gets one."""

    id: int
    event_id: str
    site: str
    camera_id: str
    recorded_at: str
    event_type: str
    recording_id: str | None
    motion_confidence: float | None
    person_name: str | None
    face_confidence: float | None
    face_distance: float | None
    unlock_granted: bool | None
    door_action: str | None
    thumbnail_path: str | None
    image_path: str | None
    llm_description: str | None
    alert_sent: bool
    created_at: str
    metadata: str | None


class ObservationColumns(NamedTuple):
    """A row of `observations`; times and metadata are text. The id 0: it gets one."""

    id: int
    observation_id: str
    site: str
    recorded_at: str
    event_id: str | None
    content: str
    source: str
    embedding: bytes | None
    embedding_model: str | None
    embedding_version: str | None
    metadata: str | None
    created_at: str


class PersonColumns(NamedTuple):
    """A row of `persons`; times and metadata are text. The id 0: it gets one."""

    id: int
    site: str
    name: str
    display_name: str | None
    created_at: str


def event_row(r: EventRecord, row_id: int, thumbnail_path: str | None, now: str) -> tuple[Any, ...]:
    """The values of `EventColumns`. A plain tuple: a batch has a thousand of them."""
    return (
        row_id,
        r.event_id,
        r.site,
        r.camera_id,
        r.recorded_at,
        r.event_type,
        r.recording_id,
        r.motion_confidence,
        r.person_name,
        r.face_confidence,
        r.face_distance,
        r.unlock_granted,
        r.door_action,
        thumbnail_path,
        r.image_path,
        r.llm_description,
        r.alert_sent,
        now,
        json_text(r.metadata) if r.metadata else None,
    )


def observation_row(r: ObservationRecord, row_id: int, now: str) -> tuple[Any, ...]:
    """The values of `ObservationColumns`. A plain tuple: a batch has a thousand of them."""
    return (
        row_id,
        r.observation_id,
        r.site,
        r.recorded_at,
        r.event_id,
        r.content,
        r.source,
        r.embedding,
        r.embedding_model,
        r.embedding_version,
        json_text(r.metadata) if r.metadata else None,
        now,
    )


# </made>
