"""What a transaction changed, for those who write it down a second time: the day logs. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sightlogd.calendar import DayRange
from sightlogd.protocol.decoder import AmendmentRecord, EventRecord, ObservationRecord, PersonRecord


class EventsStored(NamedTuple):
    """All events of a transaction."""

    ids: Sequence[int]
    records: Sequence[EventRecord]
    thumbnails: Mapping[int, str]
    """Paths, by id."""
    at: str
    """The daemon's clock."""


class Subject(NamedTuple):
    """The event that a change is about."""

    id: int
    event_id: str
    site: str
    camera_id: str
    event_type: str
    recorded_at: str


class EventAmended(NamedTuple):
    subject: Subject
    amendment: AmendmentRecord
    at: str
    """The daemon's clock."""


class ThumbnailSet(NamedTuple):
    subject: Subject
    path: str
    at: str


class AmendmentKept(NamedTuple):
    """Its event has not come yet."""

    producer_id: str
    epoch: int
    seq: int
    amendment: AmendmentRecord
    at: str


class PersonStored(NamedTuple):
    id: int
    person: PersonRecord
    at: str


class ObservationStored(NamedTuple):
    id: int
    observation: ObservationRecord
    at: str


RecordChange = EventAmended | ThumbnailSet | AmendmentKept | PersonStored | ObservationStored
"""One at a time, behind the new events of its transaction."""
Change = EventsStored | RecordChange | DayRange
"""A day's range that is new, or has grown, is in front of what is of that day."""
Changes = Sequence[Change]
