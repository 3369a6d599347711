"""What grows with the database, from ten thousand events to ten million.

At each size: the throughput of a daemon on it, in turns with one on an empty database; queries; `sightlog status`;
starts, after a stop and after SIGKILL in the midst of work; what a start does in the background; the removal of a day.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bench
import results
from costs import sensors, wall_ms
from grown import A_DAY, Grown
from served import Served, served

from sightlog import Event, Publisher, Reader

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BATCH = 1_000
BATCHES = 5
"""In one turn, to one of the two daemons."""
TURNS = 8
ONE_SIDE = (1 + TURNS) * BATCHES * BATCH
CALLS = 40
LAWS = {
    "throughput, to that of an empty database": "O(log n)",
    "recent 20": "O(log n)",
    "20 of a camera": "O(log n)",
    "20 of a time range": "O(log n)",
    "one by id": "O(log n)",
    "sightlog status": "O(1)",
    "start to READY after a stop": "O(1)",
    "start to READY after SIGKILL under load": "O(WAL)",
    "work in the background behind a start": "O(n), in slices",
    "longest insert during a removal": "O(1)",
    f"removal of a day of {A_DAY:,} events": "O(that day)",
}
WAL_SECONDS = 1.0
"""Of work before a SIGKILL."""


def measure(book: results.Book) -> None:
    sizes = SIZES[:2] if book.quick else SIZES
    with bench.home() as home:
        grown = Grown(home / "grown", len(sizes))
        for turn, size in enumerate(sizes):
            bench.say(f"filling up to {size:,} events")
            grown.fill(size)
            is_largest = size == SIZES[-1]
            At(book, home, grown, size, is_largest=is_largest).measure(turn)
        _say_how_it_grew(book, sizes)
        book.about["database"] = f"{grown.database.stat().st_size / 1e9:.2f} GB with {sizes[-1]:,} events"


def _say_how_it_grew(book: results.Book, sizes: Sequence[int]) -> None:
    """Beside the last of each: what it should grow with, and by how much it did."""
    medians = {figure.name: figure.median for figure in book.figures}
    for what, law in LAWS.items():
        first, last = (f"{what}, at {size:,} events" for size in (sizes[0], sizes[-1]))
        grew = f"; {medians[last] / medians[first]:.2g} times what it is with {sizes[0]:,}" if medians[first] else ""
        book.note(last, law + grew)


class At:
    """Everything at one size. Targets are of the largest."""

    def __init__(self, book: results.Book, home: Path, grown: Grown, size: int, *, is_largest: bool) -> None:
        self._book = book
        self._home = home
        self._grown = grown
        self._size = size
        self._is_largest = is_largest
        self._rounds = 1 if book.quick else 5

    def _value(self, what: str, unit: str, value: float, target: str | None = None) -> None:
        self._book.value(f"{what}, at {self._size:,} events", unit, value, target if self._is_largest else None)

    def measure(self, removed: int) -> None:
        with served(self._grown.path) as daemon:
            daemon.resolve()
        for _ in range(3):
            with served(self._grown.path) as daemon:
                self._value("start to READY after a stop", "s", daemon.ready_seconds, "<= 1")
        for _ in range(1 if self._book.quick else 3):
            self._killed()
        with served(self._grown.path) as daemon:
            self._value("work in the background behind a start", "s of a core", daemon.resolve())
            self._throughput(daemon)
            self._queries()
            self._status()
            self._rotation(daemon, removed)

    def _killed(self) -> None:
        with served(self._grown.path) as daemon, sensors(daemon, "full", is_killed=True):
            time.sleep(WAL_SECONDS)
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
        left = daemon.data / "events.db-wal"
        size = left.stat().st_size
        if not size:
            raise RuntimeError("no WAL was left: that start has nothing to recover")
        with served(self._grown.path) as daemon:
            self._value("WAL left by SIGKILL", "MB", size / 1e6)
            self._value("start to READY after SIGKILL under load", "s", daemon.ready_seconds, "<= 1")
            daemon.resolve()

    def _throughput(self, daemon: Served) -> None:
        before, published = last_id(daemon.data), 0
        for turn in range(self._rounds):
            with served(self._home / f"empty-{self._size}-{turn}") as empty:
                mine, theirs = in_turns(daemon, empty)
                bench.check("the empty one", bench.count_rows(empty.data / "events.db", "events"), ONE_SIDE)
            published += ONE_SIDE
            self._value("throughput", "events/s", mine)
            self._value("throughput, to that of an empty database", "ratio", mine / theirs, ">= 0.9")
        bench.check("the grown one", last_id(daemon.data) - before, published)

    def _queries(self) -> None:
        numbers = range(1 + A_DAY * len(SIZES), self._size, max(1, self._size // CALLS)) or range(1, self._size, 500)
        with Reader(self._grown.database) as reader:
            calls: dict[str, Callable[[int], Sequence[Event]]] = {
                "recent 20": lambda _: reader.get_recent_events(20),
                "20 of a camera": lambda _: reader.get_events_by_camera("gate", 20),
                "20 of a time range": lambda number: reader.get_events_by_timerange(
                    self._grown.moment(number), self._grown.moment(number + 20)
                ),
                "one by id": lambda number: [
                    event for event in (reader.get_event(self._grown.event_id(number)),) if event is not None
                ],
            }
            for name, call in calls.items():
                for _ in range(self._rounds):
                    taken = []
                    for number in numbers:
                        began = time.perf_counter()
                        found = call(number)
                        taken.append((time.perf_counter() - began) * 1000)
                        bench.check(name, len(found), 1 if name == "one by id" else 20)
                    self._value(name, "ms", bench.percentile(taken, 0.5))

    def _status(self) -> None:
        command = [Path(sys.executable).with_name("sightlog"), "status", "--data-dir", self._grown.data]
        told = json.loads(subprocess.run([*command, "-o", "json"], check=True, capture_output=True).stdout)
        bench.check("sightlog status", told["events"], bench.count_rows(self._grown.database, "events"))
        for _ in range(self._rounds):
            self._value("sightlog status", "ms", wall_ms(command))

    def _rotation(self, daemon: Served, removed: int) -> None:
        day = self._grown.day(removed)
        with Publisher(daemon.endpoint, "steady", daemon.path / "spool") as publisher:
            self._value("longest insert before a removal", "ms", max(acks_ms(publisher, 2.0)))
            command = [Path(sys.executable).with_name("sightlogd"), "purge", "--data-dir", daemon.data, "--before",
                       self._grown.day(removed + 1)]  # fmt: skip
            began = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                during = acks_ms(publisher, process)
                took = time.perf_counter() - began
                assert process.stdout is not None
                said = process.stdout.read()
        if not re.search(rf"removed {day}: .* {A_DAY:d} events", said):
            raise RuntimeError(f"not all of {day} was removed: {said}")
        self._value(f"removal of a day of {A_DAY:,} events", "s", took)
        self._value("longest insert during a removal", "ms", max(during))
        self._value("median insert during a removal", "ms", bench.percentile(during, 0.5))


def in_turns(*daemons: Served) -> list[float]:
    """Events a second of each: a few batches here, a few there, from publish_many to the last ack."""
    with contextlib.ExitStack() as stack:
        publishers = [stack.enter_context(Publisher(d.endpoint, "bench", d.path / "spool")) for d in daemons]
        seconds = [0.0] * len(publishers)
        for turn in range(1 + TURNS):
            for number, publisher in list(enumerate(publishers))[:: -1 if turn % 2 else 1]:
                batches = [bench.events(BATCH) for _ in range(BATCHES)]
                began = time.perf_counter()
                for receipt in [publisher.publish_many(batch) for batch in batches]:
                    bench.check("a batch", receipt.wait(60).stored, BATCH)
                if turn:  # the first warms up
                    seconds[number] += time.perf_counter() - began
    return [TURNS * BATCHES * BATCH / each for each in seconds]


def acks_ms(publisher: Publisher, until: subprocess.Popen[str] | float) -> list[float]:
    """Of events inserted one after the other, until a process ends or so many seconds have passed."""
    taken = []
    ends = time.monotonic() + until if isinstance(until, float) else 0.0
    while time.monotonic() < ends if isinstance(until, float) else until.poll() is None:
        began = time.perf_counter()
        publisher.insert_event(bench.events(1)[0])
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def last_id(data: Path) -> int:
    with Reader(data / "events.db") as reader:
        return reader.last_id()
