"""Lines of events.json: what they hold, as typed structs, and how they add up to an event. No I/O.

The first line, of kind `day`, is the range of time that the day has; where that has grown, there is another one further
down, and the last of them holds. A line of kind `event` is an event as it was at that moment, and replaces what an
earlier line said of it. `amendment` adds to the event. `person` makes a person known. `observation` is one. Embeddings
are float32 in base64. `stored` is false in a line that was written while the database could not be: its producer still
has the record. `waiting` is true in an amendment whose event has not come. What is not in a line has its default: null,
or an empty list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from sightlog.protocol.fields import AMENDABLE, FLAGS
from sightlog.text import json_safe
from sightlogd.calendar import BEGINNING, END, DayRange
from sightlogd.protocol.decoder import (
    DECODE_ERRORS,
    WHOLE_BYTES_MAX,
    AmendmentRecord,
    DetectionRecord,
    EventRecord,
    ObservationRecord,
    PersonRecord,
    Refusal,
    check_time,
    decode_record,
)
from sightlogd.store.columns import EventColumns, ObservationColumns, json_text
from sightlogd.store.log_marks import EventRow
from sightlogd.store.texts import Face
from sightlogd.store.written import (
    AmendmentKept,
    EventAmended,
    ObservationStored,
    PersonStored,
    RecordChange,
    ThumbnailSet,
)

from .days import is_day

Metadata = dict[str, str | int | float | bool]


class Box(Struct, frozen=True, omit_defaults=True, gc=False):
    label: str
    confidence: float
    bbox: tuple[float, float, float, float] | None = None


# <made by make fields: lines>


class EventLine(Struct, tag_field="kind", tag="event", frozen=True, omit_defaults=True, gc=False):
    """The columns of `events` in their order, the detections, and the face."""

    id: int | None
    event_id: str
    site: str
    camera_id: str
    recorded_at: str
    event_type: str
    recording_id: str | None = None
    motion_confidence: float | None = None
    person_name: str | None = None
    face_confidence: float | None = None
    face_distance: float | None = None
    unlock_granted: bool | None = None
    door_action: str | None = None
    thumbnail_path: str | None = None
    image_path: str | None = None
    llm_description: str | None = None
    alert_sent: bool = False
    created_at: str | None = None
    metadata: Metadata | None = None
    detections: list[Box] = []
    embedding: bytes | None = None
    embedding_model: str | None = None
    embedding_version: str | None = None
    stored: bool = True


class AmendmentLine(Struct, tag_field="kind", tag="amendment", frozen=True, omit_defaults=True, gc=False):
    """`camera_id` and so on are the event's, where it has come."""

    at: str
    event_id: str
    site: str
    camera_id: str | None = None
    recorded_at: str | None = None
    event_type: str | None = None
    recording_id: str | None = None
    motion_confidence: float | None = None
    person_name: str | None = None
    face_confidence: float | None = None
    face_distance: float | None = None
    unlock_granted: bool | None = None
    door_action: str | None = None
    thumbnail_path: str | None = None
    image_path: str | None = None
    llm_description: str | None = None
    alert_sent: bool | None = None
    metadata: Metadata | None = None
    detections: list[Box] = []
    embedding: bytes | None = None
    embedding_model: str | None = None
    embedding_version: str | None = None
    waiting: bool = False
    producer_id: str | None = None
    epoch: int | None = None
    seq: int | None = None
    stored: bool = True


class PersonLine(Struct, tag_field="kind", tag="person", frozen=True, omit_defaults=True, gc=False):
    id: int | None
    site: str
    name: str
    display_name: str | None
    created_at: str
    stored: bool = True


class ObservationLine(Struct, tag_field="kind", tag="observation", frozen=True, omit_defaults=True, gc=False):
    """The columns of `observations` in their order."""

    id: int | None
    observation_id: str
    site: str
    recorded_at: str
    event_id: str | None = None
    content: str = ""
    source: str = ""
    embedding: bytes | None = None
    embedding_model: str | None = None
    embedding_version: str | None = None
    metadata: Metadata | None = None
    created_at: str | None = None
    stored: bool = True


# </made>


class DayLine(Struct, tag_field="kind", tag="day", frozen=True, omit_defaults=True, gc=False):
    """A `DayRange`, which is in the table `days` too."""

    day: str
    first: str
    after: str
    zone: str = ""

    @property
    def range(self) -> DayRange:
        return DayRange(self.day, self.first, self.after, self.zone)


