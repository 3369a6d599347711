"""The one table: each field of a record, how it travels and is stored, and each filter of events. No I/O.

`make fields` makes the code that follows from it: the records, their encoder, the daemon's structs and checks, the
lines of events.json, the rows, and the tables of clients/README.md. A test compares. A new column is a row here and a
migration; a new filter is a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .limits import DOOR_ACTIONS

if TYPE_CHECKING:
    from sightlog.records import Event


class Kind(NamedTuple):
    """What a field holds: its annotation in the records, in the decoder's structs, and in the lines of events.json."""

    record: str
    wire: str
    line: str
    doc: str
    """Its limit, in words, for the reference."""


ID: Final = Kind("str", "Id", "str", "an id")
KNOWN_ID: Final = Kind("str", "Id", "str", "an id")
"""One that repeats, unlike that of a record: what passed its check is remembered."""
NAME: Final = Kind("str", "Name", "str", "a name")
TEXT: Final = Kind("str", "Text", "str", "a text")
FRACTION: Final = Kind("float", "Fraction", "float", "0 to 1")
DISTANCE: Final = Kind("float", "Distance", "float", "0 to 1,000,000")
FLAG: Final = Kind("bool", "bool", "bool", "true or false")
DOOR_ACTION: Final = Kind("DoorAction", "DoorAction", "str", f"one of {', '.join(f'`{one}`' for one in DOOR_ACTIONS)}")
TIME: Final = Kind("datetime", "Time", "str", "UTC, exactly `2026-11-20T10:00:00.000Z`")
METADATA: Final = Kind("Metadata", "Metadata", "Metadata", "a map of 1 to 32 names to names, numbers and truth values")
DETECTIONS: Final = Kind(
    "Sequence[Detection]", "Detections", "list[Box]", "an array of `[label, confidence]` or `[label, confidence, bbox]`"
)
EMBEDDING: Final = Kind("Embedding", "Embedding", "bytes", "float32, little-endian, 1 to 8,192 numbers")
IMAGE: Final = Kind("bytes", "", "", "an encoded image, in a frame of its own")
INTEGER: Final = Kind("int", "", "int", "")


class Field(NamedTuple):
    name: str
    kind: Kind
    doc: str
    default: str | None = "None"
    """Of the record, as Python; None: it has to be given."""
    required: bool = False
    """On the wire."""
    amendable: bool = False
    """An amendment may set it."""
    stored: str = "column"
    """Where: `column` of the record's own table, `beside` it in a table of its own, `file`."""
    by_daemon: bool = False
    """A producer leaves it alone."""


EVENT: Final = (
    Field("id", INTEGER, "its place in the order in which events were stored", by_daemon=True),
    Field("event_id", ID, "unique", "field(default_factory=new_id)", required=True),
    Field("site", KNOWN_ID, "whose cameras; readers see one site", "DEFAULT_SITE", required=True),
    Field("camera_id", KNOWN_ID, "the camera", None, required=True),
    Field("recorded_at", TIME, "when it happened", "field(default_factory=now_utc)", required=True),
    Field("event_type", KNOWN_ID, "`motion`, `ding`, …", '"motion"', required=True),
    Field("detections", DETECTIONS, "labelled boxes", "()", amendable=True, stored="beside"),
    Field("recording_id", ID, "of the video that has it", amendable=True),
    Field("motion_confidence", FRACTION, "how sure the motion detector is", amendable=True),
    Field("person_name", NAME, "who was recognised; nothing is a stranger, or nobody looked", amendable=True),
    Field("face_confidence", FRACTION, "how sure the recogniser is", amendable=True),
    Field("face_distance", DISTANCE, "to the nearest known face", amendable=True),
    Field("unlock_granted", FLAG, "whether the lock was told to open", amendable=True),
    Field("door_action", DOOR_ACTION, "what became of the door", amendable=True),
    Field("thumbnail_path", NAME, "of its picture, relative to the data directory", by_daemon=True),
    Field("image_path", NAME, "a sensor's own file; sightlog opens it never", amendable=True),
    Field("llm_description", TEXT, "what a model says of it; searched", amendable=True),
    Field("alert_sent", FLAG, "whether somebody was told", "False", amendable=True),
    Field("created_at", TIME, "when it was stored", by_daemon=True),
    Field("metadata", METADATA, "what else the sensor knows; JSON", amendable=True),
    Field("embedding", EMBEDDING, "of the face", amendable=True, stored="beside"),
    Field("embedding_model", NAME, "which made it", amendable=True, stored="beside"),
    Field("embedding_version", NAME, "of the model", amendable=True, stored="beside"),
    Field("thumbnail", IMAGE, "its picture", stored="file"),
)
PERSON: Final = (
    Field("id", INTEGER, "", by_daemon=True),
    Field("site", KNOWN_ID, "whose cameras", "DEFAULT_SITE", required=True),
    Field("name", NAME, "unique within the site", None, required=True),
    Field("display_name", NAME, "what people are shown"),
    Field("created_at", TIME, "when it was stored", by_daemon=True),
)
OBSERVATION: Final = (
    Field("id", INTEGER, "its place in the order in which observations were stored", by_daemon=True),
    Field("observation_id", ID, "unique", "field(default_factory=new_id)", required=True),
    Field("site", KNOWN_ID, "whose cameras", "DEFAULT_SITE", required=True),
    Field("recorded_at", TIME, "when it was made", "field(default_factory=now_utc)", required=True),
    Field("event_id", ID, "the event it is about, which may come later"),
    Field("content", TEXT, "the text; searched", None, required=True),
    Field("source", NAME, "the model, process or person", None, required=True),
    Field("embedding", EMBEDDING, "of the text"),
    Field("embedding_model", NAME, "which made it"),
    Field("embedding_version", NAME, "of the model"),
    Field("metadata", METADATA, "what else is known; JSON"),
    Field("created_at", TIME, "when it was stored", by_daemon=True),
)
AMENDMENT: Final = (
    *(field for field in EVENT if field.name in ("event_id", "site")),
    *(field for field in EVENT if field.amendable),
)


