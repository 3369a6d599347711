"""The power is cut while a backup is made, or after it: a complete one stays complete, whatever became of the next."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from house import NAMES, House
from judge import LOSSES, check_logs, cuts, in_memory, marks, quickly
from lab import Attack, often
from medium import Log, SyncAll
from recorder import Recorder

from sightlog.protocol.messages import Position
from sightlogd.backups.backup import Backup
from sightlogd.backups.check import check, is_backup
from sightlogd.backups.manifest import Manifest, Unusable
from sightlogd.backups.restore import Restore
from sightlogd.daylogs import reconcile
from sightlogd.daylogs.days import unfinished
from sightlogd.daylogs.writer import DayLogs
from sightlogd.directory import Directory
from sightlogd.retention import purge
from sightlogd.store import DATABASE, Store

DEST = "stick"


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as directory, quickly():
        yield directory


class Began(NamedTuple):
    """A backup of a store in which the producers are so far."""

    positions: dict[str, Position]


class Made(NamedTuple):
    """The same, and somebody was told that it is made."""

    positions: dict[str, Position]


def silent(*_: object) -> None:
    pass


def backups(directory: Path, attack: Attack, number: int) -> House:
    """A daemon that records come to, and backups of it to one place."""
    root = directory / "live"
    root.mkdir()
    choose = attack.random(number)
    with Recorder(root) as recorder:
        if attack.control:
            recorder.skip = lambda entry: isinstance(entry, SyncAll)
        house = House(recorder, choose)
        house.start()
        house.catch_up()
        for _ in range(4):
            for _ in range(choose.randint(1, 4)):
                house.batch()
            if choose.random() < 0.3:
                house.purge()
            if choose.random() < 0.5:
                house.mark()
            positions = {name: house.position(name) for name in house.producers}
            recorder.mark(Began(positions))
            Backup(house.data_dir, root / DEST, silent, silent).run()
            recorder.mark(Made(positions))
        house.kill()
    shutil.rmtree(root)
    return house


class Judge:
    def __init__(self, log: Log) -> None:
        self._marks = [(number, what) for number, what in marks(log) if isinstance(what, (Began, Made))]

    def check(self, moment: int, image: Path) -> None:
        before = [what for number, what in self._marks if number < moment]
        made = [what.positions for what in before if isinstance(what, Made)]
        possible = [*made[-1:], *([before[-1].positions] if before else [])]
        dest = image / DEST
        if not is_backup(dest) or not is_complete(dest):
            assert not made, "the backup is gone"
            return
        assert [finding.text for finding in check(dest, silent)] == []
        data_dir = image / "restored" / "data"
        data_dir.parent.mkdir()
        assert Restore(dest, data_dir, silent).run() is not None
        look_at(data_dir, possible)


def is_complete(dest: Path) -> bool:
    with Directory(dest) as directory, contextlib.closing(Manifest(directory)) as manifest:
        return manifest.end is not None


def look_at(data_dir: Path, possible: list[dict[str, Position]]) -> None:
    """A restored store is whole, and of one of those moments."""
    with contextlib.closing(Store(data_dir)) as store:
        assert {name: store.stored_of(name) for name in NAMES} in possible
        logs = DayLogs(data_dir, store, silent, silent)
        for leaving in unfinished(data_dir):
            for _ in purge.finish(leaving, store):
                pass
        for _ in reconcile.catch_up(store, logs):
            pass
        logs.close_all()
        check_logs(store, logs)


@pytest.mark.timeout(often(600, 7_200))
def test_a_power_cut_leaves_the_backup_that_was_made(memory, attack):
    attack.on("P8", "power cut while a backup is made, and after it", "crash images")
    for number in range(often(1, 5)):
        house = backups(memory, attack, number)
        judge = Judge(house.recorder.log)
        for moment, image in cuts(house.recorder.log, attack.random(number, "cuts"), often(25, 200), memory):
            judge.check(moment, image)
            attack.runs += 1


@pytest.mark.timeout(often(600, 7_200))
def test_a_restore_that_a_power_cut_ended_can_be_run_again(memory, attack):
    attack.on("P8", "power cut while a backup is restored, and after it", "crash images")
    for number in range(often(1, 5)):
        choose = attack.random(number, "cuts")
        log = backups(memory, attack, number).recorder.log
        [positions] = [what.positions for _, what in marks(log) if isinstance(what, Made)][-1:]
        source = next(cuts(log, choose, 1, memory, first=len(log.entries)))[1] / DEST
        live = memory / "live"
        live.mkdir()
        source.rename(live / DEST)
        data_dir = "data"
        with Recorder(live) as recorder:
            Restore(live / DEST, live / data_dir, silent).run()
        shutil.rmtree(live)
        for moment, image in cuts(recorder.log, choose, often(25, 200), memory):
            if not (image / data_dir / DATABASE).exists():
                assert moment < len(recorder.log.entries), "it was restored"
                Restore(image / DEST, image / data_dir, silent).run()
            look_at(image / data_dir, [positions])
            attack.runs += 1


@pytest.mark.timeout(600)
def test_a_backup_that_is_not_synced_is_caught(memory, attack):
    attack.without("P8", "syncfs of the backup's disk", "crash images")
    house = backups(memory, attack, 0)
    judge = Judge(house.recorder.log)
    for moment, image in cuts(house.recorder.log, attack.random("cuts"), 40, memory):
        attack.runs += 1
        try:
            judge.check(moment, image)
        except (*LOSSES, Unusable):
            attack.caught += 1
    assert attack.caught
