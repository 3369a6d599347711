"""What arrives, taken apart and checked: headers and records as typed structs. No I/O.

Nothing that a peer sends raises anything but `Malformed`; a record that breaks a rule becomes a `Refusal` in its place,
so that its neighbours go on.
"""

from __future__ import annotations

import math
import sys
from array import array
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sightlog.protocol.embedding import EMBEDDING_BYTES_MAX
from sightlog.protocol.ids import is_id, known_ids, known_names, remember
from sightlog.protocol.limits import (
    COORDINATE_MAX,
    DETECTIONS_MAX,
    FACE_DISTANCE_MAX,
    ID_CHARS_MAX,
    INFERENCE_MS_MAX,
    INFERENCE_NAMES_MAX,
    INFERENCE_SAMPLES_MAX,
    INTEGER_MAX,
    MESSAGE_BYTES_MAX,
    MESSAGE_IMAGES_MAX,
    MESSAGE_RECORDS_MAX,
    METADATA_KEYS_MAX,
    NAME_CHARS_MAX,
    NAME_WITHOUT,
    RECORD_BYTES_MAX,
    TEXT_CHARS_MAX,
)
from sightlog.protocol.messages import Position, SpoolReport
from sightlog.records import DoorAction
from sightlog.text import is_harmful, printable

WHOLE_BYTES_MAX = sys.maxsize
"""Of what is stored: many records may have made it, and the fields and the number of detections bound it."""
REASON_CHARS_MAX = 300
"""A reason quotes what was sent, which may be megabytes."""
BODY_BYTES_MAX = MESSAGE_BYTES_MAX + 8 * 1024
"""Of more than one record: those that the producer counts, and what an array of binaries adds."""

# Plain `float` would admit NaN and infinity: every number has bounds, and NaN is within none.
Fraction = Annotated[float, Meta(ge=0, le=1)]
Distance = Annotated[float, Meta(ge=0, le=FACE_DISTANCE_MAX)]
Coordinate = Annotated[float, Meta(ge=-COORDINATE_MAX, le=COORDINATE_MAX)]
Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Milliseconds = Annotated[float, Meta(ge=0, le=INFERENCE_MS_MAX)]
Samples = Annotated[list[Milliseconds], Meta(max_length=INFERENCE_SAMPLES_MAX)]
# Patterns cost 1.4 µs a record in msgspec; the checks below remember the ids that passed.
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Metadata = Annotated[dict[Name, str | int | float | bool], Meta(min_length=1, max_length=METADATA_KEYS_MAX)]
Embedding = Annotated[bytes, Meta(min_length=4, max_length=EMBEDDING_BYTES_MAX)]
Time = Annotated[str, Meta(min_length=24, max_length=24)]


def quoting(reason: str) -> str:
    """It is stored, logged and sent back: what it quotes must not act on who reads it."""
    return printable(reason[:REASON_CHARS_MAX])[:REASON_CHARS_MAX]


class Malformed(Exception):
    """A message that cannot be taken apart at all."""

    def __init__(self, reason: str) -> None:
        super().__init__(quoting(reason))


class Hello(Struct, tag_field="kind", tag="hello", frozen=True):
    protocol: int
    producer_id: Id
    name: Id
    epoch: Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
    first: tuple[Count, Annotated[int, Meta(ge=1, le=INTEGER_MAX)]]


class Records(Struct, tag_field="kind", tag="records", frozen=True):
    first: tuple[Count, Annotated[int, Meta(ge=1, le=INTEGER_MAX - MESSAGE_RECORDS_MAX)]]
    flush: bool = False
    images: Annotated[list[Count], Meta(max_length=MESSAGE_IMAGES_MAX)] = []


class Ping(Struct, tag_field="kind", tag="ping", frozen=True):
    spooled_records: Count = 0
    spooled_bytes: Count = 0
    flush: bool = False


