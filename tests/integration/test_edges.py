"""Found by attack and by review; each of these once lost, hung, lied or burnt a processor."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from conftest import SMALL_DISK, fill_the_disk, small_file_system, wait_for
from pictures import jpeg, jpeg_of

from sightlog import DatabaseNotFound, Event, InvalidRecord, PublisherClosed, SpoolFull, UsageError
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlog.spool.spool import Spool
from sightlogd.protocol.decoder import REASON_CHARS_MAX, Refusal, decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.store import Store


def test_a_record_published_while_the_hello_is_made_is_not_announced_as_missing(daemon, monkeypatch):
    publisher = daemon.publisher()
    assert publisher.insert_event(Event("warm_up"))
    read_after = Spool.read_after
    racing: list[object] = []

    def read_and_be_overtaken(self, *arguments):
        chunk = read_after(self, *arguments)
        if chunk is None and not racing:
            racing.append(publisher.publish(Event("overtaking")))
        return chunk

    monkeypatch.setattr(Spool, "read_after", read_and_be_overtaken)
    publisher._link._greet()
    publisher._connection.wake()
    wait_for(lambda: racing, "the race")
    assert racing[0].wait(10) == "stored"
    publisher.close()
    assert {event.camera_id for event in daemon.reader().get_recent_events()} == {"warm_up", "overtaking"}


def test_a_publisher_without_a_daemon_sleeps(idle_daemon):
    with idle_daemon.publisher() as publisher:
        publisher.publish(Event("front_door"))
        began, cpu = time.monotonic(), time.process_time()
        wait_for(lambda: time.monotonic() - began > 2.0, "two seconds")
        assert time.process_time() - cpu < 1.0
        publisher.close(timeout=0)


def test_without_a_daemon_what_is_spooled_is_synced_within_seconds(idle_daemon):
    with idle_daemon.publisher() as publisher:
        publisher.publish(Event("front_door"))
        assert publisher._spool.unsynced_since is not None
        wait_for(lambda: publisher._spool.unsynced_since is None, "it survives a power cut")
        publisher.close(timeout=0)


def test_flush_and_close_are_not_kept_for_the_linger_time(idle_daemon):
    idle_daemon.start(config="[ingest]\nlinger_ms = 60000\n")
    with idle_daemon.publisher() as publisher:
        publisher.publish(Event("a"))
        assert publisher.flush(10)
        publisher.publish(Event("b"))
    with idle_daemon.publisher() as publisher:
        assert publisher.spooled == 0
        receipt = publisher.publish(Event("c"))
        assert publisher.flush(0) is False
        assert receipt.wait(10) == "stored"


def test_many_short_lives_without_a_daemon_are_delivered_without_lingering(idle_daemon):
    for _ in range(20):
        with idle_daemon.publisher() as publisher:
            publisher.publish(Event("front_door"))
            publisher.close(timeout=0)
    idle_daemon.start(config="[ingest]\nlinger_ms = 2000\n")
    with idle_daemon.publisher() as publisher:
        wait_for(lambda: publisher.spooled == 0, "all lives are delivered", timeout=15)
    assert idle_daemon.reader().count_events() == 20


def test_receipts_are_right_while_the_exception_of_a_refused_publish_lives(idle_daemon):
    with idle_daemon.publisher(spool_bytes_max=30_000) as publisher:

        def fill() -> None:
            for _ in range(1_000):
                publisher.publish_many([Event("front_door")] * 20)

        with pytest.raises(SpoolFull) as refused:
            fill()
        idle_daemon.start()
        wait_for(lambda: publisher.spooled == 0, "the spool is drained")
        event = Event("garage")
        result = publisher.insert_events([event, event, Event("gate")])
        assert (result.stored, result.duplicates) == (2, 1)
        assert publisher.publish(Event("front_door")).wait(10) == "stored"
    assert refused.value is not None


def test_whoever_waits_is_told_when_the_publisher_closes(idle_daemon):
    publisher = idle_daemon.publisher()
    receipt = publisher.publish(Event("front_door"))
    said: list[BaseException] = []

    def wait():
        try:
            receipt.wait()
        except PublisherClosed as error:
            said.append(error)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    publisher.close(timeout=0)
    waiter.join(10)
    assert len(said) == 1
    with pytest.raises(PublisherClosed, match="sent when this producer starts again"):
        receipt.wait(1)


def test_a_closed_publisher_writes_into_nobody_elses_file(idle_daemon, tmp_path):
    publisher = idle_daemon.publisher()
    receipt = publisher.publish(Event("front_door"))
    publisher.close(timeout=0)
    files = [open(tmp_path / f"file{n}", "w+b", buffering=0) for n in range(40)]  # noqa: SIM115
    with pytest.raises(PublisherClosed):
        receipt.wait(0.1)
    with pytest.raises(PublisherClosed):
        publisher.publish(Event("front_door"), urgent=True)
    publisher.close()
    for file in files:
        assert file.read() == b""
        file.close()


def test_a_spool_whose_records_are_all_acked_takes_new_ones(daemon):
    with daemon.publisher(spool_bytes_max=100_000) as publisher:
        for _ in range(5):
            assert publisher.insert_event(Event("front_door", thumbnail=jpeg_of(60_000)))
        assert publisher.insert_event(Event("front_door"))
        assert publisher.insert_event(Event("front_door", thumbnail=b"x" * 99_700))
        with pytest.raises(InvalidRecord, match="never fit"):
            publisher.publish(Event("front_door", thumbnail=b"x" * 100_000))


def test_two_copies_of_a_spool_behind_a_slow_clock_do_not_share_an_epoch(tmp_path, monkeypatch):
    first = Spool(tmp_path / "a", "camera", 1_000_000)
    first.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr("time.time_ns", lambda: 0)
    copies = [Spool(tmp_path / name, "camera", 1_000_000) for name in "ab"]
    assert copies[0].producer_id == copies[1].producer_id
    assert copies[0].epoch != copies[1].epoch
    for copy in copies:
        copy.close()


@pytest.mark.parametrize("taken", ["removed", "replaced"])
def test_a_database_taken_away_under_the_daemon_is_never_acked_from(daemon, tmp_path, taken):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before"))
        if taken == "replaced":
            shutil.copy(daemon.database, tmp_path / "older.db")
            os.replace(tmp_path / "older.db", daemon.database)
        else:
            daemon.database.unlink()
        receipt = publisher.publish(Event("after"), urgent=True)
        assert daemon.process.wait(20) == 74
        assert receipt.status is None
        assert publisher.spooled == 1
        publisher.close(timeout=0)
    assert "removed, moved or replaced" in daemon.logged()[-1]["event"]


def test_a_follower_of_a_database_that_was_replaced_is_told(daemon, tmp_path):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before"))
    daemon.stop()
    shutil.copy(daemon.database, tmp_path / "backup.db")
    following = daemon.reader().follow(after=0)
    assert next(following).camera_id == "before"
    os.replace(tmp_path / "backup.db", daemon.database)
    with pytest.raises(DatabaseNotFound, match="replaced"):
        next(following)


def test_a_closed_reader_is_a_mistake_and_not_a_damage(daemon):
    reader = daemon.reader()
    reader.close()
    with pytest.raises(UsageError, match="closed"):
        reader.count_events()


def test_a_duplicates_picture_is_not_the_first_events_picture(idle_daemon):
    daemon = idle_daemon.start(config="[ingest]\nlinger_ms = 300\n")
    first = Event("front_door", site="home")
    again = Event("front_door", site="neighbour", event_id=first.event_id, thumbnail=jpeg(1))
    with daemon.publisher() as publisher:
        result = publisher.publish_many([first, again]).wait(10)
        assert (result.stored, result.duplicates) == (1, 1)
        assert publisher.insert_event(again) is False
    assert daemon.reader("home").get_event(first.event_id).thumbnail_path is None
    assert list(daemon.data_dir.glob("events/*/*.jpg")) == []


def test_a_second_daemon_does_not_take_the_socket_of_the_first(daemon, tmp_path):
    second = subprocess.run(
        [sys.executable, "-m", "sightlogd", "run", "--data-dir", tmp_path / "other", "--endpoint", daemon.endpoint],
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert second.returncode == 75
    assert b"another process listens" in second.stderr
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("front_door"))


def test_a_socket_that_is_somebody_elses_by_now_is_left_alone_at_the_end(daemon):
    path = daemon.endpoint.removeprefix("ipc://")
    os.unlink(path)
    with open(path, "w") as other:
        other.write("not ours")
    assert daemon.stop() == 0
    assert os.path.exists(path)


def test_a_stale_socket_of_a_killed_daemon_is_taken_over(daemon):
    daemon.kill()
    assert os.path.exists(daemon.endpoint.removeprefix("ipc://"))
    daemon.start()


def test_a_reason_that_quotes_megabytes_is_cut():
    refusal = decode_record(b"\x82\xa4kind\xa5event\xda\xff\xff" + b"k" * 65_535 + b"\x01")
    assert isinstance(refusal, Refusal)
    assert len(refusal.reason) <= REASON_CHARS_MAX


@pytest.fixture
def small_disk(idle_daemon):
    """The data directory on a file system of 16 MB."""
    idle_daemon.settings = SMALL_DISK
    with small_file_system(idle_daemon.data_dir, "16m"):
        yield idle_daemon
        idle_daemon.end()


@pytest.mark.parametrize(("action", "exit_code"), [("refuse", 74), ("shutdown", 28)])
def test_a_start_on_a_full_disk_is_tried_again_or_not_as_the_owner_wants(small_disk, action, exit_code):
    fill_the_disk(small_disk.data_dir / "filler")
    small_disk.start(wait=False, config=f'over_limit_action = "{action}"\n')
    assert small_disk.process.wait(20) == exit_code
    assert "Make room" in small_disk.logged()[-1]["event"]
    (small_disk.data_dir / "filler").unlink()
    small_disk.start()


def test_a_disk_that_fills_up_at_a_checkpoint_or_a_picture_costs_neither_the_daemon_nor_the_picture(small_disk):
    daemon = small_disk.start()
    with daemon.publisher() as publisher:
        for _ in range(3):
            publisher.insert_events([Event("front_door", llm_description="x" * 1_000) for _ in range(600)])
        fill_the_disk(daemon.data_dir / "filler")
        receipts = [publisher.publish(Event("pictured", thumbnail=jpeg(n))) for n in range(5)]
        wait_for(lambda: any("storage_full" in str(line) for line in daemon.logged()), "the refusal")
        assert daemon.process.poll() is None
        assert [receipt.status for receipt in receipts] == [None] * 5
        (daemon.data_dir / "filler").unlink()
        assert {receipt.wait(60) for receipt in receipts} == {"stored"}
    pictured = daemon.reader().get_events_by_camera("pictured", 10)
    assert len(pictured) == 5
    assert all((daemon.data_dir / event.thumbnail_path).exists() for event in pictured)
    assert daemon.stop() == 0
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_checkpoint_that_finds_no_room_leaves_the_records_in_the_wal_and_is_made_up_for(small_disk):
    store = Store(small_disk.data_dir)
    session = Session("p", "camera", b"", 1, START, START)
    count = 0
    while store.wal_pages < 1_000:
        packed = [encode_record(Event("front_door", llm_description="x" * 3_000))[0] for _ in range(50)]
        store.write([Chunk(session, Position(1, count + 1), [decode_record(p) for p in packed], packed)], {}, [])
        count += 50
    fill_the_disk(small_disk.data_dir / "filler")
    size = store.path.stat().st_size
    assert store.checkpoint_if_due() is True
    assert store.path.stat().st_size == size, "there was room after all"
    assert store._connection.execute("SELECT count(*) FROM events").get == count
    (small_disk.data_dir / "filler").unlink()
    store.close()
    assert store.path.stat().st_size > size
    assert small_disk.database.with_name("events.db-wal").stat().st_size == 0
