"""How long an ack takes, at which rate.

The schedule is open: an event is due at a fixed moment, whether the one before it is acked or not, and its time counts
from the moment when it was due. A stall thus delays everything behind it, as it does for a camera. One thread publishes
and another waits for the acks. An event that is not urgent waits for company (linger_ms, 250 by default): waiting for
its receipt would hurry the daemon, so its status is polled.

Apart from that, one urgent event after the other against raw single commits, in turns.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import bench
import results

from sightlog import Publisher
from sightlog.publisher.receipts import Receipt

ROUNDS = 3
RATES = ((1, 20), (50, 20), (1_000, 10))
"""Urgent events a second, and for how many seconds."""
QUIET_RATE = (50, 20)
QUICK_SECONDS = 2
IN_FLIGHT = 1_000
SATURATED_EVENTS = 30_000
SINGLES, TURNS = 50, 10
"""Raw commits and urgent events in a row, and how often."""
PARTS = ((0.5, 1), (0.99, 100), (0.999, 1_000))
"""Which share of the acks came faster, and how many acks it takes to say so."""
POLL_SECONDS = 0.0005
ACK_SECONDS = 60.0

Take = Callable[[Receipt], None]


def measure(book: results.Book) -> None:
    for turn in range(1 if book.quick else ROUNDS):
        bench.say(f"latency, round {turn + 1}")
        with bench.home() as home, bench.daemon(home / "daemon") as daemon:
            published = singles(book, home, daemon.endpoint)
            with Publisher(daemon.endpoint, "steady", home / "spool") as publisher:
                publisher.flush(ACK_SECONDS)
                for rate, seconds in RATES:
                    waits = scheduled(publisher, rate, QUICK_SECONDS if book.quick else seconds, urgent=True)
                    tell(book, f"urgent, {rate:,}/s", waits)
                    published += len(waits)
                rate, seconds = QUIET_RATE
                waits = scheduled(publisher, rate, QUICK_SECONDS if book.quick else seconds, urgent=False)
                tell(book, f"not urgent, {rate}/s", waits)
                published += len(waits)
                waits = saturated(publisher, 3_000 if book.quick else SATURATED_EVENTS)
                tell(book, f"as fast as it goes, {IN_FLIGHT:,} in flight", waits)
                published += len(waits)
            bench.check("latency", daemon.stored(), published)


def tell(book: results.Book, name: str, waits: list[float]) -> None:
    for part, enough in PARTS:
        if len(waits) >= enough:
            book.value(f"{name}, p{part * 100:g}", "ms to the ack", bench.percentile(waits, part) * 1000)
    if len(waits) < PARTS[1][1]:
        book.value(f"{name}, longest of {len(waits)}", "ms to the ack", max(waits) * 1000)


def scheduled(publisher: Publisher, rate: int, seconds: int, *, urgent: bool) -> list[float]:
    """Waits from the moment when an event was due."""
    events = bench.events(rate * seconds)
    sent: queue.SimpleQueue[tuple[float, Receipt] | None] = queue.SimpleQueue()
    waits: list[float] = []
    take = waited_for if urgent else watched

    def collect() -> None:
        while (item := sent.get()) is not None:
            due, receipt = item
            take(receipt)
            waits.append(time.monotonic() - due)

    collector = threading.Thread(target=collect)
    collector.start()
    began = time.monotonic() + 0.1
    try:
        for number, event in enumerate(events):
            due = began + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            sent.put((due, publisher.publish(event, urgent=urgent)))
    finally:
        sent.put(None)
        collector.join()
    return waits


def waited_for(receipt: Receipt) -> None:
    if receipt.wait(ACK_SECONDS) != "stored":
        raise RuntimeError(f"not stored: {receipt.reason}")


def watched(receipt: Receipt) -> None:
    while receipt.status is None:
        time.sleep(POLL_SECONDS)


def saturated(publisher: Publisher, count: int) -> list[float]:
    """Waits from publish() to the ack, with so many records in flight at most."""
    flying: deque[tuple[float, Receipt]] = deque()
    waits: list[float] = []

    def land() -> None:
        began, receipt = flying.popleft()
        waited_for(receipt)
        waits.append(time.monotonic() - began)

    for event in bench.events(count):
        if len(flying) == IN_FLIGHT:
            land()
        flying.append((time.monotonic(), publisher.publish(event)))
    while flying:
        land()
    return waits


def singles(book: results.Book, home: Path, endpoint: str) -> int:
    """One urgent event after the other, and raw commits of one event each, in turns."""
    raw: list[float] = []
    ours: list[float] = []
    turns = 2 if book.quick else TURNS
    connection = bench.raw_connection(home / "raw.db")
    with Publisher(endpoint, "single", home / "spool") as publisher:
        publisher.flush(ACK_SECONDS)
        for _ in range(turns):
            for found, boxes in bench.prepared(SINGLES, 1, len(raw) + 1):
                began = time.monotonic()
                bench.raw_insert(connection, found, boxes)
                raw.append(time.monotonic() - began)
            for event in bench.events(SINGLES):
                began = time.monotonic()
                publisher.insert_event(event)
                ours.append(time.monotonic() - began)
    connection.close()
    for part, target in ((0.5, "<= 2"), (0.99, "<= 3")):
        ratio = bench.percentile(ours, part) / bench.percentile(raw, part)
        name = f"p{part * 100:g}"
        book.value(f"raw commit of one event, {name}", "ms", bench.percentile(raw, part) * 1000)
        book.value(f"one urgent event, insert_event to the ack, {name}", "ms", bench.percentile(ours, part) * 1000)
        book.value(f"one urgent event / raw commit, {name}", "ratio", ratio, target)
    return len(ours)
