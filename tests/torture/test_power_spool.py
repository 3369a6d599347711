"""The power is cut at any moment of a producer's life: what was synced or acked is not lost, nothing is used twice."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from judge import cuts, in_memory, marks
from lab import Attack, often
from medium import Entry, Sync, SyncNames
from recorder import Killed, Recorder

from sightlog.errors import SpoolDamaged
from sightlog.protocol.messages import START, Position
from sightlog.spool.segment import Segment
from sightlog.spool.spool import Spool

STEPS = 120
IMAGES_A_LIFE = 400
PLACE = "state/sightlog/spool/camera"
"""Below a directory that is there: a spool's own are made by it."""
BYTES_MAX = 100_000

LOSSES = (AssertionError, SpoolDamaged)
"""How an image shows that something is missing."""
Records = dict[Position, tuple[bytes, bytes]]


class Began(NamedTuple):
    """A life: from now on its epoch may be on records."""

    producer_id: str
    epoch: int


class Synced(NamedTuple):
    records: Records
    """All that was appended by then."""


class Acked(NamedTuple):
    last: Position


class Appended(NamedTuple):
    """From now on they may be there."""

    records: Records


class Life:
    """A producer's spool through restarts and kills, recorded."""

    def __init__(self, recorder: Recorder, choose: random.Random) -> None:
        self.recorder = recorder
        self.choose = choose
        self.directory = Path(recorder.root) / PLACE
        self.appended: Records = {}
        self.acked = START
        self.failed: set[Position] = set()

    def begin(self) -> None:
        self.spool = Spool(self.directory, "camera", BYTES_MAX)
        self.recorder.mark(Began(self.spool.producer_id, self.spool.epoch))
        self.spool.drop_through(self.acked)  # what the daemon's welcome says

    def append(self) -> None:
        count = self.choose.choice((1, 1, 1, 5, 10))
        sizes = [(self.choose.choice((20, 200, 900)), self.choose.choice((0, 0, 3_000))) for _ in range(count)]
        some = [(self.choose.randbytes(record), self.choose.randbytes(image)) for record, image in sizes]
        if self.spool.size > BYTES_MAX // 2:
            self.ack_all()
        first = self.spool.next_position
        new = {Position(first.epoch, first.seq + number): one for number, one in enumerate(some)}
        self.recorder.mark(Appended(new))
        self.spool.append(some)
        self.appended.update(new)

    def sync(self) -> None:
        try:
            self.spool.sync()
        except OSError:
            self.failed = {*self.appended}
        else:
            # What an earlier life could not sync, this one does not know about.
            self.failed = {position for position in self.failed if position.epoch < self.spool.epoch}
            self.recorder.mark(Synced({p: record for p, record in self.appended.items() if p not in self.failed}))

    def ack_all(self) -> None:
        self.ack(1.0)

    def ack(self, share: float = 0.5) -> None:
        waiting = [position for position in self.appended if position > self.acked]
        if waiting:
            self.acked = waiting[int((len(waiting) - 1) * share)]
            self.recorder.mark(Acked(self.acked))
            self.spool.drop_through(self.acked)

    def kill(self) -> None:
        self.spool.let_go()

    def run(self) -> None:
        self.begin()
        for _ in range(STEPS):
            if self.choose.random() < 0.06:
                self.spool.close() if self.choose.random() < 0.5 else self.kill()
                self.begin()
            self._step()
        self.spool.close()

    def _step(self) -> None:
        ways = self.append, self.sync, self.ack, self.ack_all
        self.choose.choices(ways, (20, 4, 4, 1))[0]()

    def die(self, sessions: int) -> None:
        """Lives that SIGKILL ends, in the middle of whatever it was."""
        for _ in range(sessions):
            self.recorder.dies_at = len(self.recorder.log.entries) + self.choose.randint(1, 60)
            with contextlib.suppress(Killed):
                self.begin()
                while True:
                    self._step()
            self.recorder.is_reaped()


def recorded(
    directory: Path,
    choose: random.Random,
    skip: Callable[[Recorder, Entry], bool] | None = None,
    fail_sync_at: int = 0,
) -> Recorder:
    root = directory / "live"
    root.mkdir()
    with Recorder(root) as recorder:
        recorder.may_fail = lambda path: path.endswith(".spool")
        recorder.fail_sync_at = fail_sync_at
        if skip is not None:
            recorder.skip = lambda entry: skip(recorder, entry)
        Life(recorder, choose).run()
    shutil.rmtree(root)
    return recorder


