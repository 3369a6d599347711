"""Readers of another user: while the daemon runs, after it was killed, after it stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import pytest
from conftest import AS_NOBODY, NOBODY, Daemon, open_to_all, wait_for

from sightlog import Event

SCRIPT = """
import sys
from sightlog import Reader
with Reader(sys.argv[1]) as reader:
    print(reader.count_events(), len(reader.get_recent_events(10)))
    try:
        reader._connection.execute("DELETE FROM events")
    except Exception as error:
        print(error)
    try:
        print(reader._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
    except Exception as error:
        print(error)
"""

COUNT_WHEN_ASKED = """
from sightlog import Reader
with Reader(sys.argv[1]) as reader:
    while True:
        print(reader.count_events(), flush=True)
        input()
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")


def read_as_nobody(daemon: Daemon) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY + SCRIPT, daemon.database],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def shared(idle_daemon, tmp_path):
    """A data directory as tmpfiles.d makes it: setgid, readable by the readers' group."""
    open_to_all(tmp_path)
    idle_daemon.data_dir.mkdir()
    os.chown(idle_daemon.data_dir, 0, NOBODY)
    idle_daemon.data_dir.chmod(0o2750)
    return idle_daemon.start()


def expect_read_only(said: list[str], count: int) -> None:
    assert said[0] == f"{count} {min(count, 10)}"
    assert "readonly" in said[1]
    assert said[2] != "0"


def test_another_user_reads_and_cannot_write_whatever_became_of_the_daemon(shared):
    with shared.publisher() as publisher:
        publisher.insert_events([Event("front_door") for _ in range(20)])
        expect_read_only(read_as_nobody(shared), 20)
        shared.kill()
        expect_read_only(read_as_nobody(shared), 20)
        shared.start()
        publisher.insert_event(Event("front_door"))
        assert shared.stop() == 0
    expect_read_only(read_as_nobody(shared), 21)


def test_a_daemon_killed_before_the_index_of_its_wal_was_made_keeps_nobody_from_reading(shared):
    with shared.publisher() as publisher:
        publisher.insert_events([Event("front_door") for _ in range(20)])
    command = [sys.executable, "-c", AS_NOBODY + COUNT_WHEN_ASKED, shared.database]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout.readline() == "20\n"
            shared.kill()
            # What such a daemon leaves, while a reader keeps the file alive.
            with shared.database.with_name("events.db-shm").open("r+b") as index:
                index.write(bytes(136))
            for _ in range(2):
                print(file=reader.stdin, flush=True)
                assert reader.stdout.readline() == "20\n"
            shared.start()
            with shared.publisher() as publisher:
                publisher.insert_event(Event("front_door"))
            print(file=reader.stdin, flush=True)
            assert reader.stdout.readline() == "21\n"
        finally:
            reader.kill()


def test_follow_yields_committed_events_in_commit_order_and_resumes_from_a_cursor(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("before") for _ in range(3)])
        reader = daemon.reader()
        cursor = reader.last_id()
        found: list[Event] = []
        events = [Event("front_door") for _ in range(1200)]

        def follow() -> None:
            for event in daemon.reader().follow(after=cursor):
                found.append(event)
                if len(found) == len(events):
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        for start in range(0, 1200, 100):
            publisher.publish_many(events[start : start + 100])
        wait_for(lambda: len(found) == len(events), "all events are followed")
        thread.join()
    assert [event.event_id for event in found] == [event.event_id for event in events]
    resumed = reader.follow(after=found[1100].id)
    assert [next(resumed).event_id for _ in range(99)] == [event.event_id for event in events[1101:]]


def test_follow_passes_over_other_sites_once_and_resumes_without_gap_or_repetition(daemon):
    sites = ("default", "shed")
    with daemon.publisher() as publisher:
        events = [Event("door", site=sites[n % 3 % 2]) for n in range(900)]
        for start in range(0, 900, 90):
            publisher.insert_events(events[start : start + 90])
        ours = [event.event_id for event in events if event.site == "default"]
        found: list[Event] = []
        while len(found) < len(ours):
            # Each time another reader, from the last event dealt with.
            following = daemon.reader().follow(after=found[-1].id if found else 0)
            found += [next(following) for _ in range(min(70, len(ours) - len(found)))]
        assert [event.event_id for event in found] == ours

        reader = daemon.reader("shed")
        following = reader.follow(after=reader.last_id())
        asked: list[str] = []
        read: list[str] = []
        reader._connection.set_trace_callback(asked.append)
        thread = threading.Thread(target=lambda: read.append(next(following).event_id))
        thread.start()
        publisher.insert_event(Event("door"))
        gone_by = daemon.reader().last_id()

        def asks_behind_it() -> bool:
            publisher.insert_event(Event("door"))
            return any(int(found[1]) >= gone_by for query in asked if (found := re.search(r" id > (\d+)", query)))

        wait_for(asks_behind_it, "what another site committed is not read again")
        publisher.insert_event(theirs := Event("door", site="shed"))
        thread.join(20)
        reader._connection.set_trace_callback(None)
    assert read == [theirs.event_id]
