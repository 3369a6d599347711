"""What the daemon takes from the wire: what a client refuses is refused here too, and nothing that arrives raises."""

from __future__ import annotations

import json
import math
import time
from datetime import datetime

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightlog import Amendment, Detection, Event, InvalidRecord, Person
from sightlog.protocol import ids
from sightlog.protocol.encoding import encode_record, format_time
from sightlog.protocol.limits import RECORD_BYTES_MAX
from sightlogd.protocol.decoder import Malformed, Refusal, decode_body, decode_header, decode_record

settings.register_profile("repeatable", derandomize=True, max_examples=300, deadline=None)
settings.load_profile("repeatable")

EVENT = {
    "kind": "event",
    "event_id": "e",
    "site": "default",
    "camera_id": "front",
    "recorded_at": "2026-11-20T10:00:00.000Z",
    "event_type": "motion",
}
AMENDMENT = {"kind": "amendment", "event_id": "e", "site": "default", "alert_sent": True}
PERSON = {"kind": "person", "site": "default", "name": "ada"}
MINIMAL = {"event": EVENT, "amendment": AMENDMENT, "person": PERSON}
CLASSES = {"event": Event, "amendment": Amendment, "person": Person}


def pack(value: object) -> bytes:
    return msgpack.packb(value, unicode_errors="surrogatepass")


def refused(value: object) -> bool:
    return isinstance(decode_record(pack(value)), Refusal)


def client_refuses(packed: dict) -> bool:
    """Whether a program that fills in these fields is told so by the client."""
    fields = {field: value for field, value in packed.items() if field != "kind"}
    if isinstance(fields.get("recorded_at"), str):
        try:
            fields["recorded_at"] = datetime.fromisoformat(fields["recorded_at"])
        except ValueError:
            return True
    if isinstance(fields.get("detections"), list):
        fields["detections"] = [Detection(*item) for item in fields["detections"]]
    try:
        encode_record(CLASSES[packed["kind"]](**fields))
    except InvalidRecord:
        return True
    return False


@pytest.mark.parametrize("kind", MINIMAL)
def test_the_smallest_record_of_a_kind_is_taken(kind):
    assert not refused(MINIMAL[kind])
    assert not client_refuses(MINIMAL[kind])


# -- the same limits on both sides -----------------------------------------------------------------------------------

BAD_IDS = ["", "../x", "a/b", ".hidden", "-x", ":x", "a b", "a\n", "a\0", "é", "１", "a" * 129, "\ud800", 5, 5.0, True]
BAD_IDS += [b"id", ["id"], {"id": 1}]
BAD_NAMES = ["", "a\0b", "a\nb", "\x1f", "\x7f", "a" * 257, "\ud800", 5, True, b"name", ["name"]]
BAD_TEXTS = ["a\0b", "a" * 65_537, "\udfff", 5, True, b"text", ["text"]]
BAD_FRACTIONS = [
    math.nan,
    math.inf,
    -math.inf,
    -1e-9,
    1.0000001,
    2,
    -1,
    2**63,
    2**64 - 1,
    True,
    False,
    "0.5",
    b"1",
    [0.5],
]
BAD_DISTANCES = [math.nan, math.inf, -1e-9, 1e6 + 1, 2**64 - 1, True, "0.5", [0.5]]
BAD_FLAGS = [0, 1, 0.0, "true", b"", [True]]
BAD_METADATA = [
    {}, [], "frame", {"": 1}, {"a\n": 1}, {1: 1}, {"a": None}, {"a": []}, {"a": ""}, {"a": "b\0"}, {"a": "x" * 257},
    {"a": 2**63}, {"a": -(2**63)}, {"a": float("nan")}, {"a": float("inf")}, {"x" * 257: 1},
    {str(n): n for n in range(33)},
]  # fmt: skip
BAD_DOORS = ["", "open", "Unlocked", "unlocked ", 0, True, b"locked", ["locked"]]
BAD_TIMES = [
    "2026-11-20T10:00:00.000",
    "2026-11-20T10:00:00Z",
    "2026-11-20T10:00:00.00Z",
    "2026-11-20T10:00:00.0000Z",
    "2026-11-20 10:00:00.000Z",
    "2026-11-20T10:00:00,000Z",
    "2026-11-20T10:00:00.000z",
    "2026-11-20T10:00:00.000+00:00",
    "2026-11-20T10:00:00+00:0Z",
    "2026-11-20T10+00:00.000Z",
    "20261120T10:00:00.00000Z",
    "2026-02-30T10:00:00.000Z",
    "2026-13-01T10:00:00.000Z",
    "2026-11-20T24:00:00.000Z",
    "2026-11-20T10:60:00.000Z",
    "2026-11-20T10:00:60.000Z",
    "0000-01-01T00:00:00.000Z",
    "-001-01-01T00:00:00.000Z",
    "２０２６-11-20T10:00:00.000Z",
    "2026-11-20T10:00:00.٠٠٠Z",
    "2026-11-20T10:00:00.000\0",
    "2026-W47-5T10:00:00.000Z",
    " 026-11-20T10:00:00.000Z",
    "",
    0,
    1_795_000_000.5,
    None,
    b"2026-11-20T10:00:00.000Z",
]
BAD_BOXES = [
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [],
    "1234",
    5,
    True,
    [1, 2, 3, math.nan],
    [1, 2, 3, math.inf],
    [1, 2, 3, 1.1e9],
]
BAD_BOXES += [[1, 2, 3, -1.1e9], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, None], [1, 2, 3, 2**64 - 1], [[1], 2, 3, 4]]