class Judge:
    """Knows at each moment what has to be there, and what was used."""

    def __init__(self, recorder: Recorder) -> None:
        self._marks = marks(recorder.log)

    def check(self, moment: int, image: Path) -> None:
        synced: Records = {}
        appended: Records = {}
        acked = START
        epochs: set[int] = set()
        producer_id = None
        for number, what in self._marks:
            if number >= moment:
                break
            if isinstance(what, Appended):
                appended |= what.records
            elif isinstance(what, Synced):
                synced = what.records
            elif isinstance(what, Acked):
                acked = what.last
            elif isinstance(what, Began):
                producer_id, _ = what
                epochs.add(what.epoch)
        spool = Spool(image / PLACE, "camera", BYTES_MAX)
        try:
            assert producer_id in (None, spool.producer_id), "another producer"
            assert spool.epoch not in epochs, "an epoch begins a second time"
            found: Records = {}
            after = START
            while chunk := spool.read_after(after, 1_000, 1_000_000):
                for offset, pair in enumerate(zip(chunk.records, chunk.images, strict=True)):
                    found[Position(chunk.first.epoch, chunk.first.seq + offset)] = pair
                after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
            for position, record in synced.items():
                assert position <= acked or found.get(position) == record, f"{position}: synced, not acked, and lost"
            for position, record in found.items():
                assert appended.get(position) == record, f"{position} never was that"
            assert list(found) == sorted(found)
        finally:
            spool.close()


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as directory:
        yield directory


@pytest.mark.timeout(often(600, 7_200))
def test_a_power_cut_leaves_all_that_was_synced_and_not_acked(memory, attack):
    attack.on("P2", "power cut in the life of a producer: its spool", "crash images")
    for number in range(often(3, 50)):
        choose = attack.random(number)
        recorder = recorded(memory, choose)
        judge = Judge(recorder)
        for moment, image in cuts(recorder.log, choose, IMAGES_A_LIFE, memory):
            judge.check(moment, image)
            attack.runs += 1


@pytest.mark.timeout(often(600, 7_200))
def test_a_failed_fsync_of_a_spool_is_made_good_by_the_next(memory, attack):
    attack.on("P2, P5", "an fsync of a spool fails, the next does not, power cut", "crash images")
    for number in range(often(5, 100)):
        choose = attack.random(number)
        recorder = recorded(memory, choose, fail_sync_at=choose.randint(1, 20))
        judge = Judge(recorder)
        for moment, image in cuts(recorder.log, choose, 100, memory):
            judge.check(moment, image)
            attack.runs += 1


@pytest.mark.timeout(often(600, 7_200))
def test_a_power_cut_after_kills_in_the_middle_of_anything_leaves_all_that_was_synced(memory, attack):
    attack.on("P2", "SIGKILL of a producer in the middle of anything, then a power cut", "crash images")
    for number in range(often(5, 100)):
        choose = attack.random(number)
        root = memory / "live"
        root.mkdir()
        with Recorder(root) as recorder:
            Life(recorder, choose).die(8)
        shutil.rmtree(root)
        judge = Judge(recorder)
        for moment, image in cuts(recorder.log, choose, 200, memory):
            judge.check(moment, image)
            attack.runs += 1


LEFT_OUT: dict[str, tuple[type[Entry], Callable[[str], bool]]] = {
    "segments": (Sync, lambda path: path.endswith(".spool")),
    "the identity": (Sync, lambda path: "/identity." in path),
    "the directory": (SyncNames, lambda path: path.endswith("/camera")),
    "the directories above it": (SyncNames, lambda path: not path.endswith("/camera")),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", LEFT_OUT)
def test_an_fsync_of_the_spool_that_is_left_out_is_caught(memory, attack: Attack, what):
    attack.without("P2", f"the fsync of {what} of a spool", "crash images")
    kind, matches = LEFT_OUT[what]

    def skip(recorder: Recorder, entry: Entry) -> bool:
        there = entry.file if isinstance(entry, Sync) else getattr(entry, "directory", None)
        return isinstance(entry, kind) and there is not None and matches(recorder.path_of(there))

    choose = attack.random()
    recorder = recorded(memory, choose, skip)
    judge = Judge(recorder)
    for moment, image in cuts(recorder.log, choose, IMAGES_A_LIFE, memory):
        attack.runs += 1
        try:
            judge.check(moment, image)
        except LOSSES:
            attack.caught += 1
    assert attack.caught


@pytest.mark.timeout(600)
def test_an_fsync_after_a_failed_one_is_not_enough(memory, attack):
    attack.without("P2, P5", "writing again what a failed fsync of a spool left", "crash images")
    with mock.patch.object(Segment, "write_again"):
        for number in range(50):
            if attack.caught:
                break
            choose = attack.random(number)
            recorder = recorded(memory, choose, fail_sync_at=choose.randint(1, 10))
            judge = Judge(recorder)
            for moment, image in cuts(recorder.log, choose, 50, memory):
                attack.runs += 1
                try:
                    judge.check(moment, image)
                except LOSSES:
                    attack.caught += 1
    assert attack.caught
