"""Ten times as much as the disk takes: nothing grows beyond its limit, nothing is lost, and it passes."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import pytest
from conftest import wait_for
from lab import often
from overload import Crowd, Disk, Peaks, check, ending, milliseconds, resident, watching

from sightlog import Event
from sightlogd.daylogs import backlog
from sightlogd.store import WAL_BYTES_KEPT

SECONDS = often(3, 120)
PRODUCERS = 4
TIMES = 10
FSYNC_SECONDS = 0.3
TEXT_CHARS = 8_000
MB = 1 << 20
SPOOL_BYTES = often(8, 16) * MB
BATCH_BYTES = MB // 4
CONFIG = f"[ingest]\nbatch_bytes_max = {BATCH_BYTES}\nbatch_records_max = 100\n"
WINDOW_BYTES = 2 * BATCH_BYTES
"""What a producer may have on its way, and one message, which may pass it."""
SQLITE_CACHE_BYTES = 8 * MB
SLACK_BYTES = 8 * MB
"""For allocators, whose size no configuration tells."""
SLOWER_MAX = 10.0
"""So many times as long as before an insert may take afterwards, on a machine that others use too."""


class Found(NamedTuple):
    peaks: Peaks
    daemon_before: int
    producers_before: dict[str, int]
    offered: int
    stored: int
    served: int
    before_ms: float
    after_ms: float

    @property
    def daemon_max(self) -> int:
        """By the configuration: a window a producer, the batch as it came and decoded, what waits for the day logs, and
        SQLite's cache."""
        windows = (PRODUCERS + 1) * WINDOW_BYTES
        waiting = 2 * backlog.BYTES_MAX
        return self.daemon_before + windows + 2 * WINDOW_BYTES + waiting + SQLITE_CACHE_BYTES + SLACK_BYTES


def offered(crowd: Crowd) -> int:
    return crowd.published + sum(map(crowd.refused, crowd.ledgers))


@pytest.mark.timeout(180 + SECONDS * 2)
def test_ten_times_what_the_disk_takes_stays_within_every_limit_and_passes(idle_daemon, tmp_path, attack):
    attack.on("P2, P3, P7", "ten times the rate that the disk takes", "records stored meanwhile")
    found = flood(idle_daemon, Disk(tmp_path))
    attack.runs = found.stored
    assert found.peaks.memory <= found.daemon_max
    assert found.peaks.wal <= 2 * WAL_BYTES_KEPT  # who checks meanwhile reads, and holds up a checkpoint or two
    for name, spool in found.peaks.spools.items():
        assert spool <= SPOOL_BYTES
        assert found.peaks.producers[name] <= found.producers_before[name] + 2 * WINDOW_BYTES + SLACK_BYTES
    assert found.offered >= TIMES * found.stored > 0
    assert found.served > 0
    more, allowed = (what - found.daemon_before for what in (found.peaks.memory, found.daemon_max))
    attack.note = (
        f"{found.offered / found.stored:.0f} times; memory {more / MB:.0f} MB more, {allowed / MB:.0f} MB allowed, PSS "
        f"{found.peaks.memory_proportional / MB:.0f} MB at most; "
        f"WAL {found.peaks.wal / MB:.0f} MB; an insert took {found.before_ms:.1f} ms before, {found.after_ms:.1f} ms "
        "afterwards"
    )


def flood(daemon, disk: Disk) -> Found:
    """Everything arrives in the end."""
    daemon.start(config=CONFIG, program=disk.program())
    crowd = Crowd(daemon, spool_bytes=SPOOL_BYTES, text_chars=TEXT_CHARS)
    with ending(crowd), daemon.publisher("calm") as calm:

        def insert() -> None:
            assert calm.insert_event(Event("calm"), timeout=60)

        before_ms = statistics.median(milliseconds(insert) for _ in range(30))
        daemon_before = resident(daemon.process.pid)
        disk.set(FSYNC_SECONDS)
        producers_before = start(crowd)
        with watching(daemon, crowd) as peaks:
            wait_for(lambda: all(map(crowd.refused, crowd.ledgers)), "all spools are full", 60)
            seconds, served, stored, in_all = FSYNC_SECONDS, 0, 0, 0
            while in_all < TIMES * stored or not stored:
                disk.set(seconds)
                seconds *= 2  # on a machine where the producers are too slow, the disk has to be slower
                offered_before, acked_before = offered(crowd), crowd.acked
                until = time.monotonic() + SECONDS
                while time.monotonic() < until:
                    insert()  # a sensor beside them is served
                    served += 1
                    check(daemon.database, crowd.ledgers)
                stored, in_all = crowd.acked - acked_before, offered(crowd) - offered_before
            disk.set(0)
            crowd.end(120)
        check(daemon.database, crowd.ledgers, delivered=True)

        def typical() -> float:
            return statistics.median(milliseconds(insert) for _ in range(30))

        wait_for(lambda: typical() <= SLOWER_MAX * before_ms, "inserts are as fast as before", 60)
        after_ms = typical()
    return Found(peaks, daemon_before, producers_before, in_all, stored, served, before_ms, after_ms)


def start(crowd: Crowd) -> dict[str, int]:
    """The memory of each producer when it has published something."""
    for number in range(PRODUCERS):
        crowd.start(f"camera{number}")
    wait_for(lambda: all(crowd.acked_of(name) for name in crowd.ledgers), "each has an ack", 60)
    return {name: resident(process.pid) for name, process in crowd.processes.items()}


@pytest.mark.timeout(120)
def test_without_windows_and_queue_limits_memory_passes_the_bound(idle_daemon, tmp_path, attack):
    attack.without("P7", "windows and the limit of the receive queue", "floods")
    attack.runs, disk = 1, Disk(tmp_path)
    daemon = idle_daemon.start(config=CONFIG, program=disk.program("limits"))
    crowd = Crowd(daemon, spool_bytes=SPOOL_BYTES, text_chars=TEXT_CHARS)
    with ending(crowd), daemon.publisher("calm") as calm:
        assert calm.insert_event(Event("calm"))
        before = resident(daemon.process.pid)
        disk.set(FSYNC_SECONDS)
        start(crowd)
        allowed = Found(Peaks(), before, {}, 0, 0, 0, 0, 0).daemon_max
        wait_for(lambda: resident(daemon.process.pid) > allowed, "memory passes the bound", 60)
    attack.caught += 1