IDS = ("event_id", "site", "camera_id", "event_type")
BAD = [
    *[("event", field, value) for field in IDS for value in [*BAD_IDS, None]],
    *[("event", "recording_id", value) for value in BAD_IDS],
    *[("amendment", field, value) for field in ("event_id", "site") for value in [*BAD_IDS, None]],
    *[("person", "site", value) for value in [*BAD_IDS, None]],
    *[("person", "name", value) for value in [*BAD_NAMES, None]],
    *[("person", "display_name", value) for value in BAD_NAMES],
    *[(kind, field, value) for kind in ("event", "amendment") for field, values in {
        "motion_confidence": BAD_FRACTIONS, "face_confidence": BAD_FRACTIONS, "face_distance": BAD_DISTANCES,
        "person_name": BAD_NAMES, "image_path": BAD_NAMES, "llm_description": BAD_TEXTS, "unlock_granted": BAD_FLAGS,
        "alert_sent": BAD_FLAGS, "metadata": BAD_METADATA, "door_action": BAD_DOORS,
    }.items() for value in values],
    *[(kind, "detections", [[label, 0.5]]) for kind in ("event", "amendment") for label in [*BAD_NAMES, None]],
    *[(kind, "detections", [["person", value]]) for kind in ("event", "amendment") for value in [*BAD_FRACTIONS, None]],
    *[(kind, "detections", [["person", 0.5, box]]) for kind in ("event", "amendment") for box in BAD_BOXES],
    *[(kind, "detections", [["person", 0.5]] * 1_001) for kind in ("event", "amendment")],
]  # fmt: skip


def test_what_the_client_refuses_the_daemon_refuses_too():
    taken = [bad for bad in BAD if not refused({**MINIMAL[bad[0]], bad[1]: bad[2]})]
    assert taken == []


def test_what_the_daemon_refuses_the_client_refuses_too():
    spooled = [bad for bad in BAD if not client_refuses({**MINIMAL[bad[0]], bad[1]: bad[2]})]
    assert spooled == []


@pytest.mark.parametrize("value", BAD_TIMES, ids=repr)
def test_a_time_of_any_other_shape_is_refused(value):
    assert refused({**EVENT, "recorded_at": value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "a" * 128),
        ("event_id", "_a.b:c-d"),
        ("camera_id", "0"),
        ("person_name", "é" * 256),
        ("person_name", "🚪" * 256),
        ("person_name", "\xa0"),
        ("llm_description", ""),
        ("llm_description", "🚪" * 60_000),
        ("llm_description", "line\nline\ttab"),
        ("motion_confidence", 0),
        ("motion_confidence", 1),
        ("motion_confidence", -0.0),
        ("motion_confidence", 5e-324),
        ("face_distance", 1_000_000),
        ("recorded_at", "0001-01-01T00:00:00.000Z"),
        ("recorded_at", "9999-12-31T23:59:59.999Z"),
        ("recorded_at", "2024-02-29T00:00:00.000Z"),
        ("detections", [["person", 0.5]] * 1_000),
        ("detections", [["person", 1, [-1e9, 0, 1e9, 0.5]]]),
        ("detections", []),
        ("door_action", "none"),
    ],
)
def test_what_is_just_within_the_limits_is_taken_by_both_sides(field, value):
    record = {**EVENT, field: value}
    assert not refused(record)
    assert not client_refuses(record)


