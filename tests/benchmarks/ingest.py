"""Durable ingest, end to end, against raw SQLite in one process: same schema, same rows, same disk.

The clock runs from the common start of all producers, each a process of its own, to the last ack. Events are made
before it starts, as the raw rows are. Every run has a fresh database, and ratios are of runs right behind each other,
so that a noisy neighbour hits both sides.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import bench
import results

from sightlog import Publisher

ROUNDS = 5
EVENTS = 48_000
BATCH = 1_000
PRODUCERS, QUICK_PRODUCERS = (1, 3, 8), (3,)
OTHER_BATCHES = (1, 100, 5_000)
"""Of raw SQLite, to see what a batch is worth."""
ONE_BY_ONE_SHARE = 16
"""A commit an event takes that much longer, so fewer of them do."""
RAW = {
    "apsw": (bench.open_apsw, bench.raw_insert),
    "sqlite3": (bench.open_sqlite3, bench.raw_insert),
    "apsw, the daemon's statements": (bench.open_apsw, bench.insert_many_a_statement),
}
LIBRARIES = ("apsw", "sqlite3")
TARGETS = {"publish_many": ">= 0.85", "publish": ">= 0.6"}
ACK_SECONDS = 60.0


class Published(NamedTuple):
    speed: float
    """Events a second."""
    in_daemon: float
    """Processor seconds an event."""
    in_clients: float


def measure(book: results.Book) -> None:
    count, rounds = (4_800, 1) if book.quick else (EVENTS, ROUNDS)
    book.about["events"] = f"{count:,} with 3 detections a round"
    for turn in range(rounds):
        bench.say(f"ingest, round {turn + 1} of {rounds}")
        one_round(book, count)


def one_round(book: results.Book, count: int) -> None:
    for library in LIBRARIES:
        for batch in OTHER_BATCHES:
            raw_speed(book, library, batch, count if batch > 1 else count // ONE_BY_ONE_SHARE)
    raw_speed(book, "apsw, the daemon's statements", BATCH, count)
    for way in TARGETS:
        for producers in QUICK_PRODUCERS if book.quick else PRODUCERS:
            name = f"{way}, {counted(producers)}"
            raw = {library: raw_speed(book, library, BATCH, count) for library in LIBRARIES}
            found = published(way, producers, count)
            book.value(name, "events/s", found.speed)
            book.value(f"processor time: {name}, daemon", "µs/event", found.in_daemon * 1e6)
            book.value(f"processor time: {name}, clients", "µs/event", found.in_clients * 1e6)
            for library, target in (("apsw", TARGETS[way]), ("sqlite3", ">= 1" if way == "publish_many" else None)):
                book.value(f"{name} / raw {library}, batches of {BATCH:,}", "ratio", found.speed / raw[library], target)


def counted(producers: int) -> str:
    return f"{producers} producer{'s' * (producers > 1)}"


def raw_speed(book: results.Book, library: str, batch: int, count: int) -> float:
    name = f"raw {library}, batches of {batch:,}"
    with bench.home() as home:
        bench.make_database(home / "raw.db")
        turns = bench.together(1, insert_raw, home / "raw.db", library, batch, count)
        bench.check(name, bench.count_rows(home / "raw.db", "events"), count)
    book.value(name, "events/s", count / bench.took(turns))
    book.value(f"processor time: {name}", "µs/event", turns[0].cpu_seconds / count * 1e6)
    return count / bench.took(turns)


def insert_raw(_: int, path: Path, library: str, batch: int, count: int) -> Generator[None, None, None]:
    connect, insert = RAW[library]
    connection = connect(path)
    batches = bench.prepared(count, batch)
    yield
    for found, boxes in batches:
        insert(connection, found, boxes)
    yield
    connection.close()


def published(way: str, producers: int, count: int) -> Published:
    with bench.home() as home, bench.daemon(home / "daemon") as daemon:
        before = daemon.spent()
        turns = bench.together(producers, publish, daemon.endpoint, home / "spool", way, count // producers)
        spent = daemon.spent().since(before)
        bench.check(f"{way}, {counted(producers)}", daemon.stored(), count)
    in_clients = sum(turn.cpu_seconds for turn in turns)
    return Published(count / bench.took(turns), spent.cpu_seconds / count, in_clients / count)


def publish(number: int, endpoint: str, spool: Path, way: str, count: int) -> Generator[None, None, None]:
    """Everything published without a pause, then every ack awaited."""
    with Publisher(endpoint, f"producer{number}", spool) as publisher:
        events = bench.events(count)
        publisher.flush(ACK_SECONDS)
        yield
        if way == "publish_many":
            batches = [publisher.publish_many(events[start : start + BATCH]) for start in range(0, count, BATCH)]
            stored = sum(receipt.wait(ACK_SECONDS).stored for receipt in batches)
        else:
            receipts = [publisher.publish(event) for event in events]
            stored = sum(receipt.wait(ACK_SECONDS) == "stored" for receipt in receipts)
        yield
        bench.check("acks", stored, count)
