"""An fsync fails: the page cache keeps what the disk lost. The daemon is started again, and then the power is cut."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from unittest import mock

import made_up
import pytest
import stored
from house import PLACE, House
from judge import LOSSES, Judge, cuts, in_memory, quickly
from lab import LONG, Attack, often
from medium import SyncFailed
from recorder import Recorder

from sightlogd import durable
from sightlogd.store import opening

STEPS = 14
IMAGES = often(8, 60)
"""A position of the fsync that fails."""
# SQLite goes on where closing a database fails, and nobody hears of the exception.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as directory, quickly():
        yield directory


def is_of_the_database(path: str) -> bool:
    return path.startswith((f"/{PLACE}/events.db", f"/{PLACE}/events.new"))


def is_beside_it(path: str) -> bool:
    return path.startswith(f"/{PLACE}/events/")


def is_day_log(path: str) -> bool:
    return path.endswith(("events.json", "events.log"))


def session(
    directory: Path, choose: random.Random, which: Callable[[str], bool], position: int, before: Path | None
) -> House:
    """Recorded, with the fsync at that position failing. `before` is the database that is there."""
    root = directory / "live"
    (root / PLACE).mkdir(parents=True)
    if before is not None:
        shutil.copyfile(before, root / PLACE / "events.db")
    try:
        with Recorder(root) as recorder:
            recorder.may_fail = which
            recorder.fail_sync_at = position
            house = House(recorder, choose)
            house.endure(STEPS)
    finally:
        shutil.rmtree(root)
    return house


def losses(
    attack: Attack,
    memory: Path,
    key: int,
    which: Callable[[str], bool],
    positions_max: int,
    before: Path | None = None,
) -> Iterator[bool]:
    """For each position of the fsync that fails, or so many of them, whether an image shows a loss."""
    # The same life up to there, whatever the position.
    count = session(memory, attack.random(key), which, 0, before).recorder.syncs
    choose = attack.random(key, "positions")
    for position in sorted(choose.sample(range(1, count + 1), min(count, positions_max))):
        house = session(memory, attack.random(key), which, position, before)
        log = house.recorder.log
        failed = next(number for number, entry in enumerate(log.entries) if isinstance(entry, SyncFailed))
        judge = Judge(house, log)
        judge.rebuilds = False
        judge.only_database = which is is_of_the_database
        judge.thorough = True
        lost = False
        for moment, image in cuts(log, choose, IMAGES, memory, first=failed):
            try:
                judge.check(moment, image, choose)
            except LOSSES:
                if not attack.control:
                    raise
                lost = True
        yield lost


@pytest.mark.timeout(often(600, 7_200))
def test_a_failed_fsync_and_a_power_cut_after_the_restart_lose_nothing(memory, attack):
    attack.on("P1, P5", "an fsync fails, restart, power cut (a new database)", "positions")
    for key in range(often(1, 4)):
        attack.runs += sum(1 for _ in losses(attack, memory, key, is_of_the_database, often(8, 1_000)))
    attack.note = f"{IMAGES} crash images each"


@pytest.mark.timeout(often(600, 7_200))
def test_a_failed_fsync_in_a_migration_and_a_power_cut_after_the_restart_lose_nothing(attack):
    attack.on("P1, P5", "an fsync fails, restart, power cut (a database that is migrated)", "positions")
    with in_memory() as memory:
        before = stored.write(memory / "before.db", made_up.EVENTS, zone=UTC)
        with made_up.later(), quickly():
            for key in range(often(1, 4)):
                found = losses(attack, memory, key, is_of_the_database, often(8, 1_000), before)
                attack.runs += sum(1 for _ in found)
    attack.note = f"{IMAGES} crash images each"


@pytest.mark.timeout(often(600, 7_200))
def test_a_failed_fsync_of_a_day_log_or_a_picture_and_a_power_cut_lose_nothing(memory, attack):
    attack.on("P1, P5", "an fsync of a day log or a picture fails, power cut", "positions")
    for key in range(often(1, 4)):
        attack.runs += sum(1 for _ in losses(attack, memory, key, is_beside_it, often(8, 1_000)))
    attack.note = f"{IMAGES} crash images each"


@pytest.mark.timeout(600)
def test_without_the_rewrite_of_the_wal_acked_records_are_lost(memory, attack):
    attack.without("P1, P5", "the rewrite of the WAL on an unclean start", "positions")
    with mock.patch.object(opening, "_rewrite", return_value=0):
        caught(attack, memory, is_of_the_database)


@pytest.mark.timeout(600)
def test_without_writing_day_logs_again_lines_are_lost(memory, attack):
    attack.without("P5", "writing the day logs again after a failed fsync", "positions")
    with mock.patch.object(durable, "write_again", durable.sync):
        caught(attack, memory, is_day_log)


def caught(attack: Attack, memory: Path, which: Callable[[str], bool]) -> None:
    for key in range(often(20, 4)):
        for lost in losses(attack, memory, key, which, 1_000):
            attack.runs += 1
            attack.caught += lost
            if attack.caught and not LONG:
                return
    assert attack.caught
