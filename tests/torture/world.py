"""One run of the simulation: what its seed makes happen, and what must hold after every step and at the end.

python tests/torture/world.py SEED ordered|wild        # repeats a run
"""

from __future__ import annotations

import bisect
import contextlib
import os
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from network import FAIR, YEAR, Clock, Connection, Faults
from sides import Daemon, Lost, Sensor, Store, must, status_of

from sightlog import Event
from sightlog.errors import InvalidRecord, SpoolFull
from sightlog.protocol import messages
from sightlog.protocol.accounts import account
from sightlog.protocol.messages import DUPLICATE, REJECTED, START, STORED, Limits, Position
from sightlog.publisher import delivery
from sightlog.publisher.receipts import Receipt
from sightlog.spool import identity, spool
from sightlog.spool.segment import Segment

HEALTHY_SECONDS_MAX: Final = 3_000.0
"""So long everything may take to arrive once nothing fails any more."""
NARROW: Final = Limits(window_records=40, window_bytes=60_000, message_records_max=16, message_bytes_max=20_000)
WIDE: Final = Limits(window_records=1_000, window_bytes=1_000_000, message_records_max=500, message_bytes_max=500_000)
RECORDED_AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
ODDS: Final = {
    "cut": 0.1, "daemon": 0.05, "producer": 0.05, "refused": 0.3, "killed before commit": 0.05,
    "killed after commit": 0.1, "damage": 0.3, "wall clock": 0.1, "backup": 0.1, "restore": 0.04, "copied spool": 0.04,
}  # fmt: skip
ROOM: Final = Path("/dev/shm")
"""Spools are real files, and their place costs most of the time."""


@contextlib.contextmanager
def simulated(clock: Clock, draw: random.Random) -> Iterator[Path]:
    """The product's clocks and chances are those of the world, and nothing is fsynced; gives a place for spools."""
    chances = SimpleNamespace(randbits=draw.getrandbits)
    with contextlib.ExitStack() as stack:
        for module in (delivery, spool, identity):
            stack.enter_context(mock.patch.object(module, "time", clock))
        stack.enter_context(mock.patch.object(identity, "secrets", chances))
        stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
        stack.enter_context(mock.patch.object(os, "fdatasync", return_value=None))
        room = ROOM if os.access(ROOM, os.W_OK) else None
        yield Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sightlog-", dir=room)))


def run(
    seed: int,
    *,
    wild: bool,
    odds: Mapping[str, float] | None = None,
    daemon: type[Daemon] = Daemon,
    sensor: type[Sensor] = Sensor,
) -> World:
    """Raises AssertionError for a promise that was broken, with the way to repeat it. `odds`: not those drawn."""
    draw, clock = random.Random(seed), Clock()
    with simulated(clock, draw) as directory:
        world = World(draw, directory, clock, wild=wild, daemon=daemon, sensor=sensor)
        world.odds |= odds or {}
        try:
            world.run()
        except Exception as error:
            error.add_note(f"repeat: python tests/torture/world.py {seed} {'wild' if wild else 'ordered'}")
            raise
        finally:
            for each in world.sensors:
                each.close()
        return world