def _columns(fields: tuple[Field, ...]) -> tuple[str, ...]:
    return tuple(field.name for field in fields if field.stored == "column")


EVENT_COLUMNS: Final = _columns(EVENT)
OBSERVATION_COLUMNS: Final = _columns(OBSERVATION)
PERSON_COLUMNS: Final = _columns(PERSON)
DETECTION_COLUMNS: Final = ("event_id", "position", "label", "confidence", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
AMENDABLE_COLUMNS: Final = tuple(field.name for field in EVENT if field.amendable and field.stored == "column")
"""Of `events`."""
AMENDABLE: Final = tuple(field.name for field in EVENT if field.amendable and field.kind is not DETECTIONS)
"""What an amendment sets; detections it adds."""
FLAGS: Final = frozenset(field.name for field in EVENT if field.kind is FLAG)
"""Which SQLite has as 0 and 1."""
TIMES: Final = frozenset(field.name for field in (*EVENT, *OBSERVATION) if field.kind is TIME)
_FACE: Final = ("embedding", "embedding_model", "embedding_version")
EXPORTED_OF_EVENT: Final = (*EVENT_COLUMNS, *_FACE)
"""And the detections."""
EXPORTED_OF_OBSERVATION: Final = (*(name for name in OBSERVATION_COLUMNS if name not in _FACE), *_FACE)


# -- filters ---------------------------------------------------------------------------------------------------------

AT_LOCK: Final = "(unlock_granted IS NOT NULL OR door_action IN ('unlocked', 'locked'))"
"""The condition of events_at_lock, word for word: SQLite takes a partial index only where it finds that again."""
INDEXES: Final[Mapping[str, str]] = {
    "events_by_person": "",
    "events_at_lock": AT_LOCK,
    "events_by_type": "event_type <> 'motion'",
    "events_by_camera": "",
    "events_by_time": "",
}
"""To drive a query from, and the condition of a partial one; the one with the fewest rows first. SQLite, without
statistics, would guess."""


class Filter(NamedTuple):
    """Of events: the argument of `Reader.find_events`, and the option of the commands."""

    name: str
    type: str
    default: str
    doc: str
    sql: str
    """A condition with one `?`, or none for a flag."""
    matches: Callable[[Event, Any], bool]
    """Whether the reader would give the event: for those that come by `follow`."""
    option: str
    arguments: Mapping[str, Any] = {}
    """Of the option, for argparse."""
    drives: Callable[[Any], str | None] = lambda _: None
    """The index that drives the query, for a value."""
    group: str = ""
    """Of those with one name only one may be given."""


FILTERS: Final = (
    Filter(
        "camera_id", "str | None", "None", "of this camera", "camera_id = ?",
        lambda event, value: event.camera_id == value,
        "--camera", {"metavar": "ID"}, lambda _: "events_by_camera",
    ),
    Filter(
        "event_type", "str | None", "None", "of this type: motion, ding, …", "event_type = ?",
        lambda event, value: event.event_type == value,
        "--type", {"metavar": "TYPE"}, lambda value: "events_by_type" if value != "motion" else None,
    ),
    Filter(
        "person", "str | None", "None", "where this person was recognised", "person_name = ?",
        lambda event, value: event.person_name == value,
        "--person", {"metavar": "NAME"}, lambda _: "events_by_person", "who",
    ),
    Filter(
        "stranger", "bool", "False", "where nobody was recognised", "person_name IS NULL",
        lambda event, _: event.person_name is None,
        "--stranger", {"action": "store_const", "const": True}, group="who",
    ),
    Filter(
        "unlock_granted", "bool | None", "None", "where unlocking was granted or refused", "unlock_granted = ?",
        lambda event, value: event.unlock_granted == value,
        "--unlock", {"choices": {"granted": True, "refused": False}, "metavar": "ANSWER"}, lambda _: "events_at_lock",
    ),
    Filter(
        "door_action", "DoorAction | None", "None", "unlocked, locked or none", "door_action = ?",
        lambda event, value: event.door_action == value,
        "--door", {"choices": DOOR_ACTIONS, "metavar": "ACTION"},
        lambda value: "events_at_lock" if value != "none" else None,
    ),
    Filter(
        "alert_sent", "bool | None", "None", "about which no alert was sent yet", "alert_sent = ?",
        lambda event, value: event.alert_sent == value,
        "--unsent", {"action": "store_const", "const": False},
    ),
)  # fmt: skip
"""Those of a column. `label`, with `min_confidence`, asks the detections: `reader.filters` has them."""
