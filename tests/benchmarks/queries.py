"""Reader calls on 10,000 events, and what SQLite itself needs to return the same rows.

python tests/benchmarks/queries.py [--events N] [--calls N]
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import bench

from sightlog import Event, Reader

START = datetime(2025, 11, 8, tzinfo=UTC)


def timed(call: Callable[[], object], calls: int) -> list[float]:
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    with bench.home() as home:
        connection = bench.raw_connection(home / "events.db")
        events = [
            Event(
                "front_door" if n % 3 else "garage",
                recorded_at=START + timedelta(seconds=n),
                detections=bench.DETECTIONS,
            )
            for n in range(options.events)
        ]
        for first in range(0, len(events), 1000):
            bench.raw_insert(connection, *bench.rows(events[first : first + 1000], first + 1))
        connection.execute("INSERT INTO schema_version VALUES (1, '001_events.sql', '')")
        reader = Reader(home / "events.db")
        raw = sqlite3.connect(f"file:{home}/events.db?mode=ro", uri=True)
        middle = START + timedelta(seconds=options.events // 2)
        calls: dict[str, Callable[[], list[Event]]] = {
            "get_recent_events(100)": lambda: reader.get_recent_events(100),
            "get_events_by_timerange, 99 rows": lambda: reader.get_events_by_timerange(
                middle, middle + timedelta(seconds=99)
            ),
            "get_events_by_camera(100)": lambda: reader.get_events_by_camera("garage", 100),
            "get_event": lambda: [found] if (found := reader.get_event(events[77].event_id)) else [],
        }
        print(bench.machine())
        print(f"{options.events} events with 3 detections, {options.calls} calls each; ms. Target: p99 < 50 ms")
        for name, call in calls.items():
            rows = len(call())
            ours = timed(call, options.calls)
            theirs = timed(
                lambda rows=rows: raw.execute(
                    "SELECT * FROM (SELECT * FROM events WHERE site = 'default' ORDER BY recorded_at DESC LIMIT ?) e "
                    "JOIN detections d ON d.event_id = e.id",
                    (rows,),
                ).fetchall(),
                options.calls,
            )
            print(
                f"{name:34} {rows:4} rows  p50 {bench.percentile(ours, 0.5):.2f}"
                f"  p99 {bench.percentile(ours, 0.99):.2f}  rows alone p50 {bench.percentile(theirs, 0.5):.2f}"
                f"  ratio {bench.percentile(ours, 0.5) / bench.percentile(theirs, 0.5):.1f}"
            )
        reader.close()
        raw.close()
        connection.close()


if __name__ == "__main__":
    main()
