"""What a client encodes: any valid record arrives equal, an invalid one is told to the caller, never to the daemon."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import Enum

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightlog import (
    Amendment,
    Detection,
    Event,
    InvalidRecord,
    NotNow,
    Person,
    SpoolFull,
    TemporaryError,
)
from sightlog.errors import ProtocolError
from sightlog.protocol import encoding, messages
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.limits import (
    COORDINATE_MAX,
    DETECTIONS_MAX,
    DOOR_ACTIONS,
    FACE_DISTANCE_MAX,
    IMAGE_BYTES_MAX,
    INTEGER_MAX,
    RECORD_BYTES_MAX,
    TEXT_CHARS_MAX,
)
from sightlog.protocol.messages import Position
from sightlog.text import is_harmful
from sightlogd.protocol.decoder import (
    AmendmentRecord,
    EventRecord,
    PersonRecord,
    decode_body,
    decode_header,
    decode_record,
)

settings.register_profile("repeatable", derandomize=True, max_examples=300, deadline=None)
settings.load_profile("repeatable")

# -- any valid record ------------------------------------------------------------------------------------------------

ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}", fullmatch=True)
unicode = st.characters(exclude_categories=["Cs"])
names = st.text(unicode.filter(lambda c: not is_harmful(c)), min_size=1, max_size=256)
texts = st.text(unicode.filter(lambda c: c != "\0"), max_size=300)
fractions = st.one_of(st.floats(0, 1), st.sampled_from([0, 1, -0.0, 5e-324, np.float32(0.5), np.int64(1)]))
coordinates = st.floats(-COORDINATE_MAX, COORDINATE_MAX) | st.integers(-(10**9), 10**9)
boxes = st.tuples(*[coordinates] * 4)
detections = st.builds(Detection, names, fractions, st.none() | boxes)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC) | zones)  # noqa: DTZ001
metadata = st.dictionaries(
    names,
    names | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.floats(allow_nan=False, allow_infinity=False),
    min_size=1,
    max_size=5,
)
LATER = {
    "recording_id": st.none() | ids,
    "motion_confidence": st.none() | fractions,
    "person_name": st.none() | names,
    "face_confidence": st.none() | fractions,
    "face_distance": st.none() | st.floats(0, FACE_DISTANCE_MAX) | st.integers(0, 10**6),
    "unlock_granted": st.none() | st.booleans(),
    "door_action": st.none() | st.sampled_from(DOOR_ACTIONS),
    "image_path": st.none() | names,
    "llm_description": st.none() | texts,
    "metadata": st.none() | metadata,
}
valid_events = st.builds(
    Event,
    ids,
    ids,
    event_id=ids,
    site=ids,
    recorded_at=moments,
    detections=st.lists(detections, max_size=5),
    alert_sent=st.booleans(),
    thumbnail=st.none() | st.binary(max_size=50),
    **LATER,
)
valid_amendments = st.builds(
    Amendment,
    ids,
    site=ids,
    detections=st.lists(detections, max_size=5) | st.just(()),
    alert_sent=st.none() | st.booleans(),
    **LATER,
).filter(
    lambda amendment: amendment.detections or any(getattr(amendment, f) is not None for f in (*LATER, "alert_sent"))
)
valid_persons = st.builds(Person, names, st.none() | names, ids)


def assert_arrived(record, decoded) -> None:
    for field in decoded.__struct_fields__:
        sent, found = getattr(record, field), getattr(decoded, field)
        if field == "recorded_at":
            cut = sent.astimezone(UTC)
            sent, found = cut.replace(microsecond=cut.microsecond // 1000 * 1000), datetime.fromisoformat(found)
        elif field == "detections":
            sent = [(d.label, float(d.confidence), d.bbox and tuple(map(float, d.bbox))) for d in sent]
            found = [(d.label, d.confidence, d.bbox) for d in found]
        assert found == sent, field


@given(valid_events)
def test_any_valid_event_arrives_field_by_field(event):
    packed, image = encode_record(event)
    decoded = decode_record(packed)
    assert type(decoded) is EventRecord
    assert_arrived(event, decoded)
    assert image == (event.thumbnail or b"")


@given(valid_amendments)
def test_any_valid_amendment_arrives_field_by_field(amendment):
    packed, image = encode_record(amendment)
    decoded = decode_record(packed)
    assert type(decoded) is AmendmentRecord
    assert_arrived(amendment, decoded)
    assert image == b""


@given(valid_persons)
def test_any_valid_person_arrives_field_by_field(person):
    decoded = decode_record(encode_record(person)[0])
    assert type(decoded) is PersonRecord
    assert_arrived(person, decoded)


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 20, 10, tzinfo=UTC), "2026-11-20T10:00:00.000Z"),
        (datetime(2026, 11, 20, 10, 0, 0, 999_999, tzinfo=UTC), "2026-11-20T10:00:00.999Z"),
        (datetime(2026, 11, 20, 1, tzinfo=timezone(timedelta(hours=2))), "2026-11-19T23:00:00.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_utc_with_fixed_width_and_cut_milliseconds(moment, text):
    assert encoding.format_time(moment) == text


class Nowhere(tzinfo):
    """Says that it is a time zone, and not which."""

    def tzname(self, _moment):
        return "nowhere"

    def utcoffset(self, _moment):
        return None


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 20),  # noqa: DTZ001
        datetime(2026, 11, 20, tzinfo=Nowhere()),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-1))),
        datetime(2026, 11, 20, tzinfo=UTC).date(),
        "2026-11-20T10:00:00.000Z",
        1_795_000_000,
        None,
    ],
    ids=str,
)
def test_a_time_that_names_no_moment_is_refused(moment):
    with pytest.raises(InvalidRecord):
        encoding.format_time(moment)


# -- what the caller gets wrong --------------------------------------------------------------------------------------


class Door(str, Enum):  # noqa: UP042 - as programs had it before StrEnum
    UNLOCKED = "unlocked"


@pytest.mark.parametrize("action", [Door.UNLOCKED, np.str_("unlocked")], ids=["an enum", "numpy"])
def test_a_door_action_that_equals_one_is_sent_as_that_one(action):
    assert decode_record(encode_record(Event("front", door_action=action))[0]).door_action == "unlocked"


NO_NUMBERS = {
    "a bool": True,
    "NumPy's bool": np.True_,
    "text": "0.5",
    "bytes": b"0.5",
    "a list": [0.5],
    "NaN": math.nan,
    "infinity": math.inf,
    "more than a float holds": 10**400,
    "complex": 0.5j,
    "a bit below 0": -1e-9,
    "a bit above 1": 1.0000001,
    "an object": object(),
}


@pytest.mark.parametrize("field", ["motion_confidence", "face_confidence", "detection"])
@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_what_is_no_number_from_0_to_1_is_no_confidence(field, value):
    given = {"detections": [Detection("person", value)]} if field == "detection" else {field: value}
    with pytest.raises(InvalidRecord, match=r"confidence=.*expected a number from 0 to 1"):
        encode_record(Event("front", **given))


BOXES = [(1, 2, 3), (1, 2, 3, 4, 5), (), "1234", (1, 2, 3, math.nan), (1, 2, 3, -math.inf), (1, 2, 3, None)]
BOXES += [(1, 2, 3, 10**400), (1, 2, 3, 1.1e9), (True, 2, 3, 4), 5, {"x1": 1, "y1": 2, "x2": 3, "y2": 4}]


@pytest.mark.parametrize("box", BOXES, ids=repr)
def test_what_is_not_four_finite_numbers_is_no_bbox(box):
    with pytest.raises(InvalidRecord, match=r"bbox=.*expected four finite numbers"):
        encode_record(Event("front", detections=[Detection("person", 0.5, box)]))


@pytest.mark.parametrize("value", [5, 5.0, "jpeg", True, object()], ids=lambda value: type(value).__name__)
def test_a_thumbnail_that_is_not_bytes_is_refused(value):
    with pytest.raises(InvalidRecord, match="thumbnail"):
        encode_record(Event("front", thumbnail=value))


@pytest.mark.parametrize("value", [b"jpeg", bytearray(b"jpeg"), memoryview(b"jpeg"), np.frombuffer(b"jpeg", "uint8")])
def test_a_thumbnail_may_be_any_bytes(value):
    assert encode_record(Event("front", thumbnail=value))[1] == b"jpeg"


@pytest.mark.parametrize("value", [5, True, "abc", [("person", 0.5)], ["person"], [None], {"person": 0.5}], ids=repr)
def test_detections_that_are_none_are_refused(value):
    with pytest.raises(InvalidRecord, match="detections"):
        encode_record(Amendment("id", detections=value))


@pytest.mark.parametrize("record", [None, {}, "event", 5, Detection("person", 0.5)], ids=repr)
def test_what_is_no_record_is_refused(record):
    with pytest.raises(InvalidRecord, match="expected an Event, Amendment, Person or Observation"):
        encode_record(record)


@pytest.mark.parametrize("field", ["id", "thumbnail_path", "created_at"])
def test_a_field_of_the_daemon_is_not_the_producers_to_set(field):
    with pytest.raises(InvalidRecord, match="set by the daemon"):
        encode_record(Event("front", **{field: 1}))


def test_an_amendment_that_changes_nothing_is_refused():
    with pytest.raises(InvalidRecord, match="changes nothing"):
        encode_record(Amendment("id"))


def test_a_record_and_an_image_may_be_as_large_as_the_limits_say_and_no_larger():
    def event(count: int, image: int = 0) -> Event:
        fixed = datetime(2026, 11, 20, tzinfo=UTC)
        many = [Detection("x" * 243, 0.5)] * (DETECTIONS_MAX - 1) + [Detection("y", 0.5)]
        text = "z" * count
        return Event(
            "f", event_id="e", recorded_at=fixed, detections=many, llm_description=text, thumbnail=b"i" * image
        )

    spare = RECORD_BYTES_MAX - len(encode_record(event(1000))[0])
    assert 0 < spare < TEXT_CHARS_MAX - 1000
    packed, image = encode_record(event(1000 + spare, IMAGE_BYTES_MAX))
    assert (len(packed), len(image)) == (RECORD_BYTES_MAX, IMAGE_BYTES_MAX)
    assert type(decode_record(packed)) is EventRecord
    for too_large in (event(1001 + spare), event(1, IMAGE_BYTES_MAX + 1)):
        with pytest.raises(InvalidRecord, match="at most"):
            encode_record(too_large)


def test_a_refused_record_leaves_no_trace_in_the_next_one():
    good = Event("front", event_id="e", recorded_at=datetime(2026, 11, 20, tzinfo=UTC))
    before = encode_record(good)
    with pytest.raises(InvalidRecord, match="not valid Unicode"):
        encode_record(Event("front", llm_description="\ud800"))
    assert encode_record(good) == before


# -- messages --------------------------------------------------------------------------------------------------------

epochs = st.integers(1, 2**63 - 1)
seqs = st.integers(1, 2**63 - 1001)


@given(epochs, seqs, st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.data(), st.booleans())
def test_a_records_message_arrives_with_its_images(epoch, seq, packed, data, flush):
    images = data.draw(st.lists(st.binary(max_size=5), min_size=len(packed), max_size=len(packed)))
    frames = messages.records(Position(epoch, seq), packed, images, flush=flush)
    header = decode_header(frames[0])
    assert (header.first, header.flush, decode_body(frames[1])) == ((epoch, seq), flush, packed)
    assert dict(zip(header.images, frames[2:], strict=True)) == {i: image for i, image in enumerate(images) if image}


positions = st.builds(Position, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))


def resolved(last: Position) -> st.SearchStrategy:
    """With exceptions, one a record, of records up to there."""
    exception = st.tuples(st.integers(1, max(last.seq, 1)), st.sampled_from(["duplicate", "rejected"]), texts)
    count = min(last.seq, 5)
    return st.tuples(st.just(last), st.lists(exception, max_size=count, unique_by=lambda exception: exception[0]))


REPLIES = {
    "ack": positions.flatmap(resolved).map(lambda a: (messages.ack(*a), messages.Ack(*a))),
    "welcome": st.tuples(positions.flatmap(resolved), st.builds(messages.Limits, *[st.integers(1, 2**31)] * 4)).map(
        lambda a: (messages.welcome(*a[0], a[1]), messages.Welcome(*a[0], a[1]))
    ),
    "busy": st.tuples(texts, st.integers(0, 10**9).map(lambda ms: ms / 1000)).map(
        lambda a: (messages.busy(*a), messages.Busy(*a))
    ),
    "resync": (st.none() | positions).map(lambda last: (messages.resync(last), messages.Resync(last))),
    "refused": st.tuples(texts, texts).map(lambda a: (messages.refused(*a), messages.Refused(*a))),
    "pong": st.just((messages.pong(), messages.Pong())),
}


@given(st.one_of(*REPLIES.values()))
def test_any_reply_of_the_daemon_is_read_as_it_was_meant(reply):
    frames, meant = reply
    assert messages.decode_reply(frames) == meant


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = ["last", "exceptions", "limits", "reason", "retry_after_ms", "code"]
odd_replies = st.tuples(st.sampled_from([*REPLIES]), st.dictionaries(st.sampled_from(fields), json)).map(
    lambda reply: msgpack.packb({"kind": reply[0], **reply[1]})
)


@given(
    st.lists(st.binary(max_size=30), max_size=2)
    | st.lists(json.map(msgpack.packb) | odd_replies, min_size=1, max_size=1)
)
@example([msgpack.packb({"kind": "ack", "last": [None, None], "exceptions": []})])
@example([msgpack.packb({"kind": "ack", "last": [1, 5], "exceptions": [["1", "rejected", ""]]})])
@example([msgpack.packb({"kind": "ack", "last": [1, 5], "exceptions": [[6, "rejected", ""]]})])
@example([msgpack.packb({"kind": "ack", "last": [1, 5], "exceptions": [[1, "rejected", "a"], [1, "rejected", "b"]]})])
@example([msgpack.packb({"kind": "busy", "reason": "", "retry_after_ms": math.nan})])
def test_what_is_no_reply_of_the_daemon_is_a_protocol_error(frames):
    try:
        reply = messages.decode_reply(frames)
    except ProtocolError:
        return
    for position in [reply.last] if isinstance(reply, (messages.Ack, messages.Welcome)) else []:
        assert [type(part) for part in position] == [int, int]
        seqs = [seq for seq, _, _ in reply.exceptions]
        assert len(set(seqs)) == len(seqs)
        assert all(type(seq) is int and 0 < seq <= reply.last.seq for seq in seqs)
    if isinstance(reply, messages.Busy):
        assert 0 <= reply.retry_after < math.inf


@pytest.mark.parametrize(
    "frame", [b"\x91" * 10_000 + b"\xc0", b"\xc1", b"", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_garbage_from_the_daemon_is_a_protocol_error(frame):
    with pytest.raises(ProtocolError):
        messages.decode_reply([frame])


def test_what_is_temporary_is_caught_under_both_names():
    with pytest.raises(TemporaryError):
        raise SpoolFull("full")
    assert TemporaryError is NotNow
