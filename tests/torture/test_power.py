"""The power is cut at any moment of the daemon's life: what was acked is there, whatever else the disk kept."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from unittest import mock

import apsw
import made_up
import pytest
import stored
from house import PLACE, House
from judge import LOSSES, Judge, cuts, in_memory, quickly
from lab import LONG, Attack, often
from medium import Entry, Sync, SyncNames
from recorder import Recorder

from sightlogd.store import migrate
from sightlogd.store.migrate import Migration

STEPS = 60
IMAGES_A_LIFE = 400


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as directory, quickly():
        yield directory


def sessions(directory: Path, choose: random.Random, prepare: Callable[[House], None]) -> House:
    """Some lives of a daemon in a new directory, recorded."""
    root = directory / "live"
    root.mkdir()
    with Recorder(root) as recorder:
        house = House(recorder, choose)
        prepare(house)
        house.run(STEPS)
    shutil.rmtree(root)
    return house


def as_it_is(_house: House) -> None:
    """Nothing is switched off."""


def attack_images(attack: Attack, memory: Path, count: int, prepare: Callable[[House], None], *key: object) -> None:
    for number in range(-(-count // IMAGES_A_LIFE)):
        choose = attack.random(*key, number)
        house = sessions(memory, choose, prepare)
        judge = Judge(house, house.recorder.log)
        for moment, image in cuts(house.recorder.log, choose, IMAGES_A_LIFE, memory):
            judge.check(moment, image, choose)
            attack.runs += 1


@pytest.mark.timeout(often(600, 7_200))
@pytest.mark.parametrize("part", range(often(1, 4)))
def test_a_power_cut_takes_nothing_that_was_acked(memory, attack, part):
    """Batches, thumbnails, day logs, checkpoints, purges, stops and kills; the database begins with nothing."""
    attack.on("P1, P3", "power cut in the life of a daemon: database, thumbnails, day logs", "crash images")
    attack_images(attack, memory, often(2_400, 12_000), as_it_is, part)


@pytest.mark.timeout(often(600, 7_200))
@pytest.mark.parametrize("schema", [migration.version for migration in made_up.versions()])
def test_a_power_cut_in_a_migration_leaves_the_old_schema_or_the_new(attack, schema):
    attack.on(
        "P1, P8", f"power cut while schema {schema} is migrated to {made_up.NEWEST}, and after that", "crash images"
    )
    with in_memory() as memory:
        with made_up.later(schema):
            before = stored.write(memory / "before.db", made_up.EVENTS, zone=UTC)
        with made_up.later(), quickly():
            for number in range(often(1, 8)):
                attack_migration(attack, memory, before, attack.random(number))


def attack_migration(attack: Attack, memory: Path, before: Path, choose: random.Random) -> None:
    """Raises what an image lacks; for a control, counts it."""
    live = memory / "live"
    (live / PLACE).mkdir(parents=True)
    shutil.copyfile(before, live / PLACE / "events.db")
    house = begins(live, choose)
    judge = Judge(house, house.recorder.log)
    for moment, image in cuts(house.recorder.log, choose, often(100, 500), memory):
        attack.runs += 1
        try:
            judge.check(moment, image, choose)
        except LOSSES:
            if not attack.control:
                raise
            attack.caught += 1


def begins(root: Path, choose: random.Random, former: House | None = None) -> House:
    """A start on what is there, and a few batches."""
    with Recorder(root) as recorder:
        house = House(recorder, choose)
        if former is not None:
            house.producers, house.images = former.producers, former.images
        house.start()
        house.catch_up()
        house.pictures()
        for _ in range(3):
            house.batch()
        house.kill()
    shutil.rmtree(root)
    return house


@pytest.mark.timeout(often(600, 7_200))
def test_a_power_cut_while_the_last_one_is_recovered_from_takes_nothing(memory, attack):
    attack.on("P1, P3", "power cut during and after the recovery from a power cut", "crash images")
    for number in range(often(1, 10)):
        choose = attack.random(number)
        house = sessions(memory, choose, as_it_is)
        judge = Judge(house, house.recorder.log)
        for moment, image in cuts(house.recorder.log, choose, often(4, 10), memory):
            again = memory / "again"
            image.rename(again)
            second = begins(again, choose, house)
            judged = Judge(second, second.recorder.log, judge.acked(moment))
            for cut, other in cuts(second.recorder.log, choose, often(25, 100), memory):
                judged.check(cut, other, choose)
                attack.runs += 1


@pytest.mark.timeout(often(600, 7_200))
# What a process in its death wanted to say, nobody hears.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_power_cut_after_kills_in_the_middle_of_anything_takes_nothing(memory, attack):
    attack.on("P1, P3", "SIGKILL in the middle of anything, again and again, then a power cut", "crash images")
    for number in range(often(1, 30)):
        choose = attack.random(number)
        root = memory / "live"
        root.mkdir()
        with Recorder(root) as recorder:
            house = House(recorder, choose)
            house.die(12)
        shutil.rmtree(root)
        judge = Judge(house, recorder.log)
        judge.thorough = True
        for moment, image in cuts(recorder.log, choose, often(150, 300), memory):
            judge.check(moment, image, choose)
            attack.runs += 1


# -- controls ----------------------------------------------------------------------------------------------------------


def caught(attack: Attack, memory: Path, prepare: Callable[[House], None]) -> None:
    """Images of lives without a protection, and in how many of them something is missing."""
    for number in range(often(20, 5)):
        if attack.caught and not LONG:
            break
        choose = attack.random(number)
        house = sessions(memory, choose, prepare)
        judge = Judge(house, house.recorder.log)
        judge.thorough = True
        for moment, image in cuts(house.recorder.log, choose, often(50, 200), memory):
            attack.runs += 1
            try:
                judge.check(moment, image, choose)
            except LOSSES:
                attack.caught += 1
    assert attack.caught


@pytest.mark.timeout(600)
def test_synchronous_normal_loses_acked_records(memory, attack):
    attack.without("P1", "synchronous=FULL: with NORMAL", "crash images")

    def normal(house: House) -> None:
        house.synchronous = "NORMAL"

    caught(attack, memory, normal)


@pytest.mark.timeout(600)
def test_an_ack_before_the_commit_is_caught(memory, attack):
    attack.without("P1", "the order of COMMIT and ack: with the ack first", "crash images")

    def early(house: House) -> None:
        house.acks_early = True

    caught(attack, memory, early)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("apart", ["each statement", "its record"])
def test_a_migration_in_more_than_one_transaction_is_caught(attack, apart):
    attack.without("P1, P8", f"the one transaction of a migration: {apart} in one of its own", "crash images")

    def migrated(connection: apsw.Connection, wanted: list[Migration], now: Callable[[], str]) -> list[Migration]:
        version = migrate.version_of(connection)
        missing = [migration for migration in wanted if migration.version > version]
        for migration in missing:
            connection.execute(f"BEGIN; {migration.sql}; COMMIT" if apart == "its record" else migration.sql)
            connection.execute("INSERT INTO schema_version VALUES (?, ?, ?)", (*migration[:2], now()))
        return missing

    with in_memory() as memory:
        before = stored.write(memory / "before.db", made_up.EVENTS, zone=UTC)
        with made_up.later(), quickly(), mock.patch.object(migrate, "migrate", migrated):
            for number in range(often(20, 5)):
                if attack.caught and not LONG:
                    break
                attack_migration(attack, memory, before, attack.random(number))
    assert attack.caught


def is_picture(path: str) -> bool:
    return path.endswith((".jpg", ".tmp")) or "/incoming/" in path


LEFT_OUT: dict[str, tuple[type[Entry], Callable[[str], bool]]] = {
    "pictures": (Sync, is_picture),
    "incoming": (SyncNames, lambda path: path.endswith("/incoming")),
    "day folders": (SyncNames, lambda path: "/events/" in path),
    "the folder of days": (SyncNames, lambda path: path.endswith("/events")),
    "day logs": (Sync, lambda path: path.endswith(("events.json", "events.log"))),
    "the data directory": (SyncNames, lambda path: path == f"/{PLACE}"),
    "the directories above it": (SyncNames, lambda path: f"/{PLACE}" not in path),
    "the WAL": (Sync, lambda path: path.endswith("-wal")),
}  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", LEFT_OUT)
def test_an_fsync_that_is_left_out_is_caught(memory, attack, what):
    attack.without("P1", f"the fsync of {what}", "crash images")
    kind, matches = LEFT_OUT[what]

    def left_out(house: House) -> None:
        recorder = house.recorder

        def skips(entry: Entry) -> bool:
            there = entry.file if isinstance(entry, Sync) else getattr(entry, "directory", None)
            return isinstance(entry, kind) and there is not None and matches(recorder.path_of(there))

        recorder.skip = skips

    caught(attack, memory, left_out)
