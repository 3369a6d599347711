"""The ingest figures with the daemon on a quarter of one core of this machine, and 10 ms more for every fsync.

No Pi: another cache, another memory, another card. What it shows is whether the daemon's share of what SQLite can do
is the same when the processor is scarce and the disk is slow. Raw SQLite is confined in the same way; the producers are
not, they have another core where there is one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench
import results
from costs import RATE, SENSORS, sensors

from sightlog import Publisher

SHARE = 0.25
PERIOD_US = 10_000
"""Short, so that what waits for its next share waits for a few milliseconds."""
FSYNC_SECONDS = 0.01
BATCH = 1_000
CPU_V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")
NAMES = (
    ("raw executemany", "events/s"),
    ("publish_many to ack", "events/s"),
    ("publish_many to ack, to raw", "ratio"),
    ("publish to ack", "events/s"),
    ("publish to ack, to raw", "ratio"),
    ("raw single commit, p50", "ms"),
    ("urgent event to ack, p50", "ms"),
    ("urgent event to ack, p99", "ms"),
    ("urgent event to ack, p50 to raw's", "ratio"),
    (f"processor, {RATE} records/s from {SENSORS} producers", "% of a core"),
)


def measure(book: results.Book) -> None:
    book.about["confined to"] = f"{SHARE:.0%} of one core in periods of {PERIOD_US / 1000:g} ms"
    book.about["every fsync"] = f"{FSYNC_SECONDS * 1000:g} ms longer"
    try:
        with group() as folder, bench.home() as home:
            Side(book, home, folder).measure()
    except Unconfined as why:
        for name, unit in NAMES:
            book.missing(name, unit, str(why))


class Unconfined(Exception):
    """There is no control group to be had. The text says why."""


@contextmanager
def group() -> Iterator[Path]:
    """A control group with the quota, of version 1 or 2. Raises Unconfined."""
    name = f"sightlog-bench-{os.getpid()}"
    quota = int(SHARE * PERIOD_US)
    try:
        if CPU_V1.is_dir():
            folder = CPU_V1 / name
            settings = {"cpu.cfs_period_us": f"{PERIOD_US}", "cpu.cfs_quota_us": f"{quota}"}
        elif "cpu" in (V2 / "cgroup.controllers").read_text().split():
            folder = V2 / name
            (V2 / "cgroup.subtree_control").write_text("+cpu")
            settings = {"cpu.max": f"{quota} {PERIOD_US}"}
        else:
            raise Unconfined("this system's control groups have no cpu controller")
        folder.mkdir()
    except OSError as error:
        raise Unconfined(f"no control group with a quota can be made: {error}; run it as root") from error
    try:
        for file, value in settings.items():
            (folder / file).write_text(value)
        yield folder
    except PermissionError as error:
        raise Unconfined(f"the control group takes no quota: {error}") from error
    finally:
        folder.rmdir()


class Side:
    """What is measured behind the confinement."""

    def __init__(self, book: results.Book, home: Path, folder: Path) -> None:
        self._book = book
        self._home = home
        self._seconds = home / "fsync-seconds"
        self._seconds.write_text(str(FSYNC_SECONDS))
        core, *others = sorted(os.sched_getaffinity(0))
        self._others = set(others)
        self._command = [str(Path(__file__).with_name("slow_side.py")), str(folder), str(core),
                         str(self._seconds)]  # fmt: skip

    def _run(self, *arguments: object) -> Any:
        told = subprocess.run(
            [sys.executable, *self._command, *map(str, arguments)], check=True, stdout=subprocess.PIPE
        ).stdout
        return json.loads(told)

    def measure(self) -> None:
        share = self._run("spin", 2)
        self._book.value("processor that a confined process gets", "of a core", share)
        if not 0.5 * SHARE < share < 1.3 * SHARE:
            raise RuntimeError(f"the quota does not hold: it had {share:.0%} of a core")
        cores = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, self._others or cores)
            for turn in range(1 if self._book.quick else 5):
                self._turn(self._home / str(turn))
            self._steady()
        finally:
            os.sched_setaffinity(0, cores)

    def _turn(self, home: Path) -> None:
        home.mkdir()
        count, singles = (2_000, 20) if self._book.quick else (20_000, 100)
        value = self._book.value
        raw = self._run("raw", home / "raw.db", count, singles)
        raw_ms = bench.percentile(raw["ms"], 0.5)
        if raw_ms < FSYNC_SECONDS * 1000:
            raise RuntimeError(f"an fsync takes {FSYNC_SECONDS} s longer, and a commit took {raw_ms} ms")
        value("raw executemany", "events/s", raw["rate"])
        value("raw single commit, p50", "ms", raw_ms)
        with bench.daemon(home / "daemon", program=(*self._command, "daemon")) as daemon:
            with Publisher(daemon.endpoint, "bench", home / "spool") as publisher:
                many = self._many(publisher, count)
                one = self._one_by_one(publisher, count)
                taken = self._urgent(publisher, singles)
            bench.check("the confined daemon", daemon.stored(), 2 * count + singles)
        for name, rate in (("publish_many to ack", many), ("publish to ack", one)):
            value(name, "events/s", rate)
            value(f"{name}, to raw", "ratio", rate / raw["rate"])
        ours = bench.percentile(taken, 0.5)
        value("urgent event to ack, p50", "ms", ours)
        value("urgent event to ack, p99", "ms", bench.percentile(taken, 0.99))
        value("urgent event to ack, p50 to raw's", "ratio", ours / raw_ms)

    def _many(self, publisher: Publisher, count: int) -> float:
        batches = [bench.events(BATCH) for _ in range(count // BATCH)]
        began = time.perf_counter()
        for receipt in [publisher.publish_many(batch) for batch in batches]:
            bench.check("a batch", receipt.wait(120).stored, BATCH)
        return count / (time.perf_counter() - began)

    def _one_by_one(self, publisher: Publisher, count: int) -> float:
        events = bench.events(count)
        began = time.perf_counter()
        for event in events:
            publisher.publish(event)
        if not publisher.flush(120):
            raise RuntimeError("not everything was acked")
        return count / (time.perf_counter() - began)

    def _urgent(self, publisher: Publisher, count: int) -> list[float]:
        taken = []
        for event in bench.events(count):
            began = time.perf_counter()
            if not publisher.insert_event(event):
                raise RuntimeError("it was there already")
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    def _steady(self) -> None:
        seconds = 4.0 if self._book.quick else 20.0
        name = f"processor, {RATE} records/s from {SENSORS} producers"
        with bench.daemon(self._home / "steady", program=(*self._command, "daemon")) as daemon:
            with sensors(daemon, str(RATE / SENSORS)) as acked:
                time.sleep(1.0)
                for _ in range(1 if self._book.quick else 2):
                    before, began = daemon.spent(), time.monotonic()
                    time.sleep(seconds)
                    spent = daemon.spent().since(before)
                    self._book.value(name, "% of a core", 100 * spent.cpu_seconds / (time.monotonic() - began))
            bench.check(name, daemon.stored(), sum(acked))
