"""Durable ingest, end to end, against raw SQLite in one process: same schema, same rows, same batch size, same disk.

    python tests/benchmarks/ingest.py [--events N] [--rounds N]

Rounds are interleaved, so that a noisy neighbour hits both sides.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import bench

from sightlog import Publisher

BATCH = 1_000


def raw_throughput(path: Path, batches: list[list[bench.Event]]) -> float:
    connection = bench.raw_connection(path)
    prepared = [bench.rows(batch, 1 + index * BATCH) for index, batch in enumerate(batches)]
    began = time.perf_counter()
    for found, boxes in prepared:
        bench.raw_insert(connection, found, boxes)
    took = time.perf_counter() - began
    connection.close()
    return len(batches) * BATCH / took


def end_to_end_throughput(endpoint: str, spool: Path, batches: list[list[bench.Event]]) -> float:
    with Publisher(endpoint, "bench", spool) as publisher:
        publisher.flush(10)
        began = time.perf_counter()
        receipts = [publisher.publish_many(batch) for batch in batches]
        for receipt in receipts:
            assert receipt.wait(60).stored == BATCH
        return len(batches) * BATCH / (time.perf_counter() - began)


def raw_latency(path: Path, count: int) -> list[float]:
    connection = bench.raw_connection(path)
    taken = []
    for number, event in enumerate(bench.events(count), 1):
        found, boxes = bench.rows([event], number)
        began = time.perf_counter()
        bench.raw_insert(connection, found, boxes)
        taken.append(time.perf_counter() - began)
    connection.close()
    return taken


def end_to_end_latency(endpoint: str, spool: Path, count: int) -> list[float]:
    taken = []
    with Publisher(endpoint, "bench", spool) as publisher:
        publisher.flush(10)
        for event in bench.events(count):
            began = time.perf_counter()
            assert publisher.insert_event(event)
            taken.append(time.perf_counter() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ratios, raws, ours = [], [], []
    p50s, p99s, raw_p50, our_p50 = [], [], [], []
    for _ in range(options.rounds):
        with bench.home() as home:
            batches = [bench.events(BATCH) for _ in range(options.events // BATCH)]
            raws.append(raw_throughput(home / "raw.db", batches))
            raw = raw_latency(home / "single.db", 500)
            with bench.daemon(home / "daemon") as endpoint:
                ours.append(end_to_end_throughput(endpoint, home / "spool", batches))
                single = end_to_end_latency(endpoint, home / "spool", 500)
        ratios.append(ours[-1] / raws[-1])
        raw_p50.append(bench.percentile(raw, 0.5) * 1000)
        our_p50.append(bench.percentile(single, 0.5) * 1000)
        p50s.append(our_p50[-1] / raw_p50[-1])
        p99s.append(bench.percentile(single, 0.99) / bench.percentile(raw, 0.99))
    print(bench.machine())
    print(
        f"{options.rounds} rounds of {options.events} events with 3 detections, batches of {BATCH}; median (min to max)"
    )
    print(f"raw executemany          events/s  {bench.spread(raws)}")
    print(f"publish_many to ack      events/s  {bench.spread(ours)}")
    print(f"  ratio                            {bench.spread(ratios)}   target >= 0.6")
    print(f"raw single commit        ms        {bench.spread(raw_p50)}")
    print(f"urgent event to ack      ms        {bench.spread(our_p50)}")
    print(f"  ratio p50                        {bench.spread(p50s)}   target <= 3")
    print(f"  ratio p99                        {bench.spread(p99s)}")


if __name__ == "__main__":
    main()
