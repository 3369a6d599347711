"""Frames and records of the wire protocol, version 1. No I/O. `clients/README.md` is its reference.

A message is a list of frames. Frame 0 is the header: a msgpack map whose `kind` names the message. A `records` message
has a body in frame 1, a msgpack array of binaries, each of them one record as a msgpack map, and images in the frames
behind it. A record is a binary of its own so that one that is malformed can be refused without its neighbours.

A position is the pair (epoch, seq): the epoch numbers the lives of a producer, the seq its records within one life,
from 1. Positions are ordered as pairs are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgpack

from .errors import InvalidRecord, ProtocolError
from .records import (
    COORDINATE_MAX,
    DETECTIONS_MAX,
    DOOR_ACTIONS,
    FACE_DISTANCE_MAX,
    ID_PATTERN,
    NAME_CHARS_MAX,
    TEXT_CHARS_MAX,
    Amendment,
    Detection,
    Event,
    Person,
    Record,
)

PROTOCOL: Final = 1
RECORD_BYTES_MAX: Final = 256 * 1024
IMAGE_BYTES_MAX: Final = 4 * 1024 * 1024
MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""The body frame. A body with more than one record stays below this."""
MESSAGE_RECORDS_MAX: Final = 1_000
FRAME_BYTES_MAX: Final = IMAGE_BYTES_MAX
"""No frame of any kind is larger; the daemon's socket drops a peer that sends one."""
MESSAGE_IMAGES_MAX: Final = 64
FRAMES_MAX: Final = 2 + MESSAGE_IMAGES_MAX
"""Header, body, images."""

STORED: Final = "stored"
DUPLICATE: Final = "duplicate"
REJECTED: Final = "rejected"


class Position(NamedTuple):
    """Where in a producer's stream: the life (`epoch`) and the record within it (`seq`, from 1)."""

    epoch: int
    seq: int


START: Final = Position(0, 0)
"""Before everything: the position of a producer of whom nothing is stored."""


class Limits(NamedTuple):
    """What the daemon takes, told in WELCOME. A client stays within the smaller of these and its own."""

    window_records: int
    window_bytes: int
    message_records_max: int = MESSAGE_RECORDS_MAX
    message_bytes_max: int = MESSAGE_BYTES_MAX


# -- records -> bytes ------------------------------------------------------------------------------------------------

_is_id = re.compile(ID_PATTERN).fullmatch
_has_control = re.compile(r"[\x00-\x1f\x7f]").search


_KNOWN_MAX: Final = 10_000
_known_ids: set[str] = set()
_known_names: set[str] = set()
"""What passed its check is remembered: cameras, sites and labels repeat, and a regular expression costs 0.3 µs."""


def _remember(known: set[str], value: str) -> None:
    if len(known) >= _KNOWN_MAX:
        known.clear()
    known.add(value)


def _id(field: str, value: object) -> str:
    if not isinstance(value, str) or not _is_id(value):
        raise InvalidRecord(
            f"{field}={value!r:.80}: expected 1 to 128 characters of A-Z a-z 0-9 _ . : - not beginning with . : -"
        )
    return value


def _repeated_id(field: str, value: object) -> str:
    if type(value) is str and value in _known_ids:
        return value
    checked = _id(field, value)
    _remember(_known_ids, checked)
    return checked


def _name(field: str, value: object) -> str:
    if type(value) is str and value in _known_names:
        return value
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX or _has_control(value):
        raise InvalidRecord(f"{field}={value!r:.80}: expected 1 to {NAME_CHARS_MAX} characters, no control characters")
    _remember(_known_names, value)
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX or "\0" in value:
        raise InvalidRecord(f"{field}={value!r:.80}: expected at most {TEXT_CHARS_MAX} characters, no NUL")
    return value


