"""What a record costs the card and the machine: bytes written, fsyncs, memory; against raw SQLite, one commit an event.

Bytes are those that the kernel counts for the daemon's and the raw process (`write_bytes`: whole pages, each time),
with the last checkpoint of both sides and with the day logs. Which file they go to, and fsyncs, are counted by strace
in runs of their own: bytes handed to `write`, so pages of which only a part is new count with that part alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import bench
import results

from sightlog import Publisher

ROUNDS = 3
SLOW_RATE = 10
SLOW_SECONDS = 20
FAST_EVENTS = 20_000
BATCH = 1_000
RAW_EVENTS = SLOW_RATE * SLOW_SECONDS
ACK_SECONDS = 60.0
CALLS = "fsync,fdatasync,write,pwrite64,writev,pwritev,sync_file_range"
CALL = re.compile(r"(\d+) +(\w+)\(\d+<([^>]*)>")
ANSWER = re.compile(r"(\d+) .*= (\d+)$")
"""On a line of its own where another thread's call came between."""
DATABASE = ("events.db", "events.db-wal", "raw.db", "raw.db-wal")
TARGET = "<= 0.333"


class Counted(NamedTuple):
    """By strace, a record."""

    fsyncs: float
    database: float
    """Bytes to the database and its WAL."""
    logs: float
    """Bytes to the days' folders."""


def measure(book: results.Book) -> None:
    slow = (SLOW_RATE, 5 if book.quick else SLOW_SECONDS)
    fast = 4_000 if book.quick else FAST_EVENTS
    for turn in range(1 if book.quick else ROUNDS):
        bench.say(f"cost, round {turn + 1}")
        raw = raw_bytes(50 if book.quick else RAW_EVENTS)
        book.value("raw, a commit an event", "bytes written/event", raw)
        ours = daemon_bytes(book, f"{SLOW_RATE} events/s", *slow)
        book.value(f"{SLOW_RATE} events/s / raw", "ratio", ours / raw, TARGET)
        ours = daemon_bytes(book, f"batches of {BATCH:,}", None, fast)
        book.value(f"batches of {BATCH:,} / raw", "ratio", ours / raw)
    if shutil.which("strace") is None:
        for what in ("fsyncs/event", "bytes handed to write/event"):
            book.missing(f"counted by strace: {what}", what, "strace is not installed")
        return
    bench.say("cost, counting calls with strace")
    counts = {
        "raw, a commit an event": raw_calls(50 if book.quick else RAW_EVENTS),
        f"{SLOW_RATE} events/s": daemon_calls(*slow),
        f"batches of {BATCH:,}": daemon_calls(None, fast),
    }
    for name, counted in counts.items():
        book.value(f"{name}: all", "fsyncs/event", counted.fsyncs)
        book.value(f"{name}: database and WAL", "bytes handed to write/event", counted.database)
        book.value(f"{name}: day logs", "bytes handed to write/event", counted.logs)
    alone = counts[f"{SLOW_RATE} events/s"].database / counts["raw, a commit an event"].database
    book.value(f"{SLOW_RATE} events/s / raw, database and WAL alone", "ratio", alone)


def publish(publisher: Publisher, rate: int | None, amount: int) -> int:
    """`amount` seconds at a rate, or without one `amount` events in batches. Returns how many."""
    publisher.flush(ACK_SECONDS)
    if rate is None:
        receipts = [publisher.publish_many(bench.events(BATCH)) for _ in range(amount // BATCH)]
        return sum(receipt.wait(ACK_SECONDS).stored for receipt in receipts)
    began = time.monotonic()
    for number, event in enumerate(bench.events(rate * amount)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        publisher.publish(event)
    publisher.flush(ACK_SECONDS)
    return rate * amount


# -- as the kernel counts --------------------------------------------------------------------------------------------


def raw_bytes(count: int) -> float:
    with bench.home() as home:
        bench.make_database(home / "raw.db")
        return float(bench.together(1, raw_life, home / "raw.db", count)[0].found) / count


def raw_life(_: int, path: Path, count: int) -> Generator[int, None, None]:
    """To its last checkpoint, which is at close."""
    connection = bench.open_apsw(path)
    batches = bench.prepared(count, 1)
    before = bench.written_bytes()
    yield 0
    for found, boxes in batches:
        bench.raw_insert(connection, found, boxes)
    connection.close()
    yield bench.written_bytes() - before


def daemon_bytes(book: results.Book, name: str, rate: int | None, amount: int) -> float:
    with bench.home() as home, bench.daemon(home / "daemon") as daemon:
        with Publisher(daemon.endpoint, "camera", home / "spool") as publisher:
            before = daemon.spent()
            count = publish(publisher, rate, amount)
            book.value(f"{name}: memory at the end (PSS)", "MB", daemon.memory() / 1e6)
            book.value(f"{name}: peak memory (VmHWM)", "MB", daemon.peak_memory() / 1e6)
        written = daemon.stop().since(before).written_bytes
        bench.check(name, daemon.stored(), count)
    book.value(name, "bytes written/event", written / count)
    return written / count


# -- as strace counts ------------------------------------------------------------------------------------------------


def strace(log: Path) -> list[str | Path]:
    # Stops the process at these calls alone, and says which file each one is of.
    return ["strace", "--seccomp-bpf", "-f", "-y", "-qq", "-s", "0", "-e", f"trace={CALLS}", "-o", log]


def raw_calls(count: int) -> Counted:
    with bench.home() as home:
        bench.make_database(home / "raw.db")
        command = [*strace(home / "calls"), sys.executable, __file__, home / "raw.db", str(count)]
        subprocess.run(command, check=True)
        return counted(home / "calls", count)


def daemon_calls(rate: int | None, amount: int) -> Counted:
    """Without those of its start, and with those of its end: the last checkpoint is among them."""
    with bench.home() as home, bench.daemon(home / "daemon", prefix=strace(home / "calls")) as daemon:
        with Publisher(daemon.endpoint, "camera", home / "spool") as publisher:
            start = (home / "calls").stat().st_size
            count = publish(publisher, rate, amount)
        daemon.stop()
        return counted(home / "calls", count, start)


def counted(log: Path, events: int, start: int = 0) -> Counted:
    calls: dict[str, tuple[str, str]] = {}
    fsyncs, written = 0, Counter[str]()
    for line in log.read_bytes()[start:].decode(errors="replace").splitlines():
        if begun := CALL.match(line):
            calls[begun[1]] = (begun[2], begun[3])
        if (answer := ANSWER.match(line)) is None or answer[1] not in calls:
            continue
        name, file = calls.pop(answer[1])
        if name in ("fsync", "fdatasync"):
            fsyncs += 1
        elif Path(file).name in DATABASE:
            written["database"] += int(answer[2])
        elif "/events/" in file:
            written["logs"] += int(answer[2])
    if not written["database"]:
        raise RuntimeError("strace saw no byte written to a database")
    return Counted(fsyncs / events, written["database"] / events, written["logs"] / events)


def raw_process(path: Path, count: int) -> None:
    """What strace looks at."""
    steps = raw_life(0, path, count)
    next(steps)
    next(steps)


if __name__ == "__main__":
    raw_process(Path(sys.argv[1]), int(sys.argv[2]))