class World:
    """Two modes. Ordered: connections break, but each keeps what it delivers in order, as ZeroMQ does. Wild: within a
    connection messages are lost, repeated and overtaken too; what receipts say of single records is not checked then,
    because an ack that is lost takes their reasons along."""

    def __init__(
        self,
        draw: random.Random,
        directory: Path,
        clock: Clock,
        *,
        wild: bool,
        daemon: type[Daemon] = Daemon,
        sensor: type[Sensor] = Sensor,
    ) -> None:
        self.random, self.clock, self.directory = draw, clock, directory
        self._make_daemon, self._make_sensor = daemon, sensor
        # Not everything fails in every run, and not equally often.
        self.odds = {fault: draw.choice((0.0, often / 4, often)) for fault, often in ODDS.items()}
        # Each of the two makes a mess of its own.
        self.odds[draw.choice(("restore", "copied spool"))] = 0.0
        self.wild = wild
        self.faults = Faults(draw.choice((0.0, 0.1, 0.3)), draw.choice((0.0, 0.1, 0.3)), wild) if wild else FAIR
        self.limits = draw.choice((NARROW, WIDE))
        self.spool_bytes_max = draw.choice((40_000, 1_000_000))
        self.store = Store()
        self.backup = self.store.copy()
        self.routes = self.events = 0
        self.daemon: Daemon | None = daemon(self)
        self.daemon_back_at = 0.0
        self.published: defaultdict[str, list[str]] = defaultdict(list)
        self.damaged: set[str] = set()
        self.gone: set[str] = set()
        """Stored and acked, and not in the backup that was restored."""
        self.acked: defaultdict[str, Position] = defaultdict(lambda: START)
        """By producer, over all its lives."""
        self.accounts_are_off = self.has_copies = False
        self.happened: defaultdict[str, int] = defaultdict(int)
        self.sensors = [self.sensor(f"sensor{number}") for number in range(draw.choice((1, 1, 2, 3)))]

    def sensor(self, label: str) -> Sensor:
        # Lives of two copies that begin in the same millisecond cannot be told from each other.
        self.clock.wall += 0.002
        return self._make_sensor(self, self.directory / label, self.spool_bytes_max)

    def happens(self, fault: str) -> bool:
        odds = self.odds[fault]
        if odds and self.random.random() < odds:
            self.happened[fault] += 1
            return True
        return False

    # -- what happens ------------------------------------------------------------------------------------------------

    def publish(self, sensor: Sensor) -> None:
        events = []
        images = self.random.choice(((0,), (5,), (0, 0, 0, 5, 500, 8_000)))
        for _ in range(self.random.choice((1, 1, 1, 1, 4, 20))):
            self.events += 1
            image = b"\xff\xd8" * self.random.choice(images)
            events.append(Event("front", event_id=f"e{self.events}", recorded_at=RECORDED_AT, thumbnail=image))
        urgent = self.random.random() < 0.2
        try:
            receipt = sensor.publish(events[0], urgent=urgent) if len(events) == 1 else sensor.publish_many(events)
        except (SpoolFull, InvalidRecord):  # no room now, or never for so many at once
            return
        self.published[sensor.label] += [event.event_id for event in events]
        if self.random.random() < 0.7:
            sensor.receipts.append((receipt, [event.event_id for event in events]))

    def kill_daemon(self) -> None:
        self.daemon = None
        self.daemon_back_at = self.clock.now + self.random.choice((0.0, 0.5, 20.0))
        for sensor in self.sensors:
            sensor.dealer.cut()
            for connection in sensor.dealer.connections:
                connection.up.clear()

    def kill_producer(self, index: int) -> None:
        sensor = self.sensors[index]
        sensor.die()
        for path in sorted(sensor.directory.glob("*.spool"))[-1:]:
            data = path.read_bytes()
            torn = self.random.choice((b"", data[: self.random.randint(0, 20)]))
            if data and self.happens("damage"):
                data = self.damage(path, data)
            if path.name.startswith(f"{sensor._spool.epoch:015d}"):  # a life writes to files of its own
                data += torn
            path.write_bytes(data)
        self.sensors[index] = self.sensor(sensor.label)

    def damage(self, path: Path, data: bytes) -> bytes:
        """A flipped bit, or a stretch of zeros, in entries of which none is the last."""
        epoch, seq = map(int, path.stem.split("-"))
        segment = Segment(path, epoch, seq, seq, len(data))
        entries, offset = [], 0
        while offset < segment.size:
            some, offset = segment.read(offset, entries[-1][0] if entries else 0)
            entries += some
        segment.close()
        if len(entries) < 2:
            return data
        starts = [0, *(end for *_, end in entries)]
        hit = self.random.randrange(len(entries) - 1)
        begin = self.random.randrange(starts[hit], starts[hit + 1])
        if self.random.random() < 0.5:
            end = begin + 1
            spoilt = bytes([data[begin] ^ 1 << self.random.randrange(8)])
        else:
            end = self.random.randrange(begin + 1, starts[-2] + 1)
            spoilt = bytes(end - begin)
        for number, (_, record, _, entry_end) in enumerate(entries):
            if starts[number] < end and begin < entry_end and data[begin:end] != spoilt:
                self.damaged.add(messages.msgpack.unpackb(record)["event_id"])
        return data[:begin] + spoilt + data[end:]

    def copy_spool(self, sensor: Sensor) -> None:
        """A memory card is copied, and both run."""
        self.accounts_are_off = self.has_copies = True
        label = f"{sensor.label}-copy"
        shutil.copytree(sensor.directory, self.directory / label)
        self.sensors.append(self.sensor(label))

    def restore(self) -> None:
        """The database as it was when it was backed up last. What producers know to be stored they do not have."""
        self.kill_daemon()
        durable, self.accounts_are_off = self.store.durable, True
        for sensor in self.sensors:
            for connection in sensor.dealer.connections:
                connection.down.clear()  # no ack of the other database comes late
        for producer_id, row in self.store.producers.items():
            acked = bisect.bisect_right(row.positions, self.acked[producer_id])
            self.gone |= {event_id for event_id in row.resolved[:acked] if event_id not in self.backup.events}
        self.store = self.backup.copy()
        self.store.durable = durable

    def set_the_clock(self) -> None:
        jump = self.random.choice((-self.clock.wall, -20 * YEAR, -YEAR, -3_600.0, 3_600.0, YEAR, 20 * YEAR))
        self.clock.wall = max(0.0, self.clock.wall + jump)

    def connect(self) -> None:
        """libzmq connects again by itself; the daemon knows the new connection by a new route only."""
        for sensor in self.sensors:
            if self.daemon is not None and sensor.dealer.connection is None:
                self.routes += 1
                connection = Connection(b"\0%04d" % self.routes, self.clock, self.random, self.faults)
                sensor.dealer.connected(connection)
                self.daemon.connections[connection.route] = connection

    def step(self) -> None:
        if self.daemon is None and self.clock.now >= self.daemon_back_at:
            self.daemon = self._make_daemon(self)
        if self.random.random() < 0.5:
            self.connect()
        sides: list[Any] = [*self.sensors, self.daemon]
        self.random.shuffle(sides)
        for side in sides:
            if side is not None and (side is self.daemon or side in self.sensors):
                side.step()
        for index, sensor in enumerate(self.sensors):
            if sensor.is_fenced:
                must(self.has_copies, f"{sensor.label} was fenced: {sensor._book.ended}")
                sensor.die()
                self.sensors[index] = self.sensor(sensor.label)

    def fail_a_little(self) -> None:
        draw = self.random
        if draw.random() < 0.5:
            self.publish(draw.choice(self.sensors))
        if self.happens("cut"):
            draw.choice(self.sensors).dealer.cut()
        if self.happens("wall clock"):
            self.set_the_clock()
        if self.happens("backup"):
            self.backup = self.store.copy()
        if self.daemon is not None and self.happens("restore"):
            self.restore()
        if self.daemon is not None and self.happens("daemon"):
            self.kill_daemon()
        if self.happens("producer"):
            self.kill_producer(draw.randrange(len(self.sensors)))
        if len(self.sensors) < 4 and not self.has_copies and self.happens("copied spool"):
            self.copy_spool(draw.choice(self.sensors))

    def run(self) -> None:
        for _ in range(self.random.choice((30, 60, 120))):
            self.fail_a_little()
            self.step()
            self.clock.advance(self.random.choice((0.0, 0.001, 0.03, 0.3, 2.0)))
        self.odds = dict.fromkeys(self.odds, 0.0)
        self.faults = FAIR
        if self.wild:
            for sensor in self.sensors:
                sensor.dealer.cut()
        deadline = self.clock.now + HEALTHY_SECONDS_MAX
        while any(sensor.spooled for sensor in self.sensors):
            self.step()
            self.clock.advance(min(max(self.due() - self.clock.now, 0.001), 1.0))
            if self.clock.now >= deadline:
                raise Lost(f"stands still: {[(sensor.spooled, vars(sensor._link)) for sensor in self.sensors]}")
        self.check()

    def due(self) -> float:
        """When something happens next."""
        sides = [min(sensor.sleeps_until, sensor.dealer.due) for sensor in self.sensors]
        return min(*sides, self.daemon.due if self.daemon is not None else self.daemon_back_at)

    # -- what must hold at the end -----------------------------------------------------------------------------------

    def check(self) -> None:
        everything = list(self.store.events)
        for label, published in self.published.items():
            missing = set(published) - self.store.events.keys()
            must(missing <= self.damaged | self.gone, f"{label}: published, and neither stored nor damaged")
            # What the spool lost its copy may still have.
            late = self.damaged if self.has_copies else set()
            mine = set(published) - missing - late
            stored = [event_id for event_id in everything if event_id in mine]
            must(stored == [event_id for event_id in published if event_id in mine], f"{label}: out of order")
        for sensor in self.sensors:
            if not self.has_copies:
                self.check_account(sensor)
            for receipt, event_ids in sensor.receipts:
                self.check_receipt(receipt, event_ids)

    def check_account(self, sensor: Sensor) -> None:
        published, row = self.published[sensor.label], self.store.producers[sensor.producer_id]
        missing = set(published) - self.store.events.keys()
        must(
            row.resolved == [event_id for event_id in published if event_id not in missing],
            "the producer's row differs",
        )
        must(sensor.published == len(published), "the lives do not add up")
        must(len(missing - self.gone) <= sensor.lost <= len(self.damaged), "losses are not told")
        told = sensor.told()
        found = account(told, self.store.count(sensor.producer_id))
        if found is None:
            must(told.last.seq == 0, "no account")
            return  # nothing of this life was ever told
        # After an older database was restored the two sides may not know of a loss: the account is open then.
        lost = found.lost + found.difference if self.gone else found.lost
        must((found.published, found.spooled, lost) == (len(published), 0, len(missing)), (found, len(missing)))
        must(found.difference >= 0 if self.gone else found.difference == 0, found)

    def check_receipt(self, receipt: Any, event_ids: list[str]) -> None:
        must(receipt.settled, f"a receipt of {event_ids[0]} is open")
        if self.wild or self.has_copies:
            return
        expected = [status_of(event_id) for event_id in event_ids]
        if isinstance(receipt, Receipt):
            must(receipt.wait(0) == expected[0], f"{event_ids[0]}: {receipt.wait(0)}")
            return
        result = receipt.wait(0)
        found = (result.stored, result.duplicates, result.rejected)
        must(found == tuple(map(expected.count, (STORED, DUPLICATE, REJECTED))), f"{event_ids}: {result}")
        must(sorted(result.reasons) == [n for n, status in enumerate(expected) if status != STORED], result)


if __name__ == "__main__":
    run(int(sys.argv[1]), wild=sys.argv[2] == "wild")
