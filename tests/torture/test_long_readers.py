"""A reader that keeps its transaction for the whole run is named, the budget holds, and work goes on when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from commands import run
from conftest import NOBODY, open_to_all, wait_for
from lab import LONG
from ledger import published
from overload import Crowd, check, ending, size_of

from sightlog import Event

LIMIT_GB = 0.4 if LONG else 0.1
# Small batches: each of them writes the same pages of the indices again, and the WAL has them all.
CONFIG = f"""
[ingest]
batch_records_max = 20
[storage]
max_storage_gb = {LIMIT_GB}
keep_free_gb = 0.0
[metrics]
metrics_interval = 1
"""
SPOOL_BYTES = 1 << 20
WAL_BYTES_SMALL = 16 << 20
PRODUCERS = 2
TEXT_CHARS = 200

# Imports first: the interpreter may live where only root may look.
READER = """
import os, sqlite3, sys, time
if sys.argv[2] != "0":
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
while True:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM events").fetchone()
    print("reading", flush=True)
    if sys.argv[3] == "for ever":
        sys.stdin.read()
    connection.execute("COMMIT")
    time.sleep(0.02)
"""


@contextmanager
def reader(daemon, user: int, how: str) -> Iterator[subprocess.Popen[bytes]]:
    output = subprocess.PIPE if how == "for ever" else subprocess.DEVNULL
    command = [sys.executable, "-c", READER, daemon.database, str(user), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
    try:
        if how == "for ever":
            assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def warnings(daemon) -> list[str]:
    return [line["event"] for line in daemon.logged() if "keeps a transaction open" in line["event"]]


def refusals(daemon) -> list[str]:
    return [line["reason"] for line in daemon.logged() if line["event"].startswith("cannot write;")]


@pytest.mark.skipif(os.geteuid() != 0, reason="to read as another user needs root")
@pytest.mark.timeout(120 + 300 * LIMIT_GB)
@pytest.mark.parametrize("user", [NOBODY, 0] if LONG else [NOBODY], ids=lambda user: "other" if user else "same")
def test_a_reader_for_the_whole_run_is_named_and_when_it_ends_work_goes_on(idle_daemon, tmp_path, attack, user):
    attack.on("P6, P7", "a reader that keeps its transaction until the budget is full", "readers")
    daemon = idle_daemon
    daemon.data_dir.mkdir()
    os.chown(daemon.data_dir, 0, NOBODY)
    open_to_all(daemon.data_dir)
    daemon.data_dir.chmod(0o2750)
    daemon.start(config=CONFIG)
    crowd = Crowd(daemon, spool_bytes=SPOOL_BYTES, text_chars=TEXT_CHARS)
    wal = daemon.database.with_name("events.db-wal")
    with ending(crowd), daemon.publisher("calm") as calm:
        assert calm.insert_event(Event("calm"))
        with reader(daemon, user, "in passing"), reader(daemon, user, "for ever") as culprit:
            for number in range(PRODUCERS):
                crowd.start(f"camera{number}")
            wait_for(lambda: warnings(daemon), "the alarm", 60 + 300 * LIMIT_GB)
            assert f"process {culprit.pid} (python" in warnings(daemon)[0]
            name = f"held up by process {culprit.pid} (python"
            wait_for(lambda: f"the WAL is {name}" in run(daemon, "status").stdout, "the status names it")
            wait_for(lambda: refusals(daemon), "the budget is full", 60 + 600 * LIMIT_GB)
            wait_for(lambda: f"MB of it, {name}" in run(daemon, "status").stdout, "it says what is in the way")
            wait_for(lambda: all(map(crowd.refused, crowd.ledgers)), "producers feel it")
            assert size_of(daemon.data_dir) <= 1.05 * LIMIT_GB * 10**9
            largest = wal.stat().st_size
            check(daemon.database, crowd.ledgers)
            attack.runs += 1
            for producer in crowd.processes.values():
                producer.terminate()  # it publishes no more, and waits for its acks
        crowd.end(60)
        wait_for(lambda: wal.stat().st_size < WAL_BYTES_SMALL, "the WAL is small again")
    check(daemon.database, crowd.ledgers, delivered=True)
    assert all(published(ledger) for ledger in crowd.ledgers.values())
    assert "held up by" not in run(daemon, "status").stdout
    assert daemon.stop() == 0
    attack.note = f"the WAL had {largest >> 20} MB"