RecordLine = EventLine | AmendmentLine | PersonLine | ObservationLine
Line = RecordLine | DayLine

MOMENT_CHARS = 24
"""2026-11-20T10:00:00.000Z"""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def encode_lines(lines: Sequence[Line]) -> bytes:
    """Each with its newline. Somebody will look at them on a terminal: they have nothing that acts on it."""
    encoded = _encoder.encode_lines(lines)
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return json_safe(encoded.decode()).encode()


def decode_line(line: bytes) -> Line:
    """Raises msgspec.MsgspecError for what is not a line of events.json."""
    try:
        decoded: Line = _decoder.decode(line)
    except DECODE_ERRORS as error:
        raise msgspec.DecodeError(str(error)) from error
    if isinstance(decoded, DayLine) and not is_day(decoded.day):
        raise msgspec.ValidationError(f"{decoded.day!r:.80} is no day")
    for moment in _moments(decoded):
        # A bit that flipped: whoever asks which day that is would stumble.
        if len(moment) != MOMENT_CHARS or check_time("", moment):
            raise msgspec.ValidationError(f"{moment!r:.80} is no time")
    return decoded


def _moments(line: Line) -> tuple[str, ...]:
    if isinstance(line, DayLine):
        return tuple(moment for moment in (line.first, line.after) if moment not in (BEGINNING, END))
    if isinstance(line, AmendmentLine):
        return (line.at,) if line.recorded_at is None else (line.at, line.recorded_at)
    return (line.created_at if isinstance(line, PersonLine) else line.recorded_at,)


def fault_of(line: EventLine | ObservationLine) -> str | None:
    """Which rule of records it breaks; None for none. A card may have flipped a bit in it; a rebuild leaves it out."""
    at = line.created_at
    if at is not None and (len(at) != MOMENT_CHARS or check_time("created_at", at)):
        return f"created_at: {at!r:.80} is no time"
    record = EventRecord if isinstance(line, EventLine) else ObservationRecord
    fields = {field: value for field in record.__struct_fields__ if (value := getattr(line, field)) is not None}
    if isinstance(line, EventLine):
        fields["detections"] = [(box.label, box.confidence, box.bbox) for box in line.detections]
    packed = msgspec.msgpack.encode({"kind": record.__struct_config__.tag, **fields})
    decoded = decode_record(packed, WHOLE_BYTES_MAX)
    return decoded.reason if isinstance(decoded, Refusal) else None


def boxes(detections: Sequence[DetectionRecord]) -> list[Box]:
    return [Box(d.label, d.confidence, d.bbox) for d in detections]


# <made by make fields: event_line>


def event_line(r: EventRecord, row_id: int, thumbnail_path: str | None, now: str) -> EventLine:
    """Of an event that was stored."""
    found = [Box(d.label, d.confidence, d.bbox) for d in r.detections]
    return EventLine(
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
        r.metadata,
        found,
        r.embedding,
        r.embedding_model,
        r.embedding_version,
    )


# </made>


# -- rows ------------------------------------------------------------------------------------------------------------


def line_of_row(row: EventRow) -> EventLine:
    columns = row.columns._asdict()
    for name in FLAGS:
        columns[name] = None if columns[name] is None else bool(columns[name])
    columns["metadata"] = json.loads(columns["metadata"]) if columns["metadata"] else None
    face = row.face._asdict() if row.face else {}
    return EventLine(**columns, detections=[Box(*detection) for detection in row.detections], **face)


def line_of_observation(row: ObservationColumns) -> ObservationLine:
    columns = row._asdict()
    columns["metadata"] = json.loads(columns["metadata"]) if columns["metadata"] else None
    return ObservationLine(**columns)


def row_of(event: EventLine, row_id: int, now: str) -> EventRow:
    """The row that a line tells, for a new database; `now` where it does not tell when it was stored."""
    columns = {name: getattr(event, name) for name in EventColumns._fields}
    columns |= {
        "id": row_id,
        "created_at": event.created_at or now,
        "metadata": json_text(event.metadata) if event.metadata else None,
    }
    boxes = [(box.label, box.confidence, box.bbox) for box in event.detections]
    face = Face(event.embedding, event.embedding_model, event.embedding_version) if event.embedding else None
    return EventRow(EventColumns(**columns), boxes, face)


