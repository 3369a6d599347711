"""What a peer that is not our client may send: refused with a reason, kept as a dead letter, nobody else hurt."""

from __future__ import annotations

import socket
import sqlite3
import uuid

import msgpack
import pytest
from peer import Peer

from sightlog import Event
from sightlog.protocol import messages
from sightlog.protocol.messages import Position

EVENT = {
    "kind": "event", "event_id": "e", "site": "default", "camera_id": "front_door",
    "recorded_at": "2026-11-20T10:00:00.000Z", "event_type": "motion",
}  # fmt: skip


@pytest.fixture
def peer(daemon):
    peer = Peer(daemon)
    assert isinstance(peer.hello(), messages.Welcome)
    yield peer
    peer.close()


def event(**changes: object) -> bytes:
    return msgpack.packb({**EVENT, "event_id": str(uuid.uuid4()), **changes})


NAN, INF = float("nan"), float("inf")
BAD = {
    "malformed msgpack": b"\xc1\xc1\xc1",
    "truncated": event()[:-3],
    "trailing bytes": event() + b"\x00",
    "not a map": msgpack.packb([1, 2, 3]),
    "unknown kind": event(kind="robbery"),
    "no kind": msgpack.packb({"event_id": "x"}),
    "unknown field": event(colour="blue"),
    "missing field": msgpack.packb({k: v for k, v in EVENT.items() if k != "camera_id"}),
    "wrong type": event(camera_id=7),
    "bool as number": event(motion_confidence=True),
    "number as bool": event(unlock_granted=1),
    "nan": event(motion_confidence=NAN),
    "inf": event(face_distance=INF),
    "above 1": event(face_confidence=1.0000001),
    "below 0": event(face_distance=-0.1),
    "empty string": event(camera_id=""),
    "nul byte": event(llm_description="a\0b"),
    "control character": event(person_name="a\x1b[2J"),
    "path characters": event(event_id="../../etc/passwd"),
    "leading dot": event(site=".hidden"),
    "too long": event(camera_id="c" * 129),
    "bbox of three": event(detections=[["person", 0.5, [1, 2, 3]]]),
    "bbox with nan": event(detections=[["person", 0.5, [1, 2, 3, NAN]]]),
    "no confidence": event(detections=[["person"]]),
    "time without zone": event(recorded_at="2026-11-20T10:00:00.000"),
    "time with offset": event(recorded_at="2026-11-20T10:00:00+01:0"),
    "no such day": event(recorded_at="2026-02-30T10:00:00.000Z"),
    "door action": event(door_action="explode"),
    "10,000 deep": b"\x91" * 10_000 + b"\x01",
    "deep inside": msgpack.packb(EVENT)[:-7] + b"\x91" * 10_000,
    "oversized": event(llm_description="x" * 300_000),
    "too many detections": event(detections=[["person", 0.5]] * 1001),
    "empty": b"",
    "amendment of nothing known": msgpack.packb({"kind": "amendment", "event_id": "a b", "site": "default"}),
    "person without name": msgpack.packb({"kind": "person", "site": "default", "name": ""}),
}


def test_every_bad_record_is_refused_with_a_reason_and_kept_and_its_neighbours_commit(daemon, peer):
    reasons = {}
    for name, packed in BAD.items():
        before, after = event(), event()
        ack = peer.send(before, packed, after)
        assert [(seq, status) for seq, status, _ in ack.exceptions] == [(peer.seq - 2, "rejected")], name
        reasons[peer.seq - 2] = ack.exceptions[0][2]
        assert reasons[peer.seq - 2], name
    assert daemon.reader().count_events() == 2 * len(BAD)
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    kept = connection.execute("SELECT seq, reason, record FROM dead_letters ORDER BY seq").fetchall()
    connection.close()
    assert {seq: reason for seq, reason, _ in kept} == reasons
    assert [record for _, _, record in kept] == [packed[:4096] for packed in BAD.values()]


BAD_MESSAGES = {
    "no frames worth the name": [b""],
    "garbage header": [b"\xc1\xff\x00"],
    "unknown kind of message": [msgpack.packb({"kind": "shutdown"})],
    "records without a body": [msgpack.packb({"kind": "records", "first": [1, 1]})],
    "body is not an array": [msgpack.packb({"kind": "records", "first": [1, 1]}), msgpack.packb("x")],
    "body of strings": [msgpack.packb({"kind": "records", "first": [1, 1]}), msgpack.packb(["x"])],
    "empty body": [msgpack.packb({"kind": "records", "first": [1, 1]}), msgpack.packb([])],
    "an image for no record": [
        msgpack.packb({"kind": "records", "first": [1, 1], "images": [1]}),
        msgpack.packb([b"x"]),
        b"i",
    ],
    "an image that is not there": [
        msgpack.packb({"kind": "records", "first": [1, 1], "images": [0]}),
        msgpack.packb([b"x"]),
    ],
    "seq beyond 64 bits": [msgpack.packb({"kind": "records", "first": [1, 2**64 - 1]}), msgpack.packb([b"x"])],
    "seq zero": [msgpack.packb({"kind": "records", "first": [1, 0]}), msgpack.packb([b"x"])],
    "a header 10,000 deep": [b"\x91" * 10_000 + b"\x01"],
}


@pytest.mark.parametrize("frames", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_message_that_cannot_be_taken_apart_is_refused_and_the_session_goes_on(daemon, peer, frames):
    reply = peer.ask(frames)
    assert isinstance(reply, messages.Refused)
    assert reply.code == "malformed"
    assert reply.reason
    peer.send(event())
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    assert connection.execute("SELECT count(*) FROM dead_letters WHERE seq = 0").fetchone() == (1,)
    connection.close()


def test_an_unknown_protocol_version_is_refused_by_name(daemon):
    peer = Peer(daemon)
    hello = msgpack.unpackb(messages.hello(peer.producer_id, "peer", 1, Position(1, 1))[0])
    reply = peer.ask([msgpack.packb({**hello, "protocol": 2})])
    assert isinstance(reply, messages.Refused)
    assert reply.code == "protocol"
    assert "protocol 1" in reply.reason
    peer.close()


def test_an_oversized_frame_costs_its_sender_the_connection_and_nobody_else_anything(daemon, peer):
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("front_door"))
        peer.socket.send_multipart([b"x" * (5 * 1024 * 1024)])
        assert publisher.insert_event(Event("front_door"))
    assert daemon.process.poll() is None
    # Reconnected by ZeroMQ: a connection that the daemon does not know.
    assert peer.ask(messages.ping(0, 0, flush=False)) == messages.Resync(None)


def test_records_before_hello_are_answered_by_a_request_for_one(daemon):
    peer = Peer(daemon)
    assert peer.ask(messages.records(Position(1, 1), [event()], [b""], flush=True)) == messages.Resync(None)
    peer.close()


def test_records_that_a_hello_skips_are_counted_as_missing(daemon, peer):
    peer.send(event(), event())
    assert isinstance(peer.ask(messages.hello(peer.producer_id, "peer", 1, Position(1, 8))), messages.Welcome)
    peer.seq = 8
    peer.send(event())
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    query = "SELECT stored, missing FROM producers WHERE producer_id = ?"
    assert connection.execute(query, (peer.producer_id,)).fetchone() == (3, 5)
    connection.close()


def test_a_request_to_the_control_socket_that_never_ends_is_cut_off(daemon):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(daemon.data_dir / "control.sock"))
        client.sendall(b"x" * 4_096)
        assert b"exit_code" in client.makefile("rb").read()
