"""What many records make of one event: never more than an event may hold, and never what a rebuild would leave out."""

from __future__ import annotations

import itertools
import sqlite3
import uuid
from collections.abc import Iterator

import apsw
import daylogs
import msgpack
import pytest
from backups import verify
from conftest import wait_for
from peer import Peer

from sightlog import Amendment, Detection, Event, Observation
from sightlog.protocol.limits import (
    DETECTIONS_MAX,
    EMBEDDING_NUMBERS_MAX,
    METADATA_KEYS_MAX,
    NAME_CHARS_MAX,
    RECORD_BYTES_MAX,
    TEXT_CHARS_MAX,
)
from sightlogd.store.amendments import PENDING_BYTES_MAX

DOOR = "\N{DOOR}"
"""Four bytes."""
QUOTE = '"'
"""Two characters in a line."""


def seen(count: int, label: str = "cat") -> list[Detection]:
    return [Detection(label, 0.123456789, (1.25, 2.25, 3.25, 4.25))] * count


def largest(character: str) -> Iterator[dict[str, object]]:
    """Fields of amendments which leave nothing for another one to add; each goes in one record."""
    yield {"llm_description": DOOR * (TEXT_CHARS_MAX - 100)}
    name = character * NAME_CHARS_MAX
    for _ in range(DETECTIONS_MAX // 200):
        yield {"detections": seen(200, name)}
    numbers = itertools.count()
    yield {"metadata": {f"{next(numbers):03}{name[3:]}": name for _ in range(METADATA_KEYS_MAX)}}
    yield {"embedding": [0.5] * EMBEDDING_NUMBERS_MAX, "embedding_model": name, "embedding_version": name}
    yield {"person_name": name, "image_path": name}


def stops_sound(daemon, tmp_path) -> None:
    """What `verify` calls sound `rebuild` makes again, row for row."""
    assert daemon.stop() == 0
    checked = verify(daemon.data_dir)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def buried(daemon) -> list[tuple[str, str]]:
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT status, reason FROM dead_letters ORDER BY id").fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("first", [0, 1, 400, DETECTIONS_MAX])
def test_an_event_holds_a_thousand_detections_in_all_and_what_is_beyond_is_rejected(daemon, tmp_path, first):
    event = Event("door", detections=seen(first))
    with daemon.publisher() as publisher:
        assert publisher.insert_event(event)
        rest = DETECTIONS_MAX - first
        beyond = publisher.amend(event.event_id, detections=seen(rest + 1 if first else DETECTIONS_MAX))
        assert beyond.wait(10) == ("rejected" if first else "stored")
        if first:
            assert "at most 1,000" in beyond.reason
        fits = publisher.amend(event.event_id, detections=seen(rest) if first and rest else (), person_name="anna")
        assert fits.wait(10) == "stored"
        whole = publisher.amend(event.event_id, detections=seen(1, "dog"), person_name="ben")
        assert whole.wait(10) == "rejected"  # all of it: the name is not taken either
    with daemon.reader() as reader:
        found = reader.get_event(event.event_id)
    assert len(found.detections) == DETECTIONS_MAX
    assert found.person_name == "anna"
    stops_sound(daemon, tmp_path)


def test_amendments_that_wait_and_those_of_one_batch_keep_the_limit_too(daemon, tmp_path):
    event = Event("door", detections=seen(300))
    with daemon.publisher("detector") as detector:
        for label in ("a", "b", "c"):
            assert detector.amend(event.event_id, detections=seen(300, label)).wait(10) == "stored"
        with daemon.publisher() as publisher:
            batch = publisher.publish_many([event, Amendment(event.event_id, detections=seen(300, "d"))], urgent=True)
            assert (batch.wait(10).stored, batch.wait(10).rejected) == (1, 1)
        assert detector.amend(event.event_id, detections=seen(100, "e")).wait(10) == "stored"
    with daemon.reader() as reader:
        labels = [detection.label for detection in reader.get_event(event.event_id).detections]
    assert labels == ["cat"] * 300 + ["a"] * 300 + ["b"] * 300 + ["e"] * 100
    assert [status for status, reason in buried(daemon) if "at most 1,000" in reason] == ["rejected"] * 2
    # Nobody waits for the word about the one that waited.
    assert any("waited for its event" in line["event"] for line in daemon.logged() if line["level"] == "warning")
    stops_sound(daemon, tmp_path)


@pytest.mark.parametrize("character", [DOOR, QUOTE], ids=["door", "quote"])
@pytest.mark.parametrize("waiting", [False, True], ids=["later", "waiting"])
def test_the_largest_event_that_amendments_can_make_is_made_again(daemon, tmp_path, character, waiting):
    event = Event("door")
    with daemon.publisher() as publisher:
        if not waiting:
            assert publisher.insert_event(event)
        for fields in largest(character):
            assert publisher.amend(event.event_id, **fields).wait(20) == "stored"
        if waiting:
            assert publisher.insert_event(event)
    assert buried(daemon) == []
    stops_sound(daemon, tmp_path)


@pytest.mark.parametrize("kind", ["event", "amendment", "waiting", "observation"])
def test_a_record_of_the_largest_size_is_made_again_however_its_numbers_were_packed(daemon, tmp_path, kind):
    """Single floats take four bytes less than those that the daemon makes of them."""
    place = {"event_id": str(uuid.uuid4()), "site": "default"}
    made = {**place, "kind": "event", "camera_id": "door", "recorded_at": "2026-11-20T10:00:00.000Z",
            "event_type": "motion"}  # fmt: skip
    detections = [["x" * 230, 0.5, [1.5, 2.5, 3.5, 4.5]]] * DETECTIONS_MAX
    if kind == "observation":
        record = {"kind": kind, "observation_id": "o", "site": "default", "recorded_at": made["recorded_at"],
                  "source": "m", "metadata": {str(n): n + 0.5 for n in range(METADATA_KEYS_MAX)}}  # fmt: skip
    else:
        record = {**(made if kind == "event" else {**place, "kind": "amendment"}), "detections": detections}
    text = "content" if kind == "observation" else "llm_description"
    pack = msgpack.Packer(use_single_float=True).pack
    room = RECORD_BYTES_MAX - len(pack({**record, text: DOOR * (1 << 14)})) + (1 << 16)
    packed = pack({**record, text: DOOR * (room // 4) + "x" * (room % 4)})
    assert RECORD_BYTES_MAX - 8 < len(packed) <= RECORD_BYTES_MAX
    peer = Peer(daemon)
    try:
        peer.hello()
        parts = {"amendment": [pack(made), packed], "waiting": [packed]}.get(kind, [packed])
        for part in parts:
            assert peer.send(part).exceptions == []
        if kind == "waiting":
            assert peer.send(pack(made)).exceptions == []
    finally:
        peer.close()
    stops_sound(daemon, tmp_path)


def test_what_waits_in_the_logs_alone_is_taken_by_its_event_behind_a_rebuild(idle_daemon, tmp_path):
    """A record of the largest size: made of its line again it takes more bytes than one may that is sent."""
    daemon = idle_daemon.start()
    event = Event("door")
    detections = [["x" * 236, 0.5, [1.5, 2.5, 3.5, 4.5]]] * 985
    packed = msgpack.Packer(use_single_float=True).pack(
        {"kind": "amendment", "event_id": event.event_id, "site": "default", "detections": detections}
    )
    assert RECORD_BYTES_MAX - 5_000 < len(packed) <= RECORD_BYTES_MAX
    peer = Peer(daemon)
    peer.hello()
    assert peer.send(packed).exceptions == []
    peer.close()
    assert daemon.stop() == 0
    for file in daemon.data_dir.glob("events.db*"):
        file.unlink()
    assert daylogs.rebuild(daemon.data_dir, daemon.database).returncode == 0
    daemon.start()
    with daemon.publisher() as publisher:
        assert publisher.insert_event(event)
    assert buried(daemon) == []
    with daemon.reader() as reader:
        assert len(reader.get_event(event.event_id).detections) == len(detections)
    stops_sound(daemon, tmp_path)


def test_amendments_that_wait_are_bounded_by_bytes_and_the_oldest_make_room_aloud(daemon, tmp_path):
    event, text = Event("door"), "x" * (TEXT_CHARS_MAX - 1)
    count = PENDING_BYTES_MAX // TEXT_CHARS_MAX + 5
    with daemon.publisher("describer") as describer:
        amendments = [Amendment(event.event_id, llm_description=f"{number % 10}{text}") for number in range(count)]
        assert describer.publish_many(amendments, urgent=True).wait(60).stored == count
        assert describer.insert_event(event)
    expired = [reason for status, reason in buried(daemon) if status == "expired"]
    assert 5 <= len(expired) <= 8
    assert all("made room" in reason and "8 MiB" in reason for reason in expired)
    assert any("made room" in line["event"] for line in daemon.logged() if line["level"] == "warning")
    stops_sound(daemon, tmp_path)


@pytest.mark.parametrize(
    "by_hand",
    [
        "INSERT INTO detections SELECT id, 1000, 'cat', 0.5, NULL, NULL, NULL, NULL FROM events",
        "UPDATE events SET camera_id = 'front door'",
        "UPDATE events SET face_distance = 1e7",
        "UPDATE events SET created_at = ''",
        "UPDATE observations SET created_at = '2026'",
        "UPDATE observations SET source = ''",
    ],
)
def test_verify_names_every_row_that_a_rebuild_leaves_out(daemon, by_hand):
    """The day logs have them as they are."""
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door", event_id="e1", detections=seen(DETECTIONS_MAX)))
        assert publisher.publish(Observation("A man.", "model", observation_id="o1")).wait(10) == "stored"
    assert daemon.stop() == 0
    connection = apsw.Connection(str(daemon.database))
    connection.execute(by_hand)
    connection.execute("UPDATE day_log_marks SET last_id = 0")
    connection.close()
    daemon.start()
    wait_for(lambda: "added to the day logs" in daemon.log.read_text(), "the lines are written")
    assert daemon.stop() == 0
    checked = verify(daemon.data_dir)
    assert checked.returncode == 74
    assert "a rebuild leaves it out" in checked.stdout or "is no time like" in checked.stdout
    assert daylogs.rebuild(daemon.data_dir, daemon.home / "new.db").returncode == 74
