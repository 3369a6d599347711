"""A full disk, a locked database, a full spool: nothing acked that is not there, everybody told, and work goes on."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import SMALL_DISK, small_file_system, wait_for

from sightlog import (
    AckTimeout,
    DatabaseWriteError,
    Detection,
    Event,
    ProducerFenced,
    Publisher,
    PublisherClosed,
    SpoolFull,
    SpoolInUse,
    UsageError,
)


@pytest.fixture
def small_disk(idle_daemon):
    """The data directory on a file system of 3 MB."""
    idle_daemon.settings = SMALL_DISK
    with small_file_system(idle_daemon.data_dir, "3m"):
        yield idle_daemon
        idle_daemon.end()


def status(daemon):
    command = [Path(sys.executable).with_name("sightlog"), "status", "-o", "json", "--data-dir", daemon.data_dir]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)["daemon"]


def test_a_full_disk_is_reported_loses_nothing_and_work_goes_on_when_there_is_room(small_disk):
    daemon = small_disk
    filler = daemon.data_dir / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    daemon.start()
    acked: list[str] = []
    event = Event("front_door")
    with daemon.publisher() as publisher:

        def fill() -> None:
            nonlocal event
            for _ in range(10_000):
                event = Event("front_door", detections=[Detection("person", 0.5)] * 20, llm_description="x" * 2000)
                publisher.insert_event(event)
                acked.append(event.event_id)

        with pytest.raises(DatabaseWriteError, match="storage_full"):
            fill()
        waiting = publisher.publish(Event("front_door"))
        assert publisher.spooled >= 2
        assert daemon.process.poll() is None
        assert any(line["level"] == "error" and "storage_full" in line["reason"] for line in daemon.logged())
        stored = {event.event_id for event in daemon.reader().get_recent_events(100_000)}
        assert set(acked) <= stored
        assert "storage_full" in status(daemon)["trouble"]
        filler.unlink()
        assert waiting.wait(60) == "stored"
        now = status(daemon)
        assert (now["running"], now["pid"], now["trouble"], now["failure"]) == (True, daemon.process.pid, None, None)
        assert publisher.spooled == 0
    found = [event.event_id for event in daemon.reader().get_recent_events(100_000)]
    assert len(found) == len(set(found)) == len(acked) + 2
    assert set(acked) | {event.event_id} <= set(found)
    assert any(line["event"] == "writing again" for line in daemon.logged())
    assert daemon.stop() == 0


def test_a_locked_database_makes_producers_wait_and_not_lose(daemon):
    holder = sqlite3.connect(daemon.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with daemon.publisher() as publisher:
        with pytest.raises(DatabaseWriteError, match="locked"):
            publisher.insert_event(Event("front_door"), timeout=30)
        holder.execute("ROLLBACK")
        assert publisher.flush(30)
    assert daemon.reader().count_events() == 1
    holder.close()


def test_no_daemon_is_an_ack_timeout_and_the_record_stays_spooled(idle_daemon):
    with idle_daemon.publisher() as publisher:
        with pytest.raises(AckTimeout, match="sightlogd running"):
            publisher.insert_event(Event("front_door"), timeout=0.2)
        assert publisher.spooled == 1
        publisher.close(timeout=0)


def test_a_full_spool_refuses_and_takes_again_when_the_daemon_has_drained_it(idle_daemon):
    with idle_daemon.publisher(spool_bytes_max=20_000) as publisher:
        taken = 0

        def fill() -> None:
            nonlocal taken
            for _ in range(1000):
                publisher.publish(Event("front_door"))
                taken += 1

        with pytest.raises(SpoolFull, match="20000 bytes"):
            fill()
        assert publisher.spooled == taken > 10
        idle_daemon.start()
        assert publisher.flush(20)
        assert publisher.insert_event(Event("front_door"))
    assert idle_daemon.reader().count_events() == taken + 1


def test_one_process_has_a_producers_spool_and_the_next_is_told_which(daemon):
    with daemon.publisher("camera"):
        with pytest.raises(SpoolInUse, match=str(os.getpid())):
            daemon.publisher("camera")
        with daemon.publisher("other") as other:
            assert other.insert_event(Event("front_door"))


def test_a_copied_spool_fences_the_older_process_and_both_records_are_stored(daemon, tmp_path):
    older = daemon.publisher("camera")
    assert older.insert_event(Event("older"))
    subprocess.run(["cp", "-r", tmp_path / "spool", tmp_path / "copy"], check=True)
    with Publisher(daemon.endpoint, "camera", tmp_path / "copy") as newer:
        assert newer.producer_id == older.producer_id
        assert newer.insert_event(Event("newer"))
        lost_race = older.publish(Event("older"))
        with pytest.raises(ProducerFenced, match="Two copies"):
            lost_race.wait(20)
        with pytest.raises(ProducerFenced):
            older.publish(Event("older"))
        older.close()
        again = daemon.publisher("camera")
        assert again.producer_id != newer.producer_id
        assert again.flush(20)
        again.close()
        assert newer.insert_event(Event("newer"))
    cameras = [event.camera_id for event in daemon.reader().get_recent_events()]
    assert sorted(cameras) == ["newer", "newer", "older", "older"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12: what the test is about
def test_a_forked_child_is_refused_clearly_and_the_parent_goes_on(daemon):
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("parent"))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                publisher.publish(Event("child"))
            except PublisherClosed as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                publisher.close()
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert publisher.insert_event(Event("parent"))
    with pytest.raises(PublisherClosed):
        publisher.publish(Event("parent"))


def test_threads_share_a_publisher_and_every_record_arrives_once(daemon):
    with daemon.publisher() as publisher:
        receipts = []

        def work(name: str) -> None:
            receipts.extend(publisher.publish(Event(name)) for _ in range(200))

        threads = [threading.Thread(target=work, args=(f"camera-{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {receipt.wait(10) for receipt in receipts} == {"stored"}
    assert daemon.reader().count_events() == 1600


def test_receipts_can_be_awaited(daemon):
    async def main() -> list[object]:
        with daemon.publisher() as publisher:
            event = Event("front_door")
            one = publisher.publish(event)
            many = publisher.publish_many([Event("a"), event])
            return [await one, await many, await one]

    stored, many, again = asyncio.run(main())
    assert (stored, again) == ("stored", "stored")
    assert (many.stored, many.duplicates, many.rejected) == (1, 1, 0)


def test_a_waiter_is_not_kept_for_the_linger_time(idle_daemon):
    idle_daemon.start(config="[ingest]\nlinger_ms = 60000\n")
    with idle_daemon.publisher() as publisher:
        assert publisher.publish(Event("front_door")).wait(10) == "stored"
        assert publisher.publish_many([Event("a"), Event("b")]).wait(10).stored == 2


def test_records_that_nobody_waits_for_are_committed_after_the_linger_time(idle_daemon):
    idle_daemon.start(config="[ingest]\nlinger_ms = 100\n")
    with idle_daemon.publisher() as publisher:
        receipt = publisher.publish(Event("front_door"))
        wait_for(lambda: receipt.settled, "the batch is committed by itself")


def test_an_endpoint_that_cannot_work_is_refused_at_once(tmp_path):
    for endpoint in ("front door", "ipc://" + "x" * 108, "inproc://a", "tcp://"):
        with pytest.raises(UsageError, match="endpoint"):
            Publisher(endpoint, "camera", tmp_path)


def test_a_sensor_that_forgets_to_close_ends_at_once_and_loses_nothing(daemon, tmp_path):
    script = (
        "import sys; from sightlog import Publisher, Event;"
        "p = Publisher(sys.argv[1], 'camera', sys.argv[2]); [p.publish(Event('a')) for _ in range(500)]"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, daemon.endpoint, tmp_path / "spool"],
        timeout=20,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    with daemon.publisher("camera") as publisher:
        assert publisher.flush(20)
    assert daemon.reader().count_events() == 500


@pytest.mark.parametrize("event", ["ready", "stopping"])
def test_a_stop_in_the_middle_of_a_log_line_is_a_stop(idle_daemon, event):
    idle_daemon.start(program=[str(Path(__file__).parents[1] / "interrupted_daemon.py"), event])
    assert idle_daemon.process.wait(20) == 0 if event == "ready" else idle_daemon.stop() == 0
    told = [entry["event"] for entry in idle_daemon.logged()]
    assert told.count("stopping") == told.count("stopped") == 1


def test_a_stop_commits_and_acks_what_was_received(idle_daemon):
    idle_daemon.start(config="[ingest]\nlinger_ms = 60000\n[log]\nlevel = 'debug'\n")
    with idle_daemon.publisher() as publisher:
        receipt = publisher.publish(Event("front_door"))
        wait_for(lambda: publisher._link.sent.seq == 1, "the record is sent")
        # A ping is answered when all before it was read.
        publisher._link._heard_at = 0.0
        publisher._connection.wake()
        wait_for(lambda: publisher._link._heard_at > 0, "the daemon answers")
        assert receipt.status is None
        assert idle_daemon.stop() == 0
        wait_for(lambda: receipt.status == "stored", "the last ack arrives")
    assert [line["reason"] for line in idle_daemon.logged() if line["event"] == "committed"] == ["stop"]
    assert idle_daemon.reader().count_events() == 1
    assert idle_daemon.database.with_name("events.db-wal").stat().st_size == 0


def test_a_slow_commit_is_a_warning_but_not_each_of_them(idle_daemon):
    idle_daemon.start(config="[log]\nslow_commit_ms = 1\n")
    with idle_daemon.publisher() as publisher:
        for _ in range(5):
            publisher.insert_events([Event("front_door") for _ in range(1_000)])
    warnings = [line for line in idle_daemon.logged() if line["event"] == "slow commit"]
    assert len(warnings) == 1
    assert warnings[0]["level"] == "warning"
    assert warnings[0]["ms"] > 1
