"""SIGKILL at the worst moments: what was acked is there once, what was published arrives."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Daemon, wait_for
from ledger import acked, check, published, start_producer

from sightlog import Event

CRASHING = Path(__file__).parent.parent / "crashing_daemon.py"
EVENTS = 4_000
"""Eight batches at the least."""


def start_crashing(daemon: Daemon, point: str, nth: int) -> None:
    command = [sys.executable, str(CRASHING), point, str(nth), "run", "--data-dir", str(daemon.data_dir)]
    with open(daemon.log, "ab") as log:
        daemon.process = subprocess.Popen([*command, "--endpoint", daemon.endpoint], stderr=log)


@pytest.mark.parametrize(
    ("point", "nth"), [("before_commit", 1), ("before_commit", 4), ("after_commit", 1), ("after_commit", 5)]
)
def test_a_daemon_killed_around_its_commit_loses_and_repeats_nothing(idle_daemon, tmp_path, point, nth):
    daemon = idle_daemon
    ledger = tmp_path / "ledger"
    start_crashing(daemon, point, nth)
    producer = start_producer(daemon.endpoint, tmp_path / "spool", "camera", ledger, EVENTS)
    assert daemon.process.wait(30) == -9
    check(daemon.database, {"camera": ledger}, delivered=False)
    daemon.start()
    assert producer.wait(60) == 0
    assert len(acked(ledger)) == EVENTS
    check(daemon.database, {"camera": ledger}, delivered=True)
    assert daemon.stop() == 0


def test_a_daemon_killed_during_start_starts_again(idle_daemon, tmp_path):
    daemon = idle_daemon
    daemon.start()
    with daemon.publisher() as publisher:
        event = Event("front_door")
        assert publisher.insert_event(event)
    daemon.kill()
    start_crashing(daemon, "in_start", 1)
    assert daemon.process.wait(30) == -9
    daemon.start()
    assert daemon.reader().get_event(event.event_id) == event


def test_the_first_start_killed_midway_leaves_no_half_made_database(idle_daemon):
    start_crashing(idle_daemon, "in_start", 1)
    assert idle_daemon.process.wait(30) == -9
    idle_daemon.start()
    assert idle_daemon.reader().count_events() == 0


def test_a_producer_killed_while_publishing_delivers_the_rest_in_its_next_life(daemon, tmp_path):
    ledger = tmp_path / "ledger"
    for _ in range(3):
        before = len(published(ledger))
        producer = start_producer(daemon.endpoint, tmp_path / "spool", "camera", ledger, 100_000)
        wait_for(lambda at=before + 300: len(published(ledger)) > at, "the producer publishes")
        producer.kill()
        producer.wait()
        check(daemon.database, {"camera": ledger}, delivered=False)
    assert start_producer(daemon.endpoint, tmp_path / "spool", "camera", ledger, 1).wait(60) == 0
    check(daemon.database, {"camera": ledger}, delivered=True)


def test_both_killed_at_once(daemon, tmp_path):
    ledger = tmp_path / "ledger"
    producer = start_producer(daemon.endpoint, tmp_path / "spool", "camera", ledger, 100_000)
    wait_for(lambda: len(acked(ledger)) > 100, "records are acked")
    daemon.kill()
    producer.kill()
    producer.wait()
    check(daemon.database, {"camera": ledger}, delivered=False)
    daemon.start()
    assert start_producer(daemon.endpoint, tmp_path / "spool", "camera", ledger, 1).wait(60) == 0
    check(daemon.database, {"camera": ledger}, delivered=True)


def test_a_producer_that_starts_before_the_daemon_is_delivered_when_it_comes(idle_daemon, tmp_path):
    ledger = tmp_path / "ledger"
    producer = start_producer(idle_daemon.endpoint, tmp_path / "spool", "camera", ledger, 50)
    wait_for(lambda: len(published(ledger)) == 50, "all is published")
    assert acked(ledger) == []
    idle_daemon.start()
    assert producer.wait(60) == 0
    assert len(acked(ledger)) == 50
    check(idle_daemon.database, {"camera": ledger}, delivered=True)


def test_a_publisher_outlives_restarts_of_the_daemon(daemon):
    with daemon.publisher() as publisher:
        for _ in range(3):
            assert publisher.insert_event(Event("front_door"))
            assert daemon.stop() == 0
            receipt = publisher.publish(Event("front_door"))
            assert receipt.status is None
            daemon.start()
            assert receipt.wait(20) == "stored"
    assert daemon.reader().count_events() == 6


def test_a_transaction_left_open_by_a_killed_process_is_rolled_back(daemon):
    with daemon.publisher() as publisher:
        for _ in range(10):
            publisher.insert_event(Event("front_door"))
    daemon.stop()
    script = (
        "import apsw, os, sys; c = apsw.Connection(sys.argv[1]); c.execute('BEGIN IMMEDIATE');"
        "c.execute('PRAGMA cache_size = 1'); c.execute('PRAGMA cache_spill = 1');"
        "c.execute(\"UPDATE events SET camera_id = 'torn'\"); c.execute('DELETE FROM detections');"
        "c.cache_flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(daemon.database)], check=False).returncode == -9
    daemon.start()
    assert daemon.reader().count_events() == 10
    assert {event.camera_id for event in daemon.reader().get_recent_events(100)} == {"front_door"}
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