class Telemetry(Struct, tag_field="kind", tag="telemetry", frozen=True):
    """See `sightlog.protocol.messages.SpoolReport` for the first fields. Counters are totals of the session that `last`
    is of."""

    last: tuple[Annotated[int, Meta(ge=1, le=INTEGER_MAX)], Count]
    acked: tuple[Count, Count]
    published: Count
    lost: Count = 0
    spooled_records: Count = 0
    spooled_bytes: Count = 0
    frames_processed: Count = 0
    motion_detected: Count = 0
    events_created: Count = 0
    events_suppressed: Count = 0
    inference_ms: Annotated[dict[Id, Samples], Meta(max_length=INFERENCE_NAMES_MAX)] = {}

    @property
    def report(self) -> SpoolReport:
        return SpoolReport(
            Position(*self.last), Position(*self.acked), self.published, self.lost, self.spooled_records,
            self.spooled_bytes,
        )  # fmt: skip


class DetectionRecord(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    label: Name
    confidence: Fraction
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None


Detections = Annotated[list[DetectionRecord], Meta(max_length=DETECTIONS_MAX)]

# <made by make fields: structs>


class EventRecord(Struct, tag_field="kind", tag="event", frozen=True, forbid_unknown_fields=True, gc=False):
    event_id: Id
    site: Id
    camera_id: Id
    recorded_at: Time
    event_type: Id
    detections: Detections = []
    recording_id: Id | None = None
    motion_confidence: Fraction | None = None
    person_name: Name | None = None
    face_confidence: Fraction | None = None
    face_distance: Distance | None = None
    unlock_granted: bool | None = None
    door_action: DoorAction | None = None
    image_path: Name | None = None
    llm_description: Text | None = None
    alert_sent: bool = False
    metadata: Metadata | None = None
    embedding: Embedding | None = None
    embedding_model: Name | None = None
    embedding_version: Name | None = None


class AmendmentRecord(Struct, tag_field="kind", tag="amendment", frozen=True, forbid_unknown_fields=True, gc=False):
    event_id: Id
    site: Id
    detections: Detections = []
    recording_id: Id | None = None
    motion_confidence: Fraction | None = None
    person_name: Name | None = None
    face_confidence: Fraction | None = None
    face_distance: Distance | None = None
    unlock_granted: bool | None = None
    door_action: DoorAction | None = None
    image_path: Name | None = None
    llm_description: Text | None = None
    alert_sent: bool | None = None
    metadata: Metadata | None = None
    embedding: Embedding | None = None
    embedding_model: Name | None = None
    embedding_version: Name | None = None


class PersonRecord(Struct, tag_field="kind", tag="person", frozen=True, forbid_unknown_fields=True, gc=False):
    site: Id
    name: Name
    display_name: Name | None = None


class ObservationRecord(Struct, tag_field="kind", tag="observation", frozen=True, forbid_unknown_fields=True, gc=False):
    observation_id: Id
    site: Id
    recorded_at: Time
    content: Text
    source: Name
    event_id: Id | None = None
    embedding: Embedding | None = None
    embedding_model: Name | None = None
    embedding_version: Name | None = None
    metadata: Metadata | None = None


# </made>


class RefusedRecord(Struct, tag_field="kind", tag="refused", frozen=True, forbid_unknown_fields=True, gc=False):
    """Stands for a record that its producer has and can never send."""

    reason: Annotated[str, Meta(min_length=1, max_length=REASON_CHARS_MAX)]


class _Sited(Struct, frozen=True):
    site: Id


class Refusal(Struct, frozen=True):
    """Stands in the place of a record that was refused."""

    reason: str


Decoded = EventRecord | AmendmentRecord | PersonRecord | ObservationRecord | Refusal

_header = msgspec.msgpack.Decoder(Hello | Records | Ping | Telemetry)
_body = msgspec.msgpack.Decoder(list[bytes])
_sited = msgspec.msgpack.Decoder(_Sited)
_record = msgspec.msgpack.Decoder(EventRecord | AmendmentRecord | PersonRecord | ObservationRecord | RefusedRecord)
DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError)
"""What msgspec raises for bytes that are not what they should be: a text that is not UTF-8 is no MsgspecError."""