def _number(value: object) -> float:
    """NaN for what is not a number. Takes NumPy's scalars, which detectors hand out; a bool is never a measurement."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, (str, bytes, bool)):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _fraction(field: str, value: object) -> float:
    number = _number(value)
    if not 0.0 <= number <= 1.0:
        raise InvalidRecord(f"{field}={value!r:.80}: expected a number from 0 to 1")
    return number


def _distance(field: str, value: object) -> float:
    number = _number(value)
    if not 0.0 <= number <= FACE_DISTANCE_MAX:
        raise InvalidRecord(f"{field}={value!r:.80}: expected a number from 0 to {FACE_DISTANCE_MAX:.0f}")
    return number


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRecord(f"{field}={value!r:.80}: expected True or False")
    return value


def _door_action(field: str, value: object) -> str:
    if value not in DOOR_ACTIONS:
        raise InvalidRecord(f"{field}={value!r:.80}: expected one of {', '.join(DOOR_ACTIONS)}")
    return str(value)


def _bbox(box: object) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = map(_number, box)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        x1 = y1 = x2 = y2 = math.nan
    low, high = -COORDINATE_MAX, COORDINATE_MAX
    if not (low <= x1 <= high and low <= y1 <= high and low <= x2 <= high and low <= y2 <= high):
        raise InvalidRecord(f"bbox={box!r:.80}: expected four finite numbers x1, y1, x2, y2 or None")
    return x1, y1, x2, y2


def _detections(detections: Sequence[Detection]) -> list[tuple[Any, ...]]:
    if len(detections) > DETECTIONS_MAX:
        raise InvalidRecord(f"detections: {len(detections)} of them; at most {DETECTIONS_MAX} in one record")
    packed: list[tuple[Any, ...]] = []
    for detection in detections:
        if not isinstance(detection, Detection):
            raise InvalidRecord(f"detections: expected Detection objects, got {type(detection).__name__}")
        label, confidence = _name("label", detection.label), _fraction("confidence", detection.confidence)
        box = detection.bbox
        packed.append((label, confidence) if box is None else (label, confidence, _bbox(box)))
    return packed


def format_time(moment: datetime) -> str:
    """UTC, ISO 8601, fixed width, milliseconds (cut, not rounded): `2026-11-20T10:00:00.000Z`.

    Raises InvalidRecord for a datetime without a time zone.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidRecord(f"{moment!r:.80}: expected a datetime with a time zone, e.g. datetime.now(timezone.utc)")
    try:
        return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    except OverflowError as error:
        raise InvalidRecord(f"{moment!r:.80}: outside the years 1 to 9999 in UTC") from error


_Check = Callable[[str, Any], Any]
_LATER: Final[tuple[tuple[str, _Check], ...]] = (
    ("recording_id", _id),
    ("motion_confidence", _fraction),
    ("person_name", _name),
    ("face_confidence", _fraction),
    ("face_distance", _distance),
    ("unlock_granted", _flag),
    ("door_action", _door_action),
    ("image_path", _name),
    ("llm_description", _text),
    ("alert_sent", _flag),
)
"""The optional fields that an event and an amendment share."""

_pack = msgpack.Packer(use_bin_type=True).pack


def _encode_event(event: Event) -> dict[str, Any]:
    if event.id is not None or event.thumbnail_path is not None or event.created_at is not None:
        raise InvalidRecord("id, thumbnail_path and created_at are set by the daemon; leave them out")
    return {
        "kind": "event",
        "event_id": _id("event_id", event.event_id),
        "site": _repeated_id("site", event.site),
        "camera_id": _repeated_id("camera_id", event.camera_id),
        "recorded_at": format_time(event.recorded_at),
        "event_type": _repeated_id("event_type", event.event_type),
    }


def _encode_amendment(amendment: Amendment) -> dict[str, Any]:
    return {
        "kind": "amendment",
        "event_id": _id("event_id", amendment.event_id),
        "site": _repeated_id("site", amendment.site),
    }


def _encode_person(person: Person) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "kind": "person",
        "site": _repeated_id("site", person.site),
        "name": _name("name", person.name),
    }
    if person.display_name is not None:
        packed["display_name"] = _name("display_name", person.display_name)
    return packed


def encode_record(record: Record) -> tuple[bytes, bytes]:
    """One record as (msgpack map, image); the image is empty when there is none.

    Raises InvalidRecord when a field breaks its limit: the message names the field and what was expected.
    """
    image = b""
    if isinstance(record, Event):
        packed = _encode_event(record)
        if record.thumbnail is not None:
            image = bytes(record.thumbnail)
    elif isinstance(record, Amendment):
        packed = _encode_amendment(record)
    elif isinstance(record, Person):
        packed = _encode_person(record)
    else:
        raise InvalidRecord(f"expected an Event, Amendment or Person, got {type(record).__name__}")
    if not isinstance(record, Person):
        if record.detections:
            packed["detections"] = _detections(record.detections)
        for field, check in _LATER:
            value = getattr(record, field)
            if value is not None:
                packed[field] = check(field, value)
        if len(packed) == 3:
            raise InvalidRecord("the amendment changes nothing; give at least one field")
    try:
        encoded: bytes = _pack(packed)
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"{error.object[:40]!r}: not valid Unicode text") from error
    if len(encoded) > RECORD_BYTES_MAX:
        raise InvalidRecord(f"the record takes {len(encoded)} bytes; at most {RECORD_BYTES_MAX}")
    if len(image) > IMAGE_BYTES_MAX:
        raise InvalidRecord(f"the thumbnail takes {len(image)} bytes; at most {IMAGE_BYTES_MAX}")
    return encoded, image


