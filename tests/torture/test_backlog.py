"""Many producers whose spools are full after an outage: all their windows together stay bounded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import wait_for
from lab import often
from ledger import published
from overload import Disk, check, resident
from test_vanishing import start

from sightlogd.protocol.session import WHOLE_WINDOWS, WINDOW_BYTES_MIN

MB = 1 << 20
PRODUCERS = often(60, 120)
BATCH_BYTES = MB
CONFIG = f"[ingest]\nbatch_bytes_max = {BATCH_BYTES}\n"
TEXT_CHARS = 16_000
RECORDS = 80
"""More than the whole window of one producer."""
FSYNC_SECONDS = 0.1
SQLITE_CACHE_BYTES = 8 * MB
SLACK_BYTES = 16 * MB
"""For allocators, whose size no configuration tells."""
NAMES = [f"camera{number}" for number in range(PRODUCERS)]


def memory_max(before: int) -> int:
    """Each is told its share when it says hello: the first ones the whole window, the last ones the least."""
    shares = (min(BATCH_BYTES, WHOLE_WINDOWS * BATCH_BYTES // number) for number in range(1, PRODUCERS + 1))
    # A message with one record may pass what is left of a window.
    windows = sum(max(share, WINDOW_BYTES_MIN) + 2 * TEXT_CHARS for share in shares)
    return before + windows + 4 * BATCH_BYTES + SQLITE_CACHE_BYTES + SLACK_BYTES


@contextmanager
def backlog(daemon) -> Iterator[dict[str, Path]]:
    """Producers in a process of their own, with spools that hold more than the window. Gives their ledgers."""
    ledgers = {name: daemon.home / "ledgers" / name for name in NAMES}
    producers = start(daemon, RECORDS, NAMES, TEXT_CHARS)
    try:
        wait_for(lambda: all(len(published(ledger)) == RECORDS for ledger in ledgers.values()), "full spools", 120)
        yield ledgers
    finally:
        producers.kill()
        producers.wait()


def peak(daemon, disk: Disk, without: str = "nothing") -> tuple[int, int]:
    """The memory of the daemon before all of it comes, and at its most until it has heard of everybody."""
    daemon.start(config=CONFIG, program=disk.program(without))
    before = most = resident(daemon.process.pid)
    disk.set(FSYNC_SECONDS)

    def has_heard_of_all() -> bool:
        nonlocal most
        most = max(most, resident(daemon.process.pid))
        return connection.execute("SELECT count(DISTINCT camera_id) FROM events").fetchone() == (PRODUCERS,)

    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as connection:
        wait_for(has_heard_of_all, "something of each is stored", 120)
    disk.set(0)
    return before, most


@pytest.mark.timeout(600)
def test_full_spools_of_many_producers_do_not_fill_the_memory(idle_daemon, tmp_path, attack):
    attack.on("P2, P3, P7", "producers with full spools come at once, and the disk stalls", "producers")
    with backlog(idle_daemon) as ledgers:
        before, most = peak(idle_daemon, Disk(tmp_path))
    attack.runs = PRODUCERS
    allowed = memory_max(before)
    attack.note = f"{(most - before) / MB:.0f} MB more, {(allowed - before) / MB:.0f} MB allowed"
    assert most <= allowed
    assert start(idle_daemon, 0, NAMES).wait(300) == 0
    check(idle_daemon.database, ledgers, delivered=True)


@pytest.mark.timeout(600)
def test_without_shares_of_the_windows_they_pass_the_bound(idle_daemon, tmp_path, attack):
    attack.without("P7", "the sharing of windows and the limit of the receive queue", "stalls")
    attack.runs = 1
    with backlog(idle_daemon):
        before, most = peak(idle_daemon, Disk(tmp_path), "shares")
    attack.note = f"{(most - before) / MB:.0f} MB more"
    assert most > memory_max(before)
    attack.caught = 1