def test_a_record_larger_than_the_limit_is_refused_unread():
    padded = {**EVENT, "llm_description": "🚪" * 65_536}
    assert len(pack(padded)) > RECORD_BYTES_MAX
    assert refused(padded)
    assert client_refuses(padded)
    assert "at most" in decode_record(b"\xc1" * (RECORD_BYTES_MAX + 1)).reason


def test_an_amendment_that_changes_nothing_is_refused_by_both_sides():
    for nothing in ({}, {"detections": []}, {"alert_sent": None}):
        empty = {"kind": "amendment", "event_id": "e", "site": "default", **nothing}
        assert client_refuses(empty)
        assert refused(empty)


# -- shapes a client of ours never makes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *[{key: value for key, value in record.items() if key != left_out}
          for record, keys in ((EVENT, EVENT), (AMENDMENT, ("kind", "event_id", "site")), (PERSON, PERSON))
          for left_out in keys],
        *[{**record, "surprise": 1} for record in MINIMAL.values()],
        *[{**record, "kind": kind} for record in MINIMAL.values() for kind in ("", "telemetry", "Event", 1, None, [])],
        {**PERSON, "kind": "event"},
        {**EVENT, "kind": "person"},
        {**EVENT, "id": 5},
        {**EVENT, "thumbnail_path": "../../etc/passwd"},
        {**EVENT, "detections": None},
        {**EVENT, "detections": {}},
        {**EVENT, "detections": [{"label": "person", "confidence": 0.5}]},
        {**EVENT, "detections": [["person", 0.5, None, 1]]},
        {**EVENT, "detections": [[]]},
        {**EVENT, "alert_sent": None},
        {**EVENT, 5: "a key that is a number"},
        {**EVENT, "event_id": msgpack.ExtType(1, b"e")},
        {**EVENT, "recorded_at": msgpack.Timestamp(0)},
        [], ["event"], {}, None, 5, "event", b"event", True, 0.5,
    ],
    ids=lambda value: repr(value)[-60:],
)  # fmt: skip
def test_a_record_of_another_shape_is_refused(value):
    assert refused(value)


@pytest.mark.parametrize("second", [{"event_id": "../x"}, {"motion_confidence": 2}, {"surprise": 1}])
def test_a_key_given_twice_smuggles_nothing_past_the_checks(second):
    for first, then in ((EVENT, second), (second, EVENT)):
        pairs = [*first.items(), *then.items()]
        packed = bytes([0x80 | len(pairs)]) + b"".join(pack(key) + pack(value) for key, value in pairs)
        decoded = decode_record(packed)
        assert isinstance(decoded, Refusal) or (decoded.event_id == "e" and decoded.motion_confidence is None)


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1a", b"\x81\xa5image", b"\x92\xc0"], ids=repr)
@pytest.mark.parametrize("start", [b"", pack(EVENT)[:-1], pack({**EVENT, "detections": 1})[:-1], b"\x81\xa4kind"])
def test_deep_nesting_is_refused_at_once(nest, start):
    began = time.perf_counter()
    packed = start + nest * 10_000 + b"\xc0"
    assert isinstance(decode_record(packed), Refusal)
    for decode in (decode_header, decode_body):
        with pytest.raises(Malformed):
            decode(packed)
    assert time.perf_counter() - began < 1


