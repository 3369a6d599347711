"""What sensors report: frozen records, their limits and their ids. No I/O.

Limits are checked when a record is encoded (`sightlog.protocol.encoding`), not when it is made: a `Reader` makes the
same objects from rows, and must be able to show whatever is stored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final, Literal, SupportsFloat

Metadata = Mapping[str, str | int | float | bool]
Embedding = Iterable[SupportsFloat]
"""A list, tuple, array or tensor of one dimension. Stored as float32; a `Reader` gives an `array.array("f")`."""
DoorAction = Literal["unlocked", "locked", "none"]
DEFAULT_SITE: Final = "default"


def new_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7) as text: 48 bits of Unix milliseconds, then 74 random bits.

    Ids that grow with time keep inserts into the unique index at its right edge.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def now_utc() -> datetime:
    """The wall clock in UTC, cut to the milliseconds that are stored."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def utc_text(moment: datetime) -> str:
    """UTC, ISO 8601, fixed width, milliseconds (cut, not rounded): `2026-11-20T10:00:00.000Z`. Raises OverflowError."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # A third of what isoformat() takes, which asks the time zone once more. No number is formatted: that takes as long.
    minute = _minute(moment.toordinal(), moment.hour, moment.minute)
    return f"{minute}{_SECONDS[moment.second]}.{_MILLISECONDS[moment.microsecond // 1000]}Z"


_SECONDS: Final = tuple(f"{number:02d}" for number in range(60))
_MILLISECONDS: Final = tuple(f"{number:03d}" for number in range(1000))


@lru_cache(maxsize=64)
def _minute(day: int, hour: int, minute: int) -> str:
    return f"{date.fromordinal(day).isoformat()}T{hour:02d}:{minute:02d}:"


@dataclass(frozen=True, slots=True)
class Detection:
    """A labelled box on an event.

    `confidence` is in [0, 1]. `bbox` is (x1, y1, x2, y2) in pixels of the sensor's frame, or None.
    """

    label: str
    confidence: float
    bbox: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened before a camera.

    `recorded_at` needs a time zone; it is stored in UTC with milliseconds. Confidences are in [0, 1].
    `person_name` None means a stranger, or that nobody looked. `metadata` is what else the sensor knows, such as a
    frame's number or how long an inference took: text, numbers and truth values by name. `thumbnail` is an encoded
    image that travels with the event; what is stored of it is `thumbnail_path`, relative to the data directory.
    `image_path` is the sensor's word for a file of its own: nothing here opens it, and it may say anything.
    `embedding` is of the face that was seen. The last three fields are set by the
    daemon: a producer leaves them alone.
    """

    # <made by make fields: Event>
    camera_id: str
    event_type: str = "motion"
    _: KW_ONLY
    event_id: str = field(default_factory=new_id)
    site: str = DEFAULT_SITE
    recorded_at: datetime = field(default_factory=now_utc)
    detections: Sequence[Detection] = ()
    recording_id: str | None = None
    motion_confidence: float | None = None
    person_name: str | None = None
    face_confidence: float | None = None
    face_distance: float | None = None
    unlock_granted: bool | None = None
    door_action: DoorAction | None = None
    image_path: str | None = None
    llm_description: str | None = None
    alert_sent: bool = False
    metadata: Metadata | None = None
    embedding: Embedding | None = field(default=None, compare=False, repr=False)
    embedding_model: str | None = None
    embedding_version: str | None = None
    thumbnail: bytes | None = field(default=None, compare=False, repr=False)
    id: int | None = field(default=None, compare=False)
    thumbnail_path: str | None = field(default=None, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    # </made>

    def __post_init__(self) -> None:
        if type(self.detections) is not list:
            object.__setattr__(self, "detections", list(self.detections or ()))

    @property
    def cursor(self) -> str:
        """The event's place among all in the order of time, for `after=` and `before=` of `Reader.find_events`."""
        return f"{utc_text(self.recorded_at)}/{self.id or 0}"


@dataclass(frozen=True, slots=True)
class Amendment:
    """What another sensor learns later about an event. It may arrive before the event does.

    A field that is None is left as it is; `detections` are added behind those the event has, `metadata` to what it has.
    An `embedding` replaces the one before, with its model and version.
    """

    # <made by make fields: Amendment>
    event_id: str
    _: KW_ONLY
    site: str = DEFAULT_SITE
    detections: Sequence[Detection] = ()
    recording_id: str | None = None
    motion_confidence: float | None = None
    person_name: str | None = None
    face_confidence: float | None = None
    face_distance: float | None = None
    unlock_granted: bool | None = None
    door_action: DoorAction | None = None
    image_path: str | None = None
    llm_description: str | None = None
    alert_sent: bool | None = None
    metadata: Metadata | None = None
    embedding: Embedding | None = field(default=None, compare=False, repr=False)
    embedding_model: str | None = None
    embedding_version: str | None = None
    # </made>


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody the face recogniser may name. `name` is unique within its site."""

    # <made by make fields: Person>
    name: str
    display_name: str | None = None
    site: str = DEFAULT_SITE
    # </made>


@dataclass(frozen=True, slots=True)
class Observation:
    """A text about what was seen, by a model, a process or a person (`source`), with an embedding or without.

    `event_id` is of the event it is about, which may come later; None is about none. Embeddings are compared only with
    those of the same model, version and length. The last two fields are set by the daemon.
    """

    # <made by make fields: Observation>
    content: str
    source: str
    event_id: str | None = None
    embedding: Embedding | None = field(default=None, compare=False, repr=False)
    embedding_model: str | None = None
    embedding_version: str | None = None
    metadata: Metadata | None = None
    _: KW_ONLY
    observation_id: str = field(default_factory=new_id)
    site: str = DEFAULT_SITE
    recorded_at: datetime = field(default_factory=now_utc)
    id: int | None = field(default=None, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    # </made>


Record = Event | Amendment | Person | Observation
