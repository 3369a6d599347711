"""What arrives, taken apart and checked: headers and records as typed structs. No I/O.

Nothing that a peer sends raises anything but `Malformed`; a record that breaks a rule becomes a `Refusal` in its place,
so that its neighbours go on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from sightlog.records import (
    COORDINATE_MAX,
    DETECTIONS_MAX,
    FACE_DISTANCE_MAX,
    ID_CHARS_MAX,
    ID_PATTERN,
    INTEGER_MAX,
    NAME_CHARS_MAX,
    TEXT_CHARS_MAX,
)
from sightlog.wire import FRAMES_MAX, MESSAGE_RECORDS_MAX, RECORD_BYTES_MAX

KNOWN_IDS_MAX = 10_000
"""Sites, cameras, event types and labels that passed their check, remembered: they repeat, event ids do not."""

# Plain `float` would admit NaN and infinity: every number has bounds, and NaN is within none.
Fraction = Annotated[float, Meta(ge=0, le=1)]
Distance = Annotated[float, Meta(ge=0, le=FACE_DISTANCE_MAX)]
Coordinate = Annotated[float, Meta(ge=-COORDINATE_MAX, le=COORDINATE_MAX)]
Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
# Patterns cost 1.4 µs a record in msgspec; `_Checker` knows the ids it has seen.
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Moment = Annotated[str, Meta(min_length=24, max_length=24)]


class Malformed(Exception):
    """A message that cannot be taken apart at all."""


class Hello(Struct, tag_field="kind", tag="hello", frozen=True):
    protocol: int
    producer_id: Id
    name: Id
    epoch: Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
    first: tuple[Count, Annotated[int, Meta(ge=1, le=INTEGER_MAX)]]


class Records(Struct, tag_field="kind", tag="records", frozen=True):
    first: tuple[Count, Annotated[int, Meta(ge=1, le=INTEGER_MAX - MESSAGE_RECORDS_MAX)]]
    flush: bool = False
    images: Annotated[list[Count], Meta(max_length=FRAMES_MAX)] = []


class Ping(Struct, tag_field="kind", tag="ping", frozen=True):
    spooled_records: Count = 0
    spooled_bytes: Count = 0
    flush: bool = False


class DetectionRecord(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    label: Name
    confidence: Fraction
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None


class EventRecord(Struct, tag_field="kind", tag="event", frozen=True, forbid_unknown_fields=True, gc=False):
    event_id: Id
    site: Id
    camera_id: Id
    recorded_at: Moment
    event_type: Id
    detections: Annotated[list[DetectionRecord], Meta(max_length=DETECTIONS_MAX)] = []
    recording_id: Id | None = None
    motion_confidence: Fraction | None = None
    person_name: Name | None = None
    face_confidence: Fraction | None = None
    face_distance: Distance | None = None
    unlock_granted: bool | None = None
    door_action: Literal["unlocked", "locked", "none"] | None = None
    image_path: Name | None = None
    llm_description: Text | None = None
    alert_sent: bool = False


class AmendmentRecord(Struct, tag_field="kind", tag="amendment", frozen=True, forbid_unknown_fields=True, gc=False):
    event_id: Id
    site: Id
    detections: Annotated[list[DetectionRecord], Meta(max_length=DETECTIONS_MAX)] = []
    recording_id: Id | None = None
    motion_confidence: Fraction | None = None
    person_name: Name | None = None
    face_confidence: Fraction | None = None
    face_distance: Distance | None = None
    unlock_granted: bool | None = None
    door_action: Literal["unlocked", "locked", "none"] | None = None
    image_path: Name | None = None
    llm_description: Text | None = None
    alert_sent: bool | None = None


class PersonRecord(Struct, tag_field="kind", tag="person", frozen=True, forbid_unknown_fields=True, gc=False):
    site: Id
    name: Name
    display_name: Name | None = None


class Refusal(Struct, frozen=True):
    """Stands in the place of a record that was refused."""

    reason: str


Decoded = EventRecord | AmendmentRecord | PersonRecord | Refusal

_header = msgspec.msgpack.Decoder(Hello | Records | Ping)
_body = msgspec.msgpack.Decoder(list[bytes])
_record = msgspec.msgpack.Decoder(EventRecord | AmendmentRecord | PersonRecord)
_DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError)


def decode_header(frame: bytes) -> Hello | Records | Ping:
    """Raises Malformed."""
    try:
        header: Hello | Records | Ping = _header.decode(frame)
    except _DECODE_ERRORS as error:
        raise Malformed(f"header: {error}") from None
    return header


def decode_body(frame: bytes) -> list[bytes]:
    """The binaries of a records message, one a record. Raises Malformed."""
    try:
        packed = _body.decode(frame)
    except _DECODE_ERRORS as error:
        raise Malformed(f"body: {error}") from None
    if not 0 < len(packed) <= MESSAGE_RECORDS_MAX:
        raise Malformed(f"body: {len(packed)} records; expected 1 to {MESSAGE_RECORDS_MAX}")
    return packed


class _Checker:
    """The rules that msgspec does not check: characters of ids and names, and that a time is one."""

    def __init__(self) -> None:
        self._is_id = re.compile(ID_PATTERN).fullmatch
        self._has_control = re.compile(r"[\x00-\x1f\x7f]").search
        self._ids: set[str] = set()
        self._labels: set[str] = set()

    def _id(self, field: str, value: str) -> str | None:
        if value in self._ids:
            return None
        if not self._is_id(value):
            return f"{field}: expected characters of A-Z a-z 0-9 _ . : - not beginning with . : -"
        if len(self._ids) >= KNOWN_IDS_MAX:
            self._ids.clear()
        self._ids.add(value)
        return None

    def _name(self, field: str, value: str | None) -> str | None:
        return f"{field}: control characters" if value is not None and self._has_control(value) else None

    def _labels_of(self, detections: Sequence[DetectionRecord]) -> str | None:
        for detection in detections:
            if detection.label not in self._labels:
                if self._has_control(detection.label):
                    return "label: control characters"
                if len(self._labels) >= KNOWN_IDS_MAX:
                    self._labels.clear()
                self._labels.add(detection.label)
        return None

    def _later(self, record: EventRecord | AmendmentRecord) -> str | None:
        """The optional fields that an event and an amendment share."""
        if record.llm_description is not None and "\0" in record.llm_description:
            return "llm_description: NUL"
        return (
            (self._id("recording_id", record.recording_id) if record.recording_id is not None else None)
            or self._name("person_name", record.person_name)
            or self._name("image_path", record.image_path)
            or (self._labels_of(record.detections) if record.detections else None)
        )

    def event(self, record: EventRecord) -> str | None:
        if not self._is_id(record.event_id):
            return "event_id: expected characters of A-Z a-z 0-9 _ . : - not beginning with . : -"
        return (
            self._id("site", record.site)
            or self._id("camera_id", record.camera_id)
            or self._id("event_type", record.event_type)
            or _time("recorded_at", record.recorded_at)
            or self._later(record)
        )

    def amendment(self, record: AmendmentRecord) -> str | None:
        if not self._is_id(record.event_id):
            return "event_id: expected characters of A-Z a-z 0-9 _ . : - not beginning with . : -"
        return self._id("site", record.site) or self._later(record)

    def person(self, record: PersonRecord) -> str | None:
        return (
            self._id("site", record.site)
            or self._name("name", record.name)
            or self._name("display_name", record.display_name)
        )


def _time(field: str, value: str) -> str | None:
    # fromisoformat takes many shapes; with these characters in place it can only mean the one that sorts as text.
    if value[10] == "T" and value[19] == "." and value[23] == "Z" and value[4] == value[7] == "-" and value.isascii():
        try:
            datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return None
    return f"{field}: expected UTC as 2026-11-20T10:00:00.000Z, got {value!r}"


_checker = _Checker()
_CHECKS: dict[type, Any] = {
    EventRecord: _checker.event,
    AmendmentRecord: _checker.amendment,
    PersonRecord: _checker.person,
}


def decode_record(packed: bytes) -> Decoded:
    """One record, or the refusal that says what is wrong with it."""
    if len(packed) > RECORD_BYTES_MAX:
        return Refusal(f"the record takes {len(packed)} bytes; at most {RECORD_BYTES_MAX}")
    try:
        record = _record.decode(packed)
    except _DECODE_ERRORS as error:
        return Refusal(f"{error}")
    reason = _CHECKS[type(record)](record)
    return record if reason is None else Refusal(reason)
