"""What the day logs cost a batch, and how long a purge holds up a commit.

    python tests/benchmarks/files.py [--events N]

The append is timed beside a raw commit of the same events, in turns. For the purge, one producer inserts event after
event while the daemon removes a day of N events with pictures, and before it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bench

from sightlog import Event, Publisher
from sightlog.encoder import encode_record
from sightlogd.changes import EventStored
from sightlogd.decoder import decode_record
from sightlogd.files.daylog import DayLogs
from sightlogd.files.days import Days

BATCHES = (1, 10, 100, 1_000)
ROUNDS = 30
PICTURE = bytes.fromhex("ffd8ffe000104a46494600010100000100010000") + bytes(3_000) + b"\xff\xd9"


def append_ms(home: Path, count: int) -> tuple[list[float], list[float]]:
    """Of appends and of raw commits, in turns."""
    connection = bench.raw_connection(home / f"raw{count}.db")
    logs = DayLogs(home / f"data{count}", Days(None), print, lambda *_: None)
    appends, commits = [], []
    for turn in range(ROUNDS):
        events = bench.events(count)
        found, boxes = bench.rows(events, 1 + turn * count)
        changes = [
            EventStored(row, decode_record(encode_record(event)[0])) for row, event in zip(found, events, strict=True)
        ]
        began = time.perf_counter()
        bench.raw_insert(connection, found, boxes)
        commits.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        logs.write(changes)
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
    with bench.daemon(path, "[storage]\nmin_retention_days = 0\n") as endpoint:
        old = datetime.now(UTC) - timedelta(days=3)
        with Publisher(endpoint, "bulk", path / "spool") as publisher:
            for start in range(0, count, 500):
                publisher.insert_events(
                    [
                        Event("front_door", recorded_at=old, detections=bench.DETECTIONS, thumbnail=PICTURE)
                        for _ in range(min(500, count - start))
                    ]
                )
        with Publisher(endpoint, "steady", path / "spool") as publisher:
            before = acks_ms(publisher, 3.0)
            command = [Path(sys.executable).with_name("sightlogd"), "purge", "--data-dir", path / "data", "--before"]
            process = subprocess.Popen([*command, f"{datetime.now():%Y-%m-%d}"], stdout=subprocess.PIPE)  # noqa: DTZ005
            during = acks_ms(publisher, process)
            assert process.stdout is not None
            return before, during, process.stdout.read().decode().splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, metavar="N")
    options = parser.parse_args()
    print(bench.machine())
    with bench.home() as home:
        print(f"append to events.json and events.log, events with 3 detections; {ROUNDS} rounds; median (min to max)")
        for count in BATCHES:
            appends, commits = append_ms(home, count)
            ratios = [append / commit for append, commit in zip(appends, commits, strict=True)]
            print(f"  batch of {count:5}  append ms  {bench.spread(appends):30}  target < 5")
            print(f"                  / raw commit  {bench.spread(ratios)}")
        before, during, said = purge_ms(home, options.events)
    print(f"purge of {options.events} events with pictures: {said}")
    for name, values in (("before", before), ("during", during)):
        shares = ", ".join(f"p{part * 100:g} {bench.percentile(values, part):.2f}" for part in (0.5, 0.95, 0.99))
        print(f"  insert_event {name:6} ms  {shares}, max {max(values):.2f} ({len(values)} events)")
    print("  target: no commit held up for more than 50 ms")


if __name__ == "__main__":
    main()