def row_of_observation(line: ObservationLine, row_id: int, now: str) -> ObservationColumns:
    columns = {name: getattr(line, name) for name in ObservationColumns._fields}
    columns |= {
        "id": row_id,
        "created_at": line.created_at or now,
        "metadata": json_text(line.metadata) if line.metadata else None,
    }
    return ObservationColumns(**columns)


# -- changes ---------------------------------------------------------------------------------------------------------


def line_of(change: RecordChange) -> RecordLine:
    """What is written down of a change."""
    if isinstance(change, EventAmended):
        subject = change.subject
        return _amendment(
            change.amendment,
            change.at,
            camera_id=subject.camera_id,
            event_type=subject.event_type,
            recorded_at=subject.recorded_at,
        )
    if isinstance(change, ThumbnailSet):
        subject = change.subject
        return AmendmentLine(
            change.at,
            subject.event_id,
            subject.site,
            camera_id=subject.camera_id,
            event_type=subject.event_type,
            recorded_at=subject.recorded_at,
            thumbnail_path=change.path,
        )
    if isinstance(change, AmendmentKept):
        return waiting_line(change)
    if isinstance(change, ObservationStored):
        return _observation(change.observation, id=change.id, created_at=change.at)
    return _person(change)


def waiting_line(change: AmendmentKept) -> AmendmentLine:
    return _amendment(
        change.amendment,
        change.at,
        waiting=True,
        producer_id=change.producer_id,
        epoch=change.epoch,
        seq=change.seq,
    )


def _observation(o: ObservationRecord, **more: Any) -> ObservationLine:
    return ObservationLine(**{field: getattr(o, field) for field in o.__struct_fields__}, **more)


def _amendment(a: AmendmentRecord, at: str, **more: Any) -> AmendmentLine:
    fields = {field: getattr(a, field) for field in AMENDABLE}
    return AmendmentLine(at, a.event_id, a.site, detections=boxes(a.detections), **fields, **more)


def _person(change: PersonStored) -> PersonLine:
    person = change.person
    return PersonLine(change.id, person.site, person.name, person.display_name, change.at)


def unstored_line(record: EventRecord | AmendmentRecord | PersonRecord | ObservationRecord, at: str) -> RecordLine:
    """Of a record that came while the database could not be written."""
    if isinstance(record, EventRecord):
        fields = {field: getattr(record, field) for field in record.__struct_fields__}
        return EventLine(None, **{**fields, "detections": boxes(record.detections)}, stored=False)
    if isinstance(record, AmendmentRecord):
        return _amendment(record, at, stored=False)
    if isinstance(record, ObservationRecord):
        return _observation(record, id=None, stored=False)
    return PersonLine(None, record.site, record.name, record.display_name, at, stored=False)


def amended(event: EventLine, amendment: AmendmentLine) -> EventLine:
    """The event with what an amendment adds: the same as the store's UPDATE does."""
    changes: dict[str, Any] = {
        field: value for field in (*AMENDABLE, "thumbnail_path") if (value := getattr(amendment, field)) is not None
    }
    if amendment.embedding is not None:  # all of a face, or nothing
        changes["embedding_model"] = amendment.embedding_model
        changes["embedding_version"] = amendment.embedding_version
    if amendment.metadata:
        changes["metadata"] = {**(event.metadata or {}), **amendment.metadata}
    return structs.replace(event, **changes, detections=[*event.detections, *amendment.detections])


class Replay:
    """What lines add up to, by event id: `first` has the first line of each event, `state` what it is by now.

    `range` is the day's, None where no line tells it.
    """

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.first: dict[str, EventLine] = {}
        self.state: dict[str, EventLine] = {}
        self.observations: dict[str, ObservationLine] = {}
        self.range: DayRange | None = None
        self._without_event: list[AmendmentLine] = []
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        if isinstance(line, DayLine):
            self.range = line.range
            return
        if isinstance(line, PersonLine) or not line.stored:
            return
        if isinstance(line, ObservationLine):
            self.observations[line.observation_id] = line
            return
        if isinstance(line, EventLine):
            self.first.setdefault(line.event_id, line)
            self.state[line.event_id] = line
        elif line.waiting:
            return
        elif line.event_id in self.state:
            self.state[line.event_id] = amended(self.state[line.event_id], line)
        else:
            self._without_event.append(line)

    @property
    def strangers(self) -> list[AmendmentLine]:
        """Amendments of events that no line is about. One whose event is behind it is part of that already: the
        event's own line was lost, and was written again with all that had become of it."""
        return [line for line in self._without_event if line.event_id not in self.state]
