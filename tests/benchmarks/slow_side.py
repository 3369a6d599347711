"""On one slow core with a slow disk: python slow_side.py GROUP CORE SECONDS_FILE daemon|raw|spin ARGUMENT…

Joins the control group GROUP, which has the quota; every fsync, SQLite's and Python's, takes so many seconds longer as
SECONDS_FILE says. `daemon` is sightlogd with the arguments; `raw DATABASE EVENTS SINGLES` measures SQLite alone; `spin
SECONDS` computes for so long, and says for how much of it it had the processor.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import bench

sys.path.insert(0, str(Path(__file__).parents[1] / "torture"))

from slow_daemon import SlowDisk

from sightlogd.__main__ import main as sightlogd

BATCH = 1_000


def raw(path: str, events: str, singles: str) -> None:
    connection = bench.raw_connection(Path(path))
    batches = bench.prepared(int(events), BATCH)
    began = time.perf_counter()
    for found, boxes in batches:
        bench.raw_insert(connection, found, boxes)
    rate = int(events) / (time.perf_counter() - began)
    taken = []
    for found, boxes in bench.prepared(int(singles), 1, 1 + int(events)):
        began = time.perf_counter()
        bench.raw_insert(connection, found, boxes)
        taken.append((time.perf_counter() - began) * 1000)
    connection.close()
    print(json.dumps({"rate": rate, "ms": taken}))


def spin(seconds: str) -> None:
    began, before = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < float(seconds):
        pass
    print(json.dumps((time.process_time() - before) / (time.perf_counter() - began)))


def main(group: str, core: str, seconds: str, what: str, *arguments: str) -> int:
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    os.sched_setaffinity(0, {int(core)})
    disk = SlowDisk(Path(seconds))
    fdatasync = os.fdatasync

    def slow_fdatasync(fd: int) -> None:
        disk.wait()
        fdatasync(fd)

    os.fdatasync = slow_fdatasync  # type: ignore[assignment]
    if what == "daemon":
        return sightlogd(list(arguments))
    {"raw": raw, "spin": spin}[what](*arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
