"""Records, checked and made into bytes. The rules here and in the daemon's `decoder` are the same. No I/O."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgpack

from sightlog.errors import InvalidRecord
from sightlog.records import Amendment, Detection, Event, Observation, Person, Record, utc_text
from sightlog.text import is_harmful

from . import embedding
from .fields import AMENDMENT
from .ids import is_id, known_ids, known_names, remember
from .limits import (
    COORDINATE_MAX,
    DETECTIONS_MAX,
    DOOR_ACTIONS,
    FACE_DISTANCE_MAX,
    IMAGE_BYTES_MAX,
    INTEGER_MAX,
    METADATA_KEYS_MAX,
    NAME_CHARS_MAX,
    NAME_WITHOUT,
    RECORD_BYTES_MAX,
    TEXT_CHARS_MAX,
)

_SQUARE_MAX: Final = COORDINATE_MAX**2


def check_id(field: str, value: object) -> str:
    """`value`, or InvalidRecord when it is no id."""
    if not isinstance(value, str) or not is_id(value):
        raise InvalidRecord(
            f"{field}={value!r:.80}: expected 1 to 128 characters of A-Z a-z 0-9 _ . : - not beginning with . : -"
        )
    return value


def _known_id(field: str, value: object) -> str:
    checked = check_id(field, value)
    remember(known_ids, checked)
    return checked


def _name(field: str, value: object) -> str:
    if type(value) is str and value in known_names:
        return value
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX or is_harmful(value):
        raise InvalidRecord(f"{field}={value!r:.80}: expected 1 to {NAME_CHARS_MAX} characters, {NAME_WITHOUT}")
    remember(known_names, value)
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX or "\0" in value:
        raise InvalidRecord(f"{field}={value!r:.80}: expected at most {TEXT_CHARS_MAX} characters, no NUL")
    return value


def to_number(value: object) -> float:
    """NaN for what is not a number. Takes NumPy's scalars, which detectors hand out; a bool is never a measurement."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, (str, bytes, bool)) or getattr(getattr(value, "dtype", None), "kind", "") == "b":
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _fraction(field: str, value: object) -> float:
    number = to_number(value)
    if not 0.0 <= number <= 1.0:
        raise InvalidRecord(f"{field}={value!r:.80}: expected a number from 0 to 1")
    return number


def _distance(field: str, value: object) -> float:
    number = to_number(value)
    if not 0.0 <= number <= FACE_DISTANCE_MAX:
        raise InvalidRecord(f"{field}={value!r:.80}: expected a number from 0 to {FACE_DISTANCE_MAX:.0f}")
    return number


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRecord(f"{field}={value!r:.80}: expected True or False")
    return value


def _door_action(field: str, value: object) -> str:
    if not isinstance(value, str) or value not in DOOR_ACTIONS:
        raise InvalidRecord(f"{field}={value!r:.80}: expected one of {', '.join(DOOR_ACTIONS)}")
    return DOOR_ACTIONS[DOOR_ACTIONS.index(value)]  # of a str enum this is the plain text


def _metadata(field: str, value: object) -> dict[str, str | int | float | bool]:
    if not isinstance(value, Mapping) or not 0 < len(value) <= METADATA_KEYS_MAX:
        raise InvalidRecord(f"{field}={value!r:.80}: expected a mapping with 1 to {METADATA_KEYS_MAX} keys, or None")
    return {_name(f"{field} key", key): _metadata_value(field, key, item) for key, item in value.items()}