# -- messages: client to daemon --------------------------------------------------------------------------------------


def hello(producer_id: str, name: str, epoch: int, first: Position) -> list[bytes]:
    """`epoch`: this life; `first`: position of the first record the producer will send."""
    return [
        _pack({"kind": "hello", "protocol": PROTOCOL, "producer_id": producer_id, "name": name, "epoch": epoch,
               "first": first})
    ]  # fmt: skip


def records(first: Position, packed: Sequence[bytes], images: Sequence[bytes], *, flush: bool) -> list[bytes]:
    """`packed` holds consecutive records of one epoch, `images` one item a record, empty for none.

    `flush` asks the daemon to commit at once: somebody waits for the ack.
    """
    carriers = [index for index, image in enumerate(images) if image]
    header = _pack({"kind": "records", "first": first, "flush": flush, "images": carriers})
    return [header, _pack(packed), *(images[index] for index in carriers)]


def ping(spooled_records: int, spooled_bytes: int, *, flush: bool) -> list[bytes]:
    """Keeps a session alive, tells the depth of the spool, and with `flush` asks for a commit at once."""
    return [_pack({"kind": "ping", "spooled_records": spooled_records, "spooled_bytes": spooled_bytes, "flush": flush})]


# -- messages: daemon to client --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """All records up to `last` are settled, as by an `Ack`."""

    last: Position
    exceptions: Sequence[tuple[int, str, str]]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Ack:
    """All records up to `last` are settled. `exceptions` lists (seq, status, reason) of those not simply stored."""

    last: Position
    exceptions: Sequence[tuple[int, str, str]]


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing of what was sent since the last ack is stored. Send it again after `retry_after` seconds."""

    reason: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class Resync:
    """A gap: go on behind `last`. None: the daemon does not know this connection, say hello."""

    last: Position | None


@dataclass(frozen=True, slots=True)
class Refused:
    """`code` is one of fenced, protocol, malformed. The daemon ignores what caused it."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pong:
    pass


Reply = Welcome | Ack | Busy | Resync | Refused | Pong


def _exceptions(header: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [(seq, status, reason) for seq, status, reason in header["exceptions"]]


def decode_reply(frames: Sequence[bytes]) -> Reply:
    """Raises ProtocolError for anything that is not a message of the daemon."""
    try:
        header = msgpack.unpackb(frames[0], strict_map_key=True)
        kind = header["kind"]
        if kind == "ack":
            return Ack(Position(*header["last"]), _exceptions(header))
        if kind == "welcome":
            limits = header["limits"]
            return Welcome(
                Position(*header["last"]), _exceptions(header), Limits(*(limits[field] for field in Limits._fields))
            )
        if kind == "busy":
            return Busy(header["reason"], header["retry_after_ms"] / 1000)
        if kind == "resync":
            last = header["last"]
            return Resync(None if last is None else Position(*last))
        if kind == "refused":
            return Refused(header["code"], header["reason"])
        if kind == "pong":
            return Pong()
    except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the daemon sent a message that is not protocol {PROTOCOL}: {error!r}") from error
    raise ProtocolError(f"the daemon sent a message of unknown kind {kind!r:.40}: it is newer than this client")


def welcome(last: Position, exceptions: Sequence[tuple[int, str, str]], limits: Limits) -> list[bytes]:
    return [
        _pack(
            {
                "kind": "welcome",
                "protocol": PROTOCOL,
                "last": last,
                "exceptions": exceptions,
                "limits": limits._asdict(),
            }
        )
    ]


def ack(last: Position, exceptions: Sequence[tuple[int, str, str]]) -> list[bytes]:
    return [_pack({"kind": "ack", "last": last, "exceptions": exceptions})]


def busy(reason: str, retry_after: float) -> list[bytes]:
    return [_pack({"kind": "busy", "reason": reason, "retry_after_ms": round(retry_after * 1000)})]


def resync(last: Position | None) -> list[bytes]:
    return [_pack({"kind": "resync", "last": last})]


def refused(code: str, reason: str) -> list[bytes]:
    return [_pack({"kind": "refused", "code": code, "reason": reason})]


def pong() -> list[bytes]:
    return [_pack({"kind": "pong"})]
