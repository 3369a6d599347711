"""The largest records and pictures are delivered on every transport; what never can be is a dead letter, and told."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import pytest
import zmq
from conftest import wait_for
from pictures import jpeg
from remote import Remote

import sightlog.protocol.encoding
from sightlog import Event, InvalidRecord, Observation, Publisher
from sightlog.protocol import messages
from sightlog.protocol.limits import EMBEDDING_NUMBERS_MAX, IMAGE_BYTES_MAX, RECORD_BYTES_MAX
from sightlog.protocol.messages import Position

SOON = 30
NEAR = sorted({*range(-64, 1, 8), -34, -33, -32, -1})


@pytest.fixture(params=["ipc", "tcp with keys"])
def open_publisher(request, idle_daemon):
    """Opens a publisher by that transport."""
    if request.param == "ipc":
        idle_daemon.start()
        return idle_daemon.publisher
    remote = Remote(idle_daemon)
    front = remote.new("front")
    idle_daemon.start()
    return lambda name="sensor", **options: remote.publisher(name, front, **options)


def padded(size: int) -> bytes:
    picture = jpeg()
    return picture[:-2] + b"\xff\xfe" + b"\0" * (size - len(picture) - 2) + picture[-2:]


def of_size(size: int) -> Observation:
    """A record that takes so many bytes."""
    text, numbers = "\N{DOOR}" * 56_000, [0.5] * EMBEDDING_NUMBERS_MAX
    room = size - len(sightlog.protocol.encoding.encode_record(Observation(text, "model", embedding=numbers))[0])
    return Observation(text + "x" * room, "model", embedding=numbers)


def test_thumbnails_of_every_size_up_to_the_limit_arrive(open_publisher):
    with open_publisher() as publisher:
        for size in NEAR:
            event = Event("door", thumbnail=padded(IMAGE_BYTES_MAX + size))
            assert publisher.insert_event(event, SOON), size
        for size in (1, 33, 64):
            with pytest.raises(InvalidRecord, match="thumbnail takes"):
                publisher.publish(Event("door", thumbnail=padded(IMAGE_BYTES_MAX + size)))
        assert publisher.insert_event(Event("door"), SOON)


def test_records_of_every_size_up_to_the_limit_arrive(open_publisher):
    with open_publisher() as publisher:
        for size in NEAR:
            assert publisher.publish(of_size(RECORD_BYTES_MAX + size)).wait(SOON) == "stored", size
        for size in (1, 64):
            with pytest.raises(InvalidRecord, match="record takes"):
                publisher.publish(of_size(RECORD_BYTES_MAX + size))
        # With a picture too, and a hundred in one call: as many messages as it takes.
        assert publisher.publish_many([of_size(RECORD_BYTES_MAX)] * 20 + [
            Event("door", thumbnail=padded(IMAGE_BYTES_MAX), llm_description="\N{DOOR}" * 65_000)
        ]).wait(60).rejected == 0  # fmt: skip


@pytest.mark.parametrize("part", ["record", "thumbnail"])
@pytest.mark.parametrize("more", [1, 33, 1 << 20])
def test_what_an_earlier_version_spooled_and_nobody_takes_is_a_dead_letter(
    open_publisher, idle_daemon, monkeypatch, caplog, part, more
):
    before, behind = Event("before"), Event("behind")
    with monkeypatch.context() as earlier:  # one whose limits were higher; the daemon does not hear of it yet
        earlier.setattr(sightlog.protocol.encoding, "IMAGE_BYTES_MAX", 8 << 20)
        earlier.setattr(sightlog.protocol.encoding, "RECORD_BYTES_MAX", 8 << 20)
        earlier.setattr(sightlog.protocol.encoding, "TEXT_CHARS_MAX", 8 << 20)
        if part == "record":
            large = Event("large", llm_description="x" * (RECORD_BYTES_MAX + more))
        else:
            large = Event("large", thumbnail=padded(IMAGE_BYTES_MAX + more))
        with Publisher(f"ipc://{idle_daemon.home}/nobody", "sensor", idle_daemon.home / "spool") as publisher:
            for event in (before, large, behind):
                publisher.publish(event)
            publisher.close(timeout=0)
    with open_publisher() as publisher:
        wait_for(lambda: publisher.spooled == 0, "nothing waits", 60)
        assert publisher.insert_event(Event("later"), SOON)
        assert publisher.lost == 0
    connection = sqlite3.connect(f"file:{idle_daemon.database}?mode=ro", uri=True)
    cameras = [camera for (camera,) in connection.execute("SELECT camera_id FROM events ORDER BY id")]
    dead_letters = connection.execute("SELECT status, reason, site FROM dead_letters").fetchall()
    counts = connection.execute("SELECT stored, duplicates, rejected, missing FROM producers").fetchall()
    connection.close()
    assert cameras == ["before", "behind", "later"]
    assert [(status, site) for status, _, site in dead_letters] == [("rejected", None)]
    assert "its producer cannot send it" in dead_letters[0][1]
    assert counts == [(3, 0, 1, 0)]
    kept = list((idle_daemon.home / "spool" / "sensor").glob("*.damaged"))
    assert len(kept) == 1
    assert kept[0].stat().st_size > RECORD_BYTES_MAX + more
    assert "more than any daemon takes" in caplog.text


@contextmanager
def narrow(endpoint: str, frame_bytes: int) -> Iterator[list[bytes]]:
    """A daemon, or a network, that drops connections at larger frames; gives the records it took."""
    context, taken, ended = zmq.Context(), [], threading.Event()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.MAXMSGSIZE, frame_bytes)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(endpoint)

    def serve() -> None:
        known: set[bytes] = set()
        last = Position(0, 0)
        while not ended.is_set():
            if not router.poll(50):
                continue
            route, header, *frames = router.recv_multipart()
            said = msgpack.unpackb(header)
            if said["kind"] == "hello":
                known.add(route)
                reply = messages.welcome(last, [], messages.Limits(1_000, 1 << 20))
            elif route not in known:
                reply = messages.resync(None)
            elif said["kind"] == "records":
                records = msgpack.unpackb(frames[0])
                taken.extend(records)
                last = Position(said["first"][0], said["first"][1] + len(records) - 1)
                reply = messages.ack(last, [])
            else:
                reply = messages.pong()
            router.send_multipart([route, *reply])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()
        router.close()
        context.term()


def test_messages_that_always_end_the_connection_are_told_and_made_smaller(idle_daemon, caplog):
    endpoint = idle_daemon.endpoint
    with narrow(endpoint, 2_000) as taken, idle_daemon.publisher() as publisher:
        events = [Event("door", llm_description="x" * 300) for _ in range(20)]
        publisher.publish_many(events)
        wait_for(lambda: publisher.spooled == 0, "they arrive one by one", 60)
        assert [msgpack.unpackb(record)["event_id"] for record in taken] == [event.event_id for event in events]
    assert "ended 5 times in a row" in caplog.text


def test_a_record_that_always_ends_the_connection_stays_and_is_told(idle_daemon, caplog):
    """Whether the network will take it tomorrow nobody knows."""
    with narrow(idle_daemon.endpoint, 2_000), idle_daemon.publisher() as publisher:
        receipt = publisher.publish(Event("door", llm_description="x" * 3_000))
        wait_for(lambda: "ended 5 times in a row" in caplog.text, "the log says so", 60)
        assert receipt.status is None
        assert publisher.spooled == 1
        publisher.close(timeout=0)