def test_a_length_that_promises_more_than_there_is_takes_no_memory():
    for huge in (b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        assert isinstance(decode_record(huge), Refusal)
        for decode in (decode_header, decode_body):
            with pytest.raises(Malformed):
                decode(huge)


def test_a_record_cut_anywhere_or_with_something_behind_it_is_refused():
    packed = pack({**EVENT, "detections": [["person", 0.5, [1, 2, 3, 4]]]})
    assert not isinstance(decode_record(packed), Refusal)
    for length in range(len(packed)):
        assert isinstance(decode_record(packed[:length]), Refusal), length
    assert isinstance(decode_record(packed + b"\xc0"), Refusal)


TELEMETRY = {"kind": "telemetry", "last": [1, 1], "acked": [0, 0], "published": 1}


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "n", "epoch": 0, "first": [1, 1]},
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "n", "epoch": 2**63, "first": [1, 1]},
        {"kind": "hello", "protocol": "1", "producer_id": "p", "name": "n", "epoch": 1, "first": [1, 1]},
        {"kind": "hello", "protocol": 1, "producer_id": "", "name": "n", "epoch": 1, "first": [1, 1]},
        {"kind": "hello", "protocol": 1, "producer_id": "p" * 129, "name": "n", "epoch": 1, "first": [1, 1]},
        {"kind": "hello", "protocol": 1, "producer_id": "p\n", "name": "n", "epoch": 1, "first": [1, 1]},
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "a\x1b[2Jb", "epoch": 1, "first": [1, 1]},
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "n", "epoch": 1, "first": [1, 0]},
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "n", "epoch": 1, "first": [1, 2**63]},
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "n", "epoch": 1, "first": [1]},
        {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "n", "epoch": True, "first": [1, 1]},
        {"kind": "records", "first": [1, 2**63 - 1]},
        {"kind": "records", "first": [-1, 1]},
        {"kind": "records", "first": [1, 1], "flush": 1},
        {"kind": "records", "first": [1, 1], "images": [0] * 1_000},
        {"kind": "records", "first": [1.0, 1.5]},
        {"kind": "ping", "spooled_records": -1},
        {"kind": "ping", "spooled_bytes": 2**64 - 1},
        {"kind": "telemetry", "acked": [1, 1], "published": 1},
        {"kind": "telemetry", "last": [1, 1], "published": 1},
        {"kind": "telemetry", "last": [1, 1], "acked": [0, 0]},
        {**TELEMETRY, "last": [0, 0]},
        {**TELEMETRY, "last": [1, -1]},
        {**TELEMETRY, "acked": [2**63, 1]},
        {**TELEMETRY, "published": -1},
        {**TELEMETRY, "published": None},
        {**TELEMETRY, "lost": 0.5},
        {**TELEMETRY, "spooled_bytes": 2**63},
        {**TELEMETRY, "frames_processed": "many"},
        {**TELEMETRY, "events_created": True},
        {**TELEMETRY, "inference_ms": {"hog": [float("nan")]}},
        {**TELEMETRY, "inference_ms": {"hog": [float("inf")]}},
        {**TELEMETRY, "inference_ms": {"hog": [-0.1]}},
        {**TELEMETRY, "inference_ms": {"hog": [1.0] * 101}},
        {**TELEMETRY, "inference_ms": {f"model{n}": [] for n in range(17)}},
        {**TELEMETRY, "inference_ms": {"../hog": [1.0]}},
        {**TELEMETRY, "inference_ms": {"hog": 1.0}},
        {"kind": "pong"},
        {"kind": None},
        {},
        [],
        "hello",
    ],
    ids=lambda value: json.dumps(value)[:90],
)
def test_a_header_that_breaks_a_limit_is_malformed(header):
    with pytest.raises(Malformed):
        decode_header(pack(header))


def test_a_header_may_carry_what_a_newer_client_adds():
    assert decode_header(pack({"kind": "ping", "temperature": [{"cpu": 51.5}]})).spooled_records == 0


# -- whatever arrives ------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = sorted({*EVENT, *AMENDMENT, *PERSON, "detections", "motion_confidence", "person_name", "door_action", "first"})
twisted = st.builds(
    lambda kind, changes: {**MINIMAL[kind], **changes},
    st.sampled_from([*MINIMAL]),
    st.dictionaries(st.sampled_from(FIELDS), anything, max_size=3),
)
binaries = st.binary(max_size=300) | anything.map(pack) | twisted.map(pack)


@given(binaries)
@example(b"")
def test_nothing_makes_the_decoder_raise_anything_but_malformed(data):
    decode_record(data)
    for decode in (decode_header, decode_body):
        try:
            decode(data)
        except Malformed as error:
            str(error).encode()  # it is sent back and logged
    decoded = decode_record(data)
    if isinstance(decoded, Refusal):
        decoded.reason.encode()


@given(twisted)
def test_what_the_daemon_takes_the_client_would_have_sent(record):
    if not refused(record):
        sent = {key: value for key, value in record.items() if value is not None}
        assert not client_refuses(sent), record


@given(st.text("0123456789:+-.,ZTW \0é", min_size=24, max_size=24) | st.datetimes().map(lambda m: m.isoformat()[:24]))
def test_a_time_that_is_taken_is_the_one_way_to_write_it(text):
    if not refused({**EVENT, "recorded_at": text}):
        assert format_time(datetime.fromisoformat(text)) == text


def test_many_different_ids_are_not_remembered_without_bound():
    for number in range(3 * ids.KNOWN_MAX):
        assert not refused({**EVENT, "camera_id": f"c{number}", "detections": [[f"label {number}", 0.5]]})
    assert 0 < len(ids.known_ids) <= ids.KNOWN_MAX
    assert 0 < len(ids.known_names) <= ids.KNOWN_MAX


def test_what_was_refused_once_is_refused_again():
    for _ in range(3):
        for bad in BAD[:60]:
            assert refused({**MINIMAL[bad[0]], bad[1]: bad[2]})
