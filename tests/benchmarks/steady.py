"""A producer in a process of its own: python steady.py ENDPOINT SPOOL NAME RATE

Publishes RATE events a second with 3 detections; 0 is none, and `full` thousands at once, as fast as they are acked.
Says `connected`, waits for a line, works until its input ends, and says how many events were acked.
"""

from __future__ import annotations

import select
import sys
import time

import bench

from sightlog import Publisher

BATCH = 1_000


def main(endpoint: str, spool: str, name: str, rate: str) -> None:
    with Publisher(endpoint, name, spool) as publisher:
        publisher.insert_event(bench.events(1)[0])
        print("connected", flush=True)
        sys.stdin.readline()
        published = full(publisher) if rate == "full" else paced(publisher, float(rate))
        if not publisher.flush(60):
            sys.exit(f"{name}: not everything was acked")
        print(1 + published, flush=True)


def is_over(wait: float) -> bool:
    return bool(select.select([sys.stdin], [], [], max(0.0, wait))[0])


def full(publisher: Publisher) -> int:
    published = 0
    while not is_over(0):
        publisher.publish_many(bench.events(BATCH)).wait(60)
        published += BATCH
    return published


def paced(publisher: Publisher, rate: float) -> int:
    began, published = time.monotonic(), 0
    while not is_over(began + (published + 1) / rate - time.monotonic() if rate else 3_600.0):
        publisher.publish(bench.events(1)[0])
        published += 1
    return published


if __name__ == "__main__":
    main(*sys.argv[1:])
