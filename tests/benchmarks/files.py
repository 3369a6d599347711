"""What the day logs cost a batch, and how long a purge holds up a commit.

The append is timed beside a raw commit of the same events, in turns. For the purge, one producer inserts event after
event while the daemon removes a day of events with pictures, and before it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bench
import results

from sightlog import Event, Publisher
from sightlogd.calendar import Days
from sightlogd.daylogs.writer import DayLogs

BATCHES = (1, 10, 100, 1_000)
ROUNDS = 30
OLD_EVENTS = 20_000
PICTURE = bytes.fromhex("ffd8ffe000104a46494600010100000100010000") + bytes(3_000) + b"\xff\xd9"


def append_ms(home: Path, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Of appends and of raw commits, in turns."""
    connection = bench.raw_connection(home / f"raw{count}.db")
    logs = DayLogs(home / f"data{count}", Days(None), print, lambda *_: None)
    appends, commits = [], []
    for turn in range(rounds):
        events = bench.events(count)
        found, boxes = bench.rows(events, 1 + turn * count)
        change = bench.stored(events, 1 + turn * count)
        began = time.perf_counter()
        bench.raw_insert(connection, found, boxes)
        commits.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        logs.add([change], 0)
        logs.write_all()
        appends.append((time.perf_counter() - began) * 1000)
    logs.close_all()
    connection.close()
    return appends, commits


def acks_ms(publisher: Publisher, until: subprocess.Popen[bytes] | float) -> list[float]:
    """Of events inserted one after the other, until a process ends or so many seconds have passed."""
    taken = []
    ends = time.monotonic() + until if isinstance(until, float) else 0.0
    while time.monotonic() < ends if isinstance(until, float) else until.poll() is None:
        began = time.perf_counter()
        publisher.insert_event(Event("front_door"))
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def purge_ms(home: Path, count: int) -> tuple[list[float], list[float], str]:
    """Of acks before and during the removal of a day, and what the removal said."""
    path = home / "purge"
    with bench.daemon(path, "[storage]\nmin_retention_days = 0\n") as daemon:
        old = datetime.now(UTC) - timedelta(days=3)
        with Publisher(daemon.endpoint, "bulk", path / "spool") as publisher:
            for start in range(0, count, 500):
                publisher.insert_events(
                    [
                        Event("front_door", recorded_at=old, detections=bench.DETECTIONS, thumbnail=PICTURE)
                        for _ in range(min(500, count - start))
                    ]
                )
        with Publisher(daemon.endpoint, "steady", path / "spool") as publisher:
            before = acks_ms(publisher, 3.0)
            command = [Path(sys.executable).with_name("sightlogd"), "purge", "--data-dir", daemon.data, "--before"]
            process = subprocess.Popen([*command, f"{datetime.now():%Y-%m-%d}"], stdout=subprocess.PIPE)  # noqa: DTZ005
            during = acks_ms(publisher, process)
            assert process.stdout is not None
            return before, during, process.stdout.read().decode().splitlines()[0]


def measure(book: results.Book) -> None:
    rounds, old = (3, 1_000) if book.quick else (ROUNDS, OLD_EVENTS)
    with bench.home() as home:
        bench.say("files, appending to the day logs")
        for count in BATCHES:
            appends, commits = append_ms(home, count, rounds)
            name = f"append of {count:,} to events.json and events.log"
            for append, commit in zip(appends, commits, strict=True):
                book.value(name, "ms", append, "<= 5")
                book.value(f"{name} / raw commit", "ratio", append / commit)
        bench.say("files, purging")
        before, during, said = purge_ms(home, old)
    for name, values in (("before", before), ("during", during)):
        note = f"{len(values)} events"
        for part in (0.5, 0.95, 0.99):
            what = f"insert_event {name} a purge, p{part * 100:g}"
            book.value(what, "ms", bench.percentile(values, part), note=note)
        target = "<= 50" if name == "during" else None
        book.value(f"insert_event {name} a purge, longest", "ms", max(values), target, f"{note}; {said}")
