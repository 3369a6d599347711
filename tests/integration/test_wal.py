"""The write-ahead log stays small, and who holds it up is told of."""

from __future__ import annotations

import os
import sqlite3

from conftest import wait_for

from sightlog import Event


def wal_bytes(daemon):
    return daemon.database.with_name("events.db-wal").stat().st_size


def test_the_wal_stays_small_while_readers_keep_their_transactions_short(daemon):
    with daemon.publisher() as publisher:
        for _ in range(20):
            publisher.insert_events([Event("front_door", llm_description="x" * 2_000) for _ in range(1_000)])
            assert daemon.reader().get_recent_events(10)
    assert wal_bytes(daemon) < 40_000_000


def test_a_reader_that_keeps_its_transaction_open_is_named_and_the_wal_shrinks_when_it_ends(daemon):
    reader = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, isolation_level=None)
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("front_door"))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()

        def fill():
            publisher.insert_events([Event("front_door", llm_description="x" * 20_000) for _ in range(500)])
            return any("keeps a transaction open" in line["event"] for line in daemon.logged())

        wait_for(fill, "the warning", timeout=60)
        (warning, *_) = [line["event"] for line in daemon.logged() if "keeps a transaction open" in line["event"]]
        assert f"process {os.getpid()} (" in warning
        reader.execute("COMMIT")
        for _ in range(3):
            fill()
        assert wal_bytes(daemon) < 40_000_000
    reader.close()