def _metadata_value(field: str, key: str, value: object) -> str | int | float | bool:
    if isinstance(value, str):
        return _name(f"{field}[{key!r}]", value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if -INTEGER_MAX <= value <= INTEGER_MAX:
            return int(value)
    elif math.isfinite(number := to_number(value)):
        return number
    raise InvalidRecord(f"{field}[{key!r:.80}]={value!r:.80}: expected text, a finite number, True or False")


def _bbox(box: Any) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = map(to_number, box)
    except (TypeError, ValueError):
        x1 = y1 = x2 = y2 = math.nan
    if not all(-COORDINATE_MAX <= number <= COORDINATE_MAX for number in (x1, y1, x2, y2)):
        raise InvalidRecord(f"bbox={box!r:.80}: expected four finite numbers x1, y1, x2, y2 or None")
    return x1, y1, x2, y2


def _detections(detections: Sequence[Detection]) -> list[tuple[Any, ...]]:
    if not isinstance(detections, Sequence):
        raise InvalidRecord(f"detections: expected a list of Detection objects, got {type(detections).__name__}")
    if len(detections) > DETECTIONS_MAX:
        raise InvalidRecord(f"detections: {len(detections)} of them; at most {DETECTIONS_MAX} in one record")
    packed: list[tuple[Any, ...]] = []
    for detection in detections:
        if type(detection) is not Detection and not isinstance(detection, Detection):
            raise InvalidRecord(f"detections: expected Detection objects, got {type(detection).__name__}")
        label, confidence, box = detection.label, detection.confidence, detection.bbox
        # What needs no call is looked at here: a busy sensor has thousands a second.
        if type(label) is not str or label not in known_names:
            label = _name("label", label)
        if type(confidence) is not float or not 0.0 <= confidence <= 1.0:
            confidence = _fraction("confidence", confidence)
        if box is None:
            packed.append((label, confidence))
            continue
        if type(box) is tuple and len(box) == 4:
            x1, y1, x2, y2 = box
            # One comparison in place of eight: of such a sum of squares no number is beyond the bound, or is NaN.
            if (
                type(x1) is type(y1) is type(x2) is type(y2) is float
                and x1 * x1 + y1 * y1 + x2 * x2 + y2 * y2 <= _SQUARE_MAX
            ):
                packed.append((label, confidence, box))
                continue
        packed.append((label, confidence, _bbox(box)))
    return packed


def format_time(moment: datetime) -> str:
    """As `utc_text` does. Raises InvalidRecord for a datetime without a time zone."""
    if not isinstance(moment, datetime) or (moment.tzinfo is not UTC and moment.utcoffset() is None):
        raise InvalidRecord(f"{moment!r:.80}: expected a datetime with a time zone, e.g. datetime.now(timezone.utc)")
    try:
        return utc_text(moment)
    except OverflowError as error:
        raise InvalidRecord(f"{moment!r:.80}: outside the years 1 to 9999 in UTC") from error


class _Packer(threading.local):
    """One a thread: making one takes longer than packing a record with it."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer().pack


_packer = _Packer()


def _add_embedding(packed: dict[str, Any], r: Event | Amendment | Observation) -> None:
    if r.embedding is not None:
        packed["embedding"] = embedding.pack(r.embedding)
    elif r.embedding_model is not None or r.embedding_version is not None:
        raise InvalidRecord("embedding_model and embedding_version say what an embedding is of; give the embedding too")
    if r.embedding_model is not None:
        packed["embedding_model"] = _name("embedding_model", r.embedding_model)
    if r.embedding_version is not None:
        packed["embedding_version"] = _name("embedding_version", r.embedding_version)


# <made by make fields: encoders>


def _encode_event(r: Event) -> dict[str, Any]:
    if r.id is not None or r.thumbnail_path is not None or r.created_at is not None:
        raise InvalidRecord("id, thumbnail_path and created_at are set by the daemon; leave them out")
    value: Any
    packed: dict[str, Any] = {
        "kind": "event",
        "event_id": check_id("event_id", r.event_id),
        "site": value if type(value := r.site) is str and value in known_ids else _known_id("site", value),
        "camera_id": value
        if type(value := r.camera_id) is str and value in known_ids
        else _known_id("camera_id", value),
        "recorded_at": format_time(r.recorded_at),
        "event_type": value
        if type(value := r.event_type) is str and value in known_ids
        else _known_id("event_type", value),
    }
    if r.detections:
        packed["detections"] = _detections(r.detections)
    if (value := r.recording_id) is not None:
        packed["recording_id"] = check_id("recording_id", value)
    if (value := r.motion_confidence) is not None:
        packed["motion_confidence"] = _fraction("motion_confidence", value)
    if (value := r.person_name) is not None:
        packed["person_name"] = _name("person_name", value)
    if (value := r.face_confidence) is not None:
        packed["face_confidence"] = _fraction("face_confidence", value)
    if (value := r.face_distance) is not None:
        packed["face_distance"] = _distance("face_distance", value)
    if (value := r.unlock_granted) is not None:
        packed["unlock_granted"] = _flag("unlock_granted", value)
    if (value := r.door_action) is not None:
        packed["door_action"] = _door_action("door_action", value)
    if (value := r.image_path) is not None:
        packed["image_path"] = _name("image_path", value)
    if (value := r.llm_description) is not None:
        packed["llm_description"] = _text("llm_description", value)
    if (value := r.alert_sent) is not None:
        packed["alert_sent"] = _flag("alert_sent", value)
    if (value := r.metadata) is not None:
        packed["metadata"] = _metadata("metadata", value)
    if r.embedding is not None or r.embedding_model is not None or r.embedding_version is not None:
        _add_embedding(packed, r)
    return packed


def _encode_amendment(r: Amendment) -> dict[str, Any]:
    value: Any
    packed: dict[str, Any] = {
        "kind": "amendment",
        "event_id": check_id("event_id", r.event_id),
        "site": value if type(value := r.site) is str and value in known_ids else _known_id("site", value),
    }
    if r.detections:
        packed["detections"] = _detections(r.detections)
    if (value := r.recording_id) is not None:
        packed["recording_id"] = check_id("recording_id", value)
    if (value := r.motion_confidence) is not None:
        packed["motion_confidence"] = _fraction("motion_confidence", value)
    if (value := r.person_name) is not None:
        packed["person_name"] = _name("person_name", value)
    if (value := r.face_confidence) is not None:
        packed["face_confidence"] = _fraction("face_confidence", value)
    if (value := r.face_distance) is not None:
        packed["face_distance"] = _distance("face_distance", value)
    if (value := r.unlock_granted) is not None:
        packed["unlock_granted"] = _flag("unlock_granted", value)
    if (value := r.door_action) is not None:
        packed["door_action"] = _door_action("door_action", value)
    if (value := r.image_path) is not None:
        packed["image_path"] = _name("image_path", value)
    if (value := r.llm_description) is not None:
        packed["llm_description"] = _text("llm_description", value)
    if (value := r.alert_sent) is not None:
        packed["alert_sent"] = _flag("alert_sent", value)
    if (value := r.metadata) is not None:
        packed["metadata"] = _metadata("metadata", value)
    if r.embedding is not None or r.embedding_model is not None or r.embedding_version is not None:
        _add_embedding(packed, r)
    return packed


def _encode_person(r: Person) -> dict[str, Any]:
    value: Any
    packed: dict[str, Any] = {
        "kind": "person",
        "site": value if type(value := r.site) is str and value in known_ids else _known_id("site", value),
        "name": _name("name", r.name),
    }
    if (value := r.display_name) is not None:
        packed["display_name"] = _name("display_name", value)
    return packed


def _encode_observation(r: Observation) -> dict[str, Any]:
    if r.id is not None or r.created_at is not None:
        raise InvalidRecord("id and created_at are set by the daemon; leave them out")
    value: Any
    packed: dict[str, Any] = {
        "kind": "observation",
        "observation_id": check_id("observation_id", r.observation_id),
        "site": value if type(value := r.site) is str and value in known_ids else _known_id("site", value),
        "recorded_at": format_time(r.recorded_at),
        "content": _text("content", r.content),
        "source": _name("source", r.source),
    }
    if (value := r.event_id) is not None:
        packed["event_id"] = check_id("event_id", value)
    if (value := r.metadata) is not None:
        packed["metadata"] = _metadata("metadata", value)
    if r.embedding is not None or r.embedding_model is not None or r.embedding_version is not None:
        _add_embedding(packed, r)
    return packed


# </made>


_AMENDMENT_HEAD: Final = 1 + sum(field.required for field in AMENDMENT)
"""Keys of one that changes nothing."""
_ENCODERS: Final[dict[type, Callable[[Any], dict[str, Any]]]] = {
    Event: _encode_event,
    Amendment: _encode_amendment,
    Person: _encode_person,
    Observation: _encode_observation,
}


def _encoder_of(record: Record) -> Callable[[Any], dict[str, Any]]:
    """Of a class that somebody derived from one of ours, too."""
    for kind, encode in _ENCODERS.items():
        if isinstance(record, kind):
            return encode
    raise InvalidRecord(f"expected an Event, Amendment, Person or Observation, got {type(record).__name__}")


def _image(thumbnail: Any) -> bytes:
    try:
        image = bytes(memoryview(thumbnail))  # bytes(7) would be seven zeros
    except TypeError:
        raise InvalidRecord(f"thumbnail: expected the bytes of an image, got {type(thumbnail).__name__}") from None
    if len(image) > IMAGE_BYTES_MAX:
        raise InvalidRecord(f"the thumbnail takes {len(image)} bytes; at most {IMAGE_BYTES_MAX}")
    return image


def encode_record(record: Record) -> tuple[bytes, bytes]:
    """One record as (msgpack map, image); the image is empty when there is none.

    Raises InvalidRecord when a field breaks its limit: the message names the field and what was expected.
    """
    packed = (_ENCODERS.get(type(record)) or _encoder_of(record))(record)
    if len(packed) <= _AMENDMENT_HEAD and isinstance(record, Amendment):
        raise InvalidRecord("the amendment changes nothing; give at least one field")
    try:
        encoded: bytes = _packer.pack(packed)
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"{error.object[:40]!r}: not valid Unicode text") from error
    if len(encoded) > RECORD_BYTES_MAX:
        raise InvalidRecord(f"the record takes {len(encoded)} bytes; at most {RECORD_BYTES_MAX}")
    if isinstance(record, Event) and record.thumbnail is not None:
        return encoded, _image(record.thumbnail)
    return encoded, b""