def decode_header(frame: bytes) -> Hello | Records | Ping | Telemetry:
    """Raises Malformed."""
    try:
        header: Hello | Records | Ping | Telemetry = _header.decode(frame)
    except DECODE_ERRORS as error:
        raise Malformed(f"header: {error}") from None
    if isinstance(header, Hello):
        reason = _check_id("producer_id", header.producer_id) or _check_id("name", header.name)
        if reason:
            raise Malformed(f"hello: {reason}")
    elif isinstance(header, Telemetry):
        for name in header.inference_ms:
            if reason := _check_id("inference_ms", name):
                raise Malformed(f"telemetry: {reason}")
    return header


def decode_body(frame: bytes) -> list[bytes]:
    """The binaries of a records message, one a record. Raises Malformed."""
    try:
        packed = _body.decode(frame)
    except DECODE_ERRORS as error:
        raise Malformed(f"body: {error}") from None
    if not 0 < len(packed) <= MESSAGE_RECORDS_MAX:
        raise Malformed(f"body: {len(packed)} records; expected 1 to {MESSAGE_RECORDS_MAX}")
    if len(packed) > 1 and len(frame) > BODY_BYTES_MAX:
        raise Malformed(f"body: {len(packed)} records take {len(frame)} bytes; at most {MESSAGE_BYTES_MAX}")
    return packed


def _check_id(field: str, value: str) -> str | None:
    if not is_id(value):
        return f"{field}: expected characters of A-Z a-z 0-9 _ . : - not beginning with . : -"
    return None


def _check_known_id(field: str, value: str) -> str | None:
    reason = _check_id(field, value)
    if reason is None:
        remember(known_ids, value)
    return reason


def _check_name(field: str, value: str | None) -> str | None:
    return f"{field}: expected {NAME_WITHOUT}" if value is not None and is_harmful(value) else None


def _check_label(label: str) -> str | None:
    if is_harmful(label):
        return f"label: expected {NAME_WITHOUT}"
    remember(known_names, label)
    return None


def _check_metadata(metadata: dict[str, str | int | float | bool]) -> str | None:
    for key, value in metadata.items():
        if is_harmful(key):
            return f"metadata: expected keys with {NAME_WITHOUT}"
        if isinstance(value, str):
            if not 0 < len(value) <= NAME_CHARS_MAX or is_harmful(value):
                return f"metadata {key!r}: expected 1 to {NAME_CHARS_MAX} characters, {NAME_WITHOUT}"
        elif not -INTEGER_MAX <= value <= INTEGER_MAX and not (isinstance(value, float) and math.isfinite(value)):
            return f"metadata {key!r}: expected a finite number of at most 64 bits"
    return None


def _check_embedding(r: EventRecord | AmendmentRecord | ObservationRecord) -> str | None:
    if r.embedding is None and r.embedding_model is None and r.embedding_version is None:
        return None
    if r.embedding is None:
        return "embedding_model and embedding_version: there is no embedding"
    if len(r.embedding) % 4 or not all(map(math.isfinite, array("f", r.embedding))):
        return "embedding: expected finite numbers, each as 4 bytes of float32"
    return _check_name("embedding_model", r.embedding_model) or _check_name("embedding_version", r.embedding_version)


# <made by make fields: checks>


def _check_event(r: EventRecord) -> str | None:
    if not (is_id(r.event_id) and r.site in known_ids and r.camera_id in known_ids and r.event_type in known_ids) and (
        reason := _check_id("event_id", r.event_id)
        or _check_known_id("site", r.site)
        or _check_known_id("camera_id", r.camera_id)
        or _check_known_id("event_type", r.event_type)
    ):
        return reason
    if reason := check_time("recorded_at", r.recorded_at):
        return reason
    for detection in r.detections:
        if detection.label not in known_names and (reason := _check_label(detection.label)):
            return reason
    if r.recording_id is not None and (reason := _check_id("recording_id", r.recording_id)):
        return reason
    if r.person_name is not None and (reason := _check_name("person_name", r.person_name)):
        return reason
    if r.image_path is not None and (reason := _check_name("image_path", r.image_path)):
        return reason
    if r.llm_description is not None and "\0" in r.llm_description:
        return "llm_description: NUL"
    if r.metadata is not None and (reason := _check_metadata(r.metadata)):
        return reason
    if r.embedding is not None or r.embedding_model is not None or r.embedding_version is not None:
        return _check_embedding(r)
    return None


def _check_amendment(r: AmendmentRecord) -> str | None:
    if r == AmendmentRecord(r.event_id, r.site):
        return "the amendment changes nothing"
    if not (is_id(r.event_id) and r.site in known_ids) and (
        reason := _check_id("event_id", r.event_id) or _check_known_id("site", r.site)
    ):
        return reason
    for detection in r.detections:
        if detection.label not in known_names and (reason := _check_label(detection.label)):
            return reason
    if r.recording_id is not None and (reason := _check_id("recording_id", r.recording_id)):
        return reason
    if r.person_name is not None and (reason := _check_name("person_name", r.person_name)):
        return reason
    if r.image_path is not None and (reason := _check_name("image_path", r.image_path)):
        return reason
    if r.llm_description is not None and "\0" in r.llm_description:
        return "llm_description: NUL"
    if r.metadata is not None and (reason := _check_metadata(r.metadata)):
        return reason
    if r.embedding is not None or r.embedding_model is not None or r.embedding_version is not None:
        return _check_embedding(r)
    return None


def _check_person(r: PersonRecord) -> str | None:
    if r.site not in known_ids and (reason := _check_known_id("site", r.site)):
        return reason
    if reason := _check_name("name", r.name):
        return reason
    if r.display_name is not None and (reason := _check_name("display_name", r.display_name)):
        return reason
    return None


def _check_observation(r: ObservationRecord) -> str | None:
    if not (is_id(r.observation_id) and r.site in known_ids) and (
        reason := _check_id("observation_id", r.observation_id) or _check_known_id("site", r.site)
    ):
        return reason
    if reason := check_time("recorded_at", r.recorded_at):
        return reason
    if "\0" in r.content:
        return "content: NUL"
    if reason := _check_name("source", r.source):
        return reason
    if r.event_id is not None and (reason := _check_id("event_id", r.event_id)):
        return reason
    if r.metadata is not None and (reason := _check_metadata(r.metadata)):
        return reason
    if r.embedding is not None or r.embedding_model is not None or r.embedding_version is not None:
        return _check_embedding(r)
    return None


# </made>


def _check_refused(r: RefusedRecord) -> str | None:
    return _check_name("reason", r.reason) or r.reason


def check_time(field: str, value: str) -> str | None:
    # fromisoformat takes many shapes; with these characters in place it can only mean the one that sorts as text.
    if value[10] == "T" and value[19] == "." and value[23] == "Z" and value[4] == value[7] == "-" and value.isascii():
        try:
            datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return None
    return f"{field}: expected UTC as 2026-11-20T10:00:00.000Z, got {value!r}"


def site_of(packed: bytes) -> str | None:
    """Of a record that need not be right in anything else; None when it cannot be told."""
    try:
        site: str = _sited.decode(packed).site
    except DECODE_ERRORS:
        return None
    return site if is_id(site) else None


_CHECKS: dict[type, Any] = {
    AmendmentRecord: _check_amendment,
    PersonRecord: _check_person,
    ObservationRecord: _check_observation,
    RefusedRecord: _check_refused,
}


def decode_record(packed: bytes, bytes_max: int = RECORD_BYTES_MAX) -> Decoded:
    """One record, or the refusal that says what is wrong with it."""
    if len(packed) > bytes_max:
        return Refusal(f"the record takes {len(packed)} bytes; at most {bytes_max}")
    try:
        record = _record.decode(packed)
    except DECODE_ERRORS as error:
        return Refusal(quoting(f"{error}"))
    reason = _check_event(record) if type(record) is EventRecord else _CHECKS[type(record)](record)
    return record if reason is None else Refusal(quoting(reason))
